//! Persistent reservations of one disk (SPC-4, PERSISTENT RESERVE): a function from state and command to state and
//! outcome, nothing else.
//!
//! Keys belong to initiator ports. The rules that fencing stands on:
//! * a port without a registration neither writes (any exclusive type) nor reads (exclusive access);
//! * PREEMPT removes *every* registration with the victim's key; if that key held the reservation, the preempting port
//!   holds it afterwards; a key that nobody has is a conflict, never a silent success;
//! * a holder that unregisters releases the reservation;
//! * PRgeneration grows with register, clear and preempt, not with reserve and release.

use pollux_block_frame::{
    FullStatus, Key, Port, Registrant, Reservation, ReservationOut, ReservationType, Status,
};
use std::collections::BTreeMap;

/// What a command does to the medium, as far as reservations care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    /// Writes, unmap, compare-and-write, and flush, which SBC-3 counts among them.
    Write,
}

/// Registrations and reservation of one disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Reservations {
    generation: u32,
    keys: BTreeMap<Port, Key>,
    held: Option<(Port, ReservationType)>,
}

/// What a successful PERSISTENT RESERVE OUT entails.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Ports whose commands in flight have to be aborted before it is answered.
    pub(super) abort: Vec<Port>,
}

impl Reservations {
    pub(super) fn from_status(status: &FullStatus) -> Self {
        Reservations {
            generation: status.generation,
            keys: status
                .registrants
                .iter()
                .map(|entry| (entry.port, entry.key))
                .collect(),
            held: status.reservation.map(|held| (held.port, held.kind)),
        }
    }

    pub(super) fn status(&self) -> FullStatus {
        FullStatus {
            generation: self.generation,
            registrants: self
                .keys
                .iter()
                .map(|(&port, &key)| Registrant { port, key })
                .collect(),
            reservation: self.held.and_then(|(port, kind)| {
                Some(Reservation {
                    port,
                    kind,
                    key: *self.keys.get(&port)?,
                })
            }),
        }
    }

    /// The key under which `port` is registered; zero if it is not.
    pub(super) fn key_of(&self, port: Port) -> Key {
        self.keys.get(&port).copied().unwrap_or_default()
    }

    /// The key that holds the reservation; zero if nobody does.
    pub(super) fn holder(&self) -> Key {
        self.held.map_or(Key(0), |(port, _)| self.key_of(port))
    }

    pub(super) fn permits(&self, port: Port, access: Access) -> bool {
        let Some((holder, kind)) = self.held else {
            return true;
        };
        match (kind, access) {
            (
                ReservationType::WriteExclusive | ReservationType::WriteExclusiveRegistrantsOnly,
                Access::Read,
            ) => true,
            (ReservationType::WriteExclusive | ReservationType::ExclusiveAccess, _) => holder == port,
            (ReservationType::WriteExclusiveRegistrantsOnly, Access::Write)
            | (ReservationType::ExclusiveAccessRegistrantsOnly, _) => self.keys.contains_key(&port),
        }
    }

    /// The state after `out` by `port`. A refused command changes nothing.
    pub(super) fn apply(&self, port: Port, out: ReservationOut) -> Result<(Self, Outcome), Status> {
        let mut next = self.clone();
        let registered = self.keys.get(&port).copied();
        let must_be = |key: Key| match registered {
            Some(mine) if mine == key => Ok(()),
            _ => Err(Status::ReservationConflict),
        };
        let mut outcome = Outcome::default();
        match out {
            ReservationOut::Register { current, new } => {
                if registered.unwrap_or_default() != current {
                    return Err(Status::ReservationConflict);
                }
                next.register(port, new);
            }
            ReservationOut::RegisterAndIgnore { new } => next.register(port, new),
            ReservationOut::Reserve { key, kind } => {
                must_be(key)?;
                match self.held {
                    None => next.held = Some((port, kind)),
                    Some(held) if held == (port, kind) => {}
                    Some(_) => return Err(Status::ReservationConflict),
                }
            }
            ReservationOut::Release { key, kind } => {
                must_be(key)?;
                match self.held {
                    Some((holder, held)) if holder == port => {
                        if held != kind {
                            return Err(Status::BadRequest);
                        }
                        next.held = None;
                    }
                    _ => {}
                }
            }
            ReservationOut::Clear { key } => {
                must_be(key)?;
                next.keys.clear();
                next.held = None;
                next.bump();
            }
            ReservationOut::Preempt {
                key,
                victim,
                kind,
                abort,
            } => {
                must_be(key)?;
                if victim == Key(0) {
                    return Err(Status::BadRequest);
                }
                let victims: Vec<Port> = self
                    .keys
                    .iter()
                    .filter(|(_, key)| **key == victim)
                    .map(|(port, _)| *port)
                    .collect();
                if victims.is_empty() {
                    return Err(Status::ReservationConflict);
                }
                next.keys.retain(|other, key| *key != victim || *other == port);
                if self.held.is_some() && self.holder() == victim {
                    next.held = Some((port, kind));
                }
                next.bump();
                if abort {
                    outcome.abort = victims.into_iter().filter(|other| *other != port).collect();
                }
            }
        }
        Ok((next, outcome))
    }

