//! Audit I1: one writer at every instant, from the shelf's own log.
//!
//! Think of the guest book of a house with one key to each room. Whoever wrote in the book under a
//! key that had been handed on would show: the hand-over has a place in the order of the book, and
//! no entry of the old holder may follow it. The shelf writes that book below both controllers, so
//! it cannot be talked into anything; this file only reads it.
//!
//! For the disks of one pool, over all of them in the shelf's order:
//!
//! * a data write that was accepted came under the key that held the reservation at that instant;
//! * once another key has written, an earlier key never writes again (keys carry epoch and claim
//!   generation and are never used twice, so an owner who comes back has a new one).
//!
//! Before a pool is first reserved its disks may be written without a key: it is being made.

use pollux_api::id::{ControllerId, DiskIndex};

/// An accepted change of data, as far as this audit cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataWrite {
    /// Place in the log.
    pub sequence: u64,
    /// When (CLOCK_MONOTONIC ns).
    pub at_ns: u64,
    /// Which disk.
    pub disk: DiskIndex,
    /// Through whose port.
    pub port: Option<ControllerId>,
    /// Key of the writer; zero if not registered.
    pub key: u64,
    /// Key of the reservation's holder; zero if none.
    pub holder: u64,
}

/// A hand-over of a pool from one key to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tenure {
    /// Through whose port.
    pub port: Option<ControllerId>,
    /// Under which key.
    pub key: u64,
    /// First write (CLOCK_MONOTONIC ns).
    pub first_ns: u64,
    /// Last write.
    pub last_ns: u64,
    /// How many.
    pub writes: u64,
}

/// What the log shows of one pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exclusion {
    /// Who wrote, in order.
    pub tenures: Vec<Tenure>,
    /// Writes that break the rule, with the reason.
    pub breaches: Vec<(DataWrite, &'static str)>,
}

/// Reads the accepted writes of one pool's disks, in the order of the log.
pub fn examine(writes: impl IntoIterator<Item = DataWrite>) -> Exclusion {
    let mut found = Exclusion::default();
    for write in writes {
        let known = found
            .tenures
            .iter()
            .position(|t| (t.port, t.key) == (write.port, write.key));
        let reserved_before = found.tenures.iter().any(|tenure| tenure.key != 0);
        let breach = match known {
            Some(at) if at + 1 < found.tenures.len() => Some("its key had been superseded by a later writer"),
            _ if write.key == 0 && reserved_before => {
                Some("written without a key after the pool was reserved")
            }
            _ if write.key != write.holder && write.key != 0 => {
                Some("written under a key that did not hold the reservation")
            }
            _ => None,
        };
        if let Some(reason) = breach {
            found.breaches.push((write, reason));
            continue;
        }
        match known {
            Some(at) => {
                let tenure = &mut found.tenures[at];
                tenure.last_ns = write.at_ns;
                tenure.writes += 1;
            }
            None => found.tenures.push(Tenure {
                port: write.port,
                key: write.key,
                first_ns: write.at_ns,
                last_ns: write.at_ns,
                writes: 1,
            }),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(sequence: u64, port: ControllerId, key: u64, holder: u64) -> DataWrite {
        let disk = DiskIndex::new(3 + (sequence % 2) as u16);
        DataWrite {
            sequence,
            at_ns: sequence * 10,
            disk,
            port: Some(port),
            key,
            holder,
        }
    }

    use ControllerId::{A, B};

    #[test]
    fn an_ordered_hand_over_is_right() {
        let found = examine([
            write(1, A, 0, 0),
            write(2, A, 7, 7),
            write(3, A, 7, 7),
            write(4, B, 8, 8),
            write(5, A, 9, 9),
        ]);
        assert_eq!(found.breaches, []);
        let keys: Vec<u64> = found.tenures.iter().map(|tenure| tenure.key).collect();
        assert_eq!(keys, [0, 7, 8, 9]);
        assert_eq!(found.tenures[1].writes, 2);
    }

    #[test]
    fn each_breach_is_seen() {
        let late = examine([write(1, A, 7, 7), write(2, B, 8, 8), write(3, A, 7, 7)]);
        assert_eq!(late.breaches.len(), 1, "a late write of the old owner");
        let unkeyed = examine([write(1, A, 7, 7), write(2, B, 0, 7)]);
        assert_eq!(unkeyed.breaches.len(), 1, "no key");
        let second = examine([write(1, A, 7, 7), write(2, B, 8, 7)]);
        assert_eq!(
            second.breaches.len(),
            1,
            "registered, but somebody else holds the reservation"
        );
        let unreserved = examine([write(1, A, 7, 7), write(2, A, 7, 0)]);
        assert_eq!(unreserved.breaches.len(), 1, "the reservation was lost");
    }
}
