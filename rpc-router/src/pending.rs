//! The cloakroom: for every call that is on its way, a ticket, and behind the ticket to whom the answer goes.
//!
//! A ticket is the number of a hook and how often that hook was used, so a ticket that comes back late never gets
//! somebody else's coat. It is the `id` under which the router passes a request on.
//!
//! A pure table: deadlines are compared with the time that the caller gives.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// What the router writes as the `id` of a request: slot and generation in one number below 2^53, which every JSON
/// implementation can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

const SLOT_BITS: u32 = 20;
const GENERATIONS: u64 = 1 << 32;

impl Ticket {
    fn new(slot: usize, generation: u64) -> Self {
        Self((generation << SLOT_BITS) | slot as u64)
    }

    fn slot(self) -> usize {
        (self.0 & ((1 << SLOT_BITS) - 1)) as usize
    }

    fn generation(self) -> u64 {
        self.0 >> SLOT_BITS
    }

    /// Reads the `id` of an answer; `None` for one that no router wrote.
    pub fn parse(id: &str) -> Option<Self> {
        id.parse().ok().map(Self)
    }

    /// Its digits, in memory of the caller.
    pub fn write(self, digits: &mut [u8; 20]) -> &str {
        let (mut value, mut first) = (self.0, digits.len());
        loop {
            first -= 1;
            digits[first] = b'0' + u8::try_from(value % 10).unwrap_or_default();
            value /= 10;
            if value == 0 {
                break;
            }
        }
        std::str::from_utf8(&digits[first..]).unwrap_or_default()
    }
}

impl std::fmt::Display for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

#[derive(Debug)]
struct Slot<T> {
    generation: u64,
    entry: Option<(u64, T)>,
}

/// Entries by ticket and by deadline.
///
/// Nearly every entry is taken long before its deadline, so the queue of deadlines is not kept clean: it may name
/// tickets that are no good any more. They are skipped when they come up, and swept when they are the most.
#[derive(Debug)]
pub struct Pending<T> {
    slots: Vec<Slot<T>>,
    free: Vec<usize>,
    deadlines: BinaryHeap<Reverse<(u64, Ticket)>>,
    capacity: usize,
}

/// So many tickets more than twice the good ones are swept.
const SWEEP: usize = 1024;

impl<T> Pending<T> {
    /// For at most `capacity` entries (below 2^20).
    pub fn new(capacity: usize) -> Self {
        assert!(
            capacity < 1 << SLOT_BITS,
            "a ticket has {SLOT_BITS} bits for the slot"
        );
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            deadlines: BinaryHeap::new(),
            capacity,
        }
    }

    /// Keeps an entry until `deadline`; gives it back when there is no room.
    pub fn insert(&mut self, deadline: u64, entry: T) -> Result<Ticket, T> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if self.slots.len() < self.capacity => {
                self.slots.push(Slot {
                    generation: 0,
                    entry: None,
                });
                self.slots.len() - 1
            }
            None => return Err(entry),
        };
        let kept = &mut self.slots[slot];
        kept.generation = (kept.generation + 1) % GENERATIONS;
        kept.entry = Some((deadline, entry));
        let ticket = Ticket::new(slot, kept.generation);
        if self.deadlines.len() > 2 * (self.slots.len() - self.free.len()) + SWEEP {
            let good = |Reverse((_, ticket)): &Reverse<(u64, Ticket)>| good(&self.slots, *ticket);
            self.deadlines.retain(good);
        }
        self.deadlines.push(Reverse((deadline, ticket)));
        Ok(ticket)
    }

    /// The entry behind a ticket, if the ticket is still good.
    pub fn get(&self, ticket: Ticket) -> Option<&T> {
        let slot = self
            .slots
            .get(ticket.slot())
            .filter(|slot| slot.generation == ticket.generation())?;
        slot.entry.as_ref().map(|(_, entry)| entry)
    }

    /// Takes the entry behind a ticket, if the ticket is still good.
    pub fn take(&mut self, ticket: Ticket) -> Option<T> {
        let slot = self
            .slots
            .get_mut(ticket.slot())
            .filter(|slot| slot.generation == ticket.generation())?;
        let (_, entry) = slot.entry.take()?;
        self.free.push(ticket.slot());
        Some(entry)
    }

    /// Takes one entry whose deadline is not after `now`.
    pub fn take_expired(&mut self, now: u64) -> Option<T> {
        while self.earliest()? <= now {
            let Reverse((_, ticket)) = self.deadlines.pop()?;
            if let Some(entry) = self.take(ticket) {
                return Some(entry);
            }
        }
        None
    }

    /// Tickets of the entries for which `predicate` holds, in the order of their slots.
    pub fn matching(&self, predicate: impl Fn(&T) -> bool) -> Vec<Ticket> {
        let matching = |(slot, kept): (usize, &Slot<T>)| {
            let (_, entry) = kept.entry.as_ref()?;
            predicate(entry).then(|| Ticket::new(slot, kept.generation))
        };
        self.slots.iter().enumerate().filter_map(matching).collect()
    }

    /// The earliest deadline.
    pub fn next_deadline(&mut self) -> Option<u64> {
        loop {
            let &Reverse((deadline, ticket)) = self.deadlines.peek()?;
            if good(&self.slots, ticket) {
                return Some(deadline);
            }
            self.deadlines.pop();
        }
    }

    /// A time that is not after the earliest deadline; none only if there is no entry.
    pub fn earliest(&self) -> Option<u64> {
        self.deadlines.peek().map(|Reverse((deadline, _))| *deadline)
    }
}

