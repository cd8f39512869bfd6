//! A reader who keeps up: what to ask next, and what the configuration is once all has come.
//!
//! ```text
//! nothing --Snapshot--> whole --Changes--> whole ...
//!    |                    ^
//!    +--Part--> parts --Part (last)--> catching up --Changes up to the last part--+
//! ```
//!
//! Parts are of different ages: rows that were read late may know more than rows that were read early. Applying every
//! change since the first part once more makes one age of them, because a change says what a row *is*.
//!
//! Never: tables shown that are not of one age; an answer taken for another question ([`Follower::take`] is told of each
//! answer in the order of the questions).

use super::{Key, LogHash, RowOp, Show, Tables, Watch, Watched};

/// Follows the configuration: [`Self::ask`], [`Self::take`], and again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Follower {
    state: State,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Nothing,
    /// Parts came, and more are to come.
    Parts {
        tables: Tables,
        first: (u64, LogHash),
        behind: Option<Key>,
    },
    /// All parts have come; changes are wanted up to the age of the last.
    CatchingUp {
        tables: Tables,
        at: (u64, LogHash),
        goal: u64,
    },
    Whole {
        tables: Tables,
        at: (u64, LogHash),
    },
}

impl Follower {
    /// What to ask; waits at most so long for news once it has everything.
    #[must_use]
    pub fn ask(&self, wait_ms: u64) -> Watch {
        let (after, part_after, wait_ms) = match &self.state {
            State::Nothing => (None, None, wait_ms),
            State::Parts { behind, .. } => (None, *behind, 0),
            State::CatchingUp { at, .. } | State::Whole { at, .. } => (Some(*at), None, wait_ms),
        };
        Watch {
            after,
            wait_ms,
            part_after,
            read: None,
        }
    }

    /// The first question of somebody who wants everything once, as `show` says.
    #[must_use]
    pub fn begin(show: Show) -> Watch {
        Watch {
            read: Some(show),
            ..Self::default().ask(0)
        }
    }

    /// Takes the answer in; true: there is something new to see.
    pub fn take(&mut self, answer: Watched) -> bool {
        let state = core::mem::take(&mut self.state);
        let (state, fresh) = match (state, answer) {
            (_, Watched::Snapshot(snapshot)) => {
                let at = (snapshot.as_of, snapshot.hash);
                let tables = snapshot.tables;
                (State::Whole { tables, at }, true)
            }
            (state, Watched::Part(part)) => {
                let at = (part.as_of, part.hash);
                let (mut tables, first) = match state {
                    State::Parts { tables, first, .. } => (tables, first),
                    // The first of a new snapshot.
                    _ => (Tables::default(), at),
                };
                let behind = part.rows.last().map(super::Resource::key);
                part.rows
                    .into_iter()
                    .for_each(|row| tables.apply(&RowOp::Put(row)));
                match (part.more, behind) {
                    (true, Some(_)) => (
                        State::Parts {
                            tables,
                            first,
                            behind,
                        },
                        false,
                    ),
                    // More without a row to go on from is no answer: from the beginning.
                    (true, None) => (State::Nothing, false),
                    (false, _) if first.0 >= part.as_of => (State::Whole { tables, at: first }, true),
                    (false, _) => {
                        let goal = part.as_of;
                        let at = first;
                        (State::CatchingUp { tables, at, goal }, false)
                    }
                }
            }
            (
                State::CatchingUp {
                    mut tables,
                    mut at,
                    goal,
                },
                Watched::Changes(entries),
            ) => {
                for entry in entries {
                    entry.rows.iter().for_each(|row| tables.apply(row));
                    at = (entry.index, entry.hash);
                }
                if at.0 < goal {
                    (State::CatchingUp { tables, at, goal }, false)
                } else {
                    (State::Whole { tables, at }, true)
                }
            }
            (State::Whole { mut tables, mut at }, Watched::Changes(entries)) => {
                let fresh = !entries.is_empty();
                for entry in entries {
                    entry.rows.iter().for_each(|row| tables.apply(row));
                    at = (entry.index, entry.hash);
                }
                (State::Whole { tables, at }, fresh)
            }
            // The keeper has nothing to show yet.
            (state @ (State::Nothing | State::Parts { .. }), Watched::Changes(_)) => (state, false),
        };
        self.state = state;
        fresh
    }