    fn register(&mut self, port: Port, new: Key) {
        if new != Key(0) {
            self.keys.insert(port, new);
        } else if self.keys.remove(&port).is_some() && self.held.is_some_and(|(holder, _)| holder == port) {
            self.held = None;
        }
        self.bump();
    }

    fn bump(&mut self) {
        self.generation = self.generation.wrapping_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ReservationOut::*;

    const WERO: ReservationType = ReservationType::WriteExclusiveRegistrantsOnly;
    const A: Port = Port::A;
    const B: Port = Port::B;
    const KA: Key = Key(0xa);
    const KB: Key = Key(0xb);

    fn after(steps: &[(Port, ReservationOut)]) -> Reservations {
        steps.iter().fold(Reservations::default(), |state, (port, out)| {
            state
                .apply(*port, *out)
                .unwrap_or_else(|status| panic!("{port} {out:?}: {status:?}"))
                .0
        })
    }

    fn owned_by_a() -> Reservations {
        after(&[
            (A, RegisterAndIgnore { new: KA }),
            (A, Reserve { key: KA, kind: WERO }),
        ])
    }

    #[test]
    fn registrants_only_write_and_everybody_reads() {
        let state = owned_by_a();
        assert!(state.permits(A, Access::Write));
        assert!(state.permits(B, Access::Read));
        assert!(!state.permits(B, Access::Write));
        let (state, _) = state.apply(B, RegisterAndIgnore { new: KB }).expect("register");
        assert!(
            state.permits(B, Access::Write),
            "a registrant writes, whoever holds"
        );
        assert_eq!(state.holder(), KA);
    }

    #[test]
    fn preempt_takes_the_reservation_and_names_whom_to_abort() {
        let state = owned_by_a()
            .apply(B, RegisterAndIgnore { new: KB })
            .expect("register")
            .0;
        let preempt = Preempt {
            key: KB,
            victim: KA,
            kind: WERO,
            abort: true,
        };
        let (state, outcome) = state.apply(B, preempt).expect("preempt");
        assert_eq!(outcome.abort, [A]);
        assert_eq!(state.status().registrants, [Registrant { port: B, key: KB }]);
        assert_eq!(
            state.status().reservation,
            Some(Reservation {
                port: B,
                key: KB,
                kind: WERO
            })
        );
        assert!(!state.permits(A, Access::Write));
        assert_eq!(
            state.apply(B, preempt),
            Err(Status::ReservationConflict),
            "a key that nobody has any more cannot be preempted"
        );
    }

    #[test]
    fn refused_commands() {
        let state = owned_by_a();
        for (port, out, status) in [
            (B, Reserve { key: KB, kind: WERO }, Status::ReservationConflict),
            (B, Reserve { key: KA, kind: WERO }, Status::ReservationConflict),
            (B, Clear { key: KA }, Status::ReservationConflict),
            (
                B,
                Preempt {
                    key: KB,
                    victim: KA,
                    kind: WERO,
                    abort: true,
                },
                Status::ReservationConflict,
            ),
            (
                A,
                Preempt {
                    key: KA,
                    victim: Key(0),
                    kind: WERO,
                    abort: false,
                },
                Status::BadRequest,
            ),
            (
                A,
                Preempt {
                    key: KA,
                    victim: Key(9),
                    kind: WERO,
                    abort: false,
                },
                Status::ReservationConflict,
            ),
            (A, Register { current: KB, new: KB }, Status::ReservationConflict),
            (B, Register { current: KA, new: KB }, Status::ReservationConflict),
            (
                A,
                Reserve {
                    key: KA,
                    kind: ReservationType::WriteExclusive,
                },
                Status::ReservationConflict,
            ),
            (
                A,
                Release {
                    key: KA,
                    kind: ReservationType::WriteExclusive,
                },
                Status::BadRequest,
            ),
            (A, Release { key: KB, kind: WERO }, Status::ReservationConflict),
        ] {
            assert_eq!(state.apply(port, out), Err(status), "{port} {out:?}");
        }
    }

    #[test]
    fn unregistering_holder_releases() {
        let (state, _) = owned_by_a()
            .apply(
                A,
                Register {
                    current: KA,
                    new: Key(0),
                },
            )
            .expect("unregister");
        assert_eq!(state.status().reservation, None);
        assert!(state.permits(B, Access::Write));
        let both = after(&[
            (A, RegisterAndIgnore { new: KA }),
            (B, RegisterAndIgnore { new: KB }),
            (A, Reserve { key: KA, kind: WERO }),
            (
                B,
                Register {
                    current: KB,
                    new: Key(0),
                },
            ),
        ]);
        assert_eq!(both.holder(), KA, "another's unregistration does not");
    }

    #[test]
    fn generation_counts_what_spc_says() {
        let state = owned_by_a();
        assert_eq!(state.status().generation, 1, "register counts, reserve does not");
        let (state, _) = state.apply(A, Release { key: KA, kind: WERO }).expect("release");
        assert_eq!(state.status().generation, 1);
        let (state, _) = state.apply(A, Clear { key: KA }).expect("clear");
        assert_eq!(
            state.status(),
            FullStatus {
                generation: 2,
                ..FullStatus::default()
            }
        );
    }

    #[test]
    fn status_round_trip() {
        let state = owned_by_a()
            .apply(B, RegisterAndIgnore { new: KB })
            .expect("register")
            .0;
        assert_eq!(Reservations::from_status(&state.status()), state);
    }
}