fn good<T>(slots: &[Slot<T>], ticket: Ticket) -> bool {
    slots
        .get(ticket.slot())
        .is_some_and(|slot| slot.generation == ticket.generation() && slot.entry.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[test]
    fn a_late_ticket_gets_nobody_elses_coat() {
        let mut pending = Pending::new(1);
        let first = pending.insert(1, "first").unwrap();
        assert_eq!(pending.insert(1, "no room"), Err("no room"));
        assert_eq!(pending.take(first), Some("first"));
        let second = pending.insert(1, "second").unwrap();
        assert_eq!(second.slot(), first.slot());
        assert_eq!(pending.take(first), None);
        assert_eq!(pending.get(second), Some(&"second"));
    }

    #[test]
    fn tickets_that_are_no_good_any_more_are_swept() {
        let mut pending = Pending::new(16);
        let kept = pending.insert(1 << 40, 0).unwrap();
        for n in 1..100_000 {
            let ticket = pending.insert(n, n).unwrap();
            assert_eq!(pending.take(ticket), Some(n));
            assert!(pending.deadlines.len() <= 2 * 16 + SWEEP + 1);
        }
        assert_eq!(pending.next_deadline(), Some(1 << 40));
        assert_eq!(pending.take(kept), Some(0));
        assert_eq!(pending.next_deadline(), None);
        let mut digits = [0; 20];
        assert_eq!(kept.write(&mut digits), kept.to_string());
    }

    proptest! {
        #[test]
        fn it_holds_what_a_map_would(steps in proptest::collection::vec((any::<u8>(), 0..50u64), 1..200)) {
            let (mut pending, mut model, mut old) = (Pending::new(16), HashMap::new(), Vec::new());
            for (n, (choice, number)) in steps.into_iter().enumerate() {
                match choice % 3 {
                    0 => match pending.insert(number, n) {
                        Ok(ticket) => prop_assert!(model.insert(ticket, (number, n)).is_none()),
                        Err(_) => prop_assert_eq!(model.len(), 16),
                    },
                    1 => if let Some(&ticket) = model.keys().min() {
                        prop_assert_eq!(pending.take(ticket), model.remove(&ticket).map(|(_, n)| n));
                        old.push(ticket);
                    },
                    _ => while let Some(n) = pending.take_expired(number) {
                        let ticket = *model.iter().find(|(_, entry)| entry.1 == n).unwrap().0;
                        prop_assert!(model.remove(&ticket).unwrap().0 <= number);
                        old.push(ticket);
                    },
                }
                prop_assert_eq!(pending.next_deadline(), model.values().map(|entry| entry.0).min());
                prop_assert!(old.iter().all(|ticket| pending.get(*ticket).is_none()));
            }
        }
    }
}
