//! A keeper that is alone and open, on a database: what several tests drive.

#![allow(dead_code, unreachable_pub, reason = "each test takes what it needs")]

use pollux_api::action::ActionId;
use pollux_api::config::{Change, Changed, EpochRecord, LogHash, Op, SetEpoch};
use pollux_api::id::{ArrayId, ControllerId, Epoch, Incarnation};
use pollux_config_core::keeper::{Answer, Effect, Event, KEPT, Keeper};
use pollux_config_core::plan::Site;
use pollux_config_keeper::store::{Opened, Report, Store, Way, Writer};
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};

pub const ARRAY: ArrayId = ArrayId::from_bytes([7; 16]);

pub fn action(number: u64) -> ActionId {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    ActionId::from_bytes(bytes)
}

pub fn change(number: u64) -> Change {
    let op = Op::CreateHost {
        name: format!("h{number}"),
        iqns: vec![format!("iqn.2026-01.test:h{number}")],
    };
    Change {
        ops: vec![op],
        expected_index: None,
        dry_run: false,
    }
}

/// A keeper that is alone and open, on a database.
pub struct Alone {
    pub keeper: Keeper,
    pub writer: Writer,
    pub reports: Receiver<Report>,
}

impl Alone {
    pub fn open(path: &Path) -> Self {
        Self::on(Store::open_or_replace(path, ARRAY, &Way::default()).unwrap())
    }

    pub fn on(opened: (Store, Opened)) -> Self {
        Self::keeping(opened, KEPT)
    }

    /// So many entries of the log are kept.
    pub fn keeping((store, Opened { loaded, .. }): (Store, Opened), keep: u64) -> Self {
        let keeper = Keeper::load(ControllerId::A, None, Site::default(), loaded).unwrap();
        let keeper = keeper.keeping(keep);
        let (sender, reports) = channel();
        let writer = store.spawn(move |report| drop(sender.send(report)));
        let mut alone = Self {
            keeper,
            writer,
            reports,
        };
        let members = vec![(ControllerId::A, Incarnation::new(1))];
        let record = EpochRecord {
            epoch: Epoch::new(1),
            members,
            open: true,
            base_length: 0,
            base_hash: LogHash::default(),
            quorum: Vec::new(),
        };
        alone.handle(Event::SetEpoch {
            request: 0,
            set: SetEpoch {
                record,
                lock: None,
                incarnation: None,
            },
        });
        alone
    }

    pub fn handle(&mut self, event: Event) -> Vec<Changed> {
        let mut answers = vec![];
        for effect in self.keeper.handle(event) {
            match effect {
                Effect::Store { serial, job } => self.writer.job(serial, job),
                Effect::Answer { answer, .. } => match answer.unwrap() {
                    Answer::Changed(changed) => answers.push(changed),
                    other => assert_eq!(other, Answer::Done),
                },
                _ => {}
            }
        }
        answers
    }

    /// Waits for the store, once.
    pub fn stored(&mut self) -> Vec<Changed> {
        loop {
            match self.reports.recv().unwrap() {
                Report::Stored(serial) => return self.handle(Event::Stored { serial }),
                Report::Failed(what) => panic!("{what}"),
                Report::Room(_) => {}
            }
        }
    }

    /// Asks for changes, one after the other, until each is acknowledged.
    pub fn changes(&mut self, numbers: impl IntoIterator<Item = u64>) -> &mut Self {
        for number in numbers {
            let mut answers = self.handle(Event::Change {
                request: 1,
                action: action(number),
                change: change(number),
            });
            while answers.is_empty() {
                answers = self.stored();
            }
        }
        self
    }

    /// Waits until everything that was asked of the store is done.
    pub fn done(&self) {
        let (sender, found) = channel();
        self.writer.verify(move |verified| drop(sender.send(verified)));
        assert_eq!(found.recv().unwrap().unwrap().problems, Vec::<String>::new());
    }
}