    /// Everything, and the index and hash of the last change in it; none: it has not all come.
    #[must_use]
    pub fn tables(&self) -> Option<(&Tables, (u64, LogHash))> {
        match &self.state {
            State::Whole { tables, at } => Some((tables, *at)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Hex, Host, HostId, LogEntry, Part, Resource, Snapshot};
    use super::*;
    use crate::action::ActionId;
    use crate::id::{ControllerId, Epoch};
    use alloc::{format, vec, vec::Vec};

    fn host(number: u8, age: u64) -> Resource {
        Resource::Host(Host {
            id: HostId(Hex([number; 16])),
            name: format!("h{number}-{age}"),
            iqns: vec![],
        })
    }

    /// Change `index` of a history in which each change puts or deletes one of nine hosts.
    fn entry(index: u64) -> LogEntry {
        let number = (index * 7 % 9) as u8;
        let row = if index.is_multiple_of(5) {
            RowOp::Delete(host(number, 0).key())
        } else {
            RowOp::Put(host(number, index))
        };
        LogEntry {
            index,
            epoch: Epoch::new(1),
            session: 0,
            action_id: ActionId::from_bytes([0; 16]),
            request: Hex([0; 32]),
            rows: vec![row],
            format: 1,
            previous: hash(index - 1),
            hash: hash(index),
        }
    }

    fn hash(index: u64) -> LogHash {
        Hex([index as u8; 32])
    }

    fn at(index: u64) -> Tables {
        let mut tables = Tables::default();
        (1..=index).for_each(|index| entry(index).rows.iter().for_each(|row| tables.apply(row)));
        tables
    }

    /// A keeper of small messages, whose configuration grows by `pace` changes with every question.
    fn follow(start: u64, pace: u64, rows: usize, questions: usize) -> (Follower, Vec<u64>) {
        let (mut follower, mut seen, mut index) = (Follower::default(), vec![], start);
        for _ in 0..questions {
            let watch = follower.ask(10);
            let answer = match watch.after {
                Some((after, _)) => {
                    let upto = index.min(after + 3);
                    Watched::Changes((after + 1..=upto).map(entry).collect())
                }
                None => {
                    let tables = at(index);
                    let mut left = tables.rows_after(watch.part_after);
                    let part: Vec<_> = left.by_ref().take(rows).collect();
                    Watched::Part(Part {
                        controller: ControllerId::A,
                        as_of: index,
                        hash: hash(index),
                        rows: part,
                        more: left.next().is_some(),
                    })
                }
            };
            if follower.take(answer) {
                let (tables, (index, _)) = follower.tables().unwrap();
                assert_eq!(*tables, at(index), "not of one age at {index}");
                seen.push(index);
            }
            index += pace;
        }
        (follower, seen)
    }

    #[test]
    fn parts_of_different_ages_become_one() {
        for start in 0..40 {
            for pace in 0..3 {
                for rows in 1..5 {
                    let (follower, seen) = follow(start, pace, rows, 60);
                    assert!(!seen.is_empty(), "start {start}, pace {pace}, {rows} rows");
                    assert!(seen.is_sorted());
                    assert!(follower.tables().is_some());
                }
            }
        }
    }

    #[test]
    fn a_snapshot_replaces_everything_and_nothing_is_shown_before_there_is_one() {
        let mut follower = Follower::default();
        assert!(!follower.take(Watched::Changes(vec![])) && follower.tables().is_none());
        let snapshot = |index| {
            Watched::Snapshot(Snapshot {
                controller: ControllerId::A,
                as_of: index,
                hash: hash(index),
                tables: at(index),
            })
        };
        assert!(follower.take(snapshot(7)));
        assert_eq!(follower.ask(5).after, Some((7, hash(7))));
        assert!(!follower.take(Watched::Changes(vec![])));
        assert!(follower.take(Watched::Changes(vec![entry(8)])));
        assert_eq!(follower.tables(), Some((&at(8), (8, hash(8)))));
        assert!(follower.take(snapshot(3)), "a history that lost its place");
        assert_eq!(follower.tables(), Some((&at(3), (3, hash(3)))));
    }

    #[test]
    fn rows_behind_a_row_are_the_rest_of_all_rows() {
        let tables = at(30);
        let all: Vec<_> = tables.rows().collect();
        assert!(all.len() > 4);
        assert_eq!(tables.rows_after(None).collect::<Vec<_>>(), all);
        for (number, row) in all.iter().enumerate() {
            let rest: Vec<_> = tables.rows_after(Some(row.key())).collect();
            assert_eq!(rest, all[number + 1..]);
        }
    }
}
