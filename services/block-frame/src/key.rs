//! Reservation keys: who holds a pool, in which epoch, under which claim, in the eight bytes that a disk keeps.
//!
//! ```text
//! 63..60 0xa   59..56 controller (1 a, 2 b)   55..48 array   47..24 epoch   23..0 claim generation
//! ```
//!
//! Every daemon that meets a key asks here whose it is: the one that registers it, the one that keeps the disk's path, and the one
//! that has its ballots there.
//!
//! A key is never used twice, and two keys of one array can be told apart by age: a fencer that was decided upon
//! long ago sees that its victim is younger than itself, and stops.

use crate::{Key, Port};
use pollux_api::id::{ArrayId, ControllerId, Epoch, Generation};
use pollux_api::pool::ReservationKey;

const MARK: u64 = 0xa;
/// The mark of a key that is there for a moment, to remove others.
const REMOVER: u64 = 0xb;
const FIELD: u64 = (1 << 24) - 1;

/// One byte of the array's identity: a disk that came from another array is not taken for one of ours.
fn array_tag(array: ArrayId) -> u64 {
    array
        .as_bytes()
        .iter()
        .fold(0, |tag, byte| tag ^ u64::from(*byte))
}

/// The controller that has registered this key, if it is one of this array's.
#[must_use]
pub fn owner(array: ArrayId, key: Key) -> Option<ControllerId> {
    decode(array, key).map(|key| key.controller)
}

/// The port through which a controller reaches the disks.
#[must_use]
pub fn port_of(controller: ControllerId) -> Port {
    match controller {
        ControllerId::A => Port::A,
        ControllerId::B => Port::B,
    }
}

/// As the disk keeps it; `None` where epoch or generation have outgrown their 24 bits (16 million changes of
/// ownership).
#[must_use]
pub fn encode(array: ArrayId, key: ReservationKey) -> Option<Key> {
    let (epoch, generation) = (key.epoch.get(), key.generation.get());
    if epoch > FIELD || generation > FIELD {
        return None;
    }
    let controller = key.controller.index() as u64 + 1;
    Some(Key(MARK << 60
        | controller << 56
        | array_tag(array) << 48
        | epoch << 24
        | generation))
}

/// Whose a key is that is none of this array, in words.
#[must_use]
pub fn whose(key: Key) -> String {
    let controller = match key.0 >> 56 & 0xf {
        1 => "a",
        2 => "b",
        _ => "?",
    };
    let (epoch, generation) = (key.0 >> 24 & FIELD, key.0 & FIELD);
    match (key.0 >> 60, controller) {
        (MARK, "a" | "b") => {
            format!("controller {controller} of another array, epoch {epoch}, claim {generation}")
        }
        (REMOVER, "a" | "b") => {
            format!("left by a removal of keys by controller {controller} that was cut short")
        }
        _ => "of a machine that is no controller of an array".to_owned(),
    }
}

/// The key under which a controller removes keys that are none of its array's. It never guards anything: whoever takes
/// the disk preempts it as any key of a stranger.
#[must_use]
pub fn remover(array: ArrayId, controller: ControllerId) -> Key {
    let controller = controller.index() as u64 + 1;
    Key(REMOVER << 60 | controller << 56 | array_tag(array) << 48 | 1)
}

/// As people write it: 16 hexadecimal digits, with or without `0x`.
///
/// # Errors
/// What would be right.
pub fn parse(text: &str) -> Result<Key, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let plain = digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let key = u64::from_str_radix(digits, 16)
        .ok()
        .filter(|key| plain && *key != 0);
    key.map(Key)
        .ok_or_else(|| format!("{text:?} is no key: 0x and 16 hexadecimal digits, and not zero"))
}

/// What a disk keeps, if it is a key of this array.
#[must_use]
pub fn decode(array: ArrayId, key: Key) -> Option<ReservationKey> {
    if key.0 >> 60 != MARK || key.0 >> 48 & 0xff != array_tag(array) {
        return None;
    }
    let controller = (key.0 >> 56 & 0xf).checked_sub(1)?;
    Some(ReservationKey {
        controller: ControllerId::from_index(usize::try_from(controller).ok()?)?,
        epoch: Epoch::new(key.0 >> 24 & FIELD),
        generation: Generation::new(key.0 & FIELD),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ARRAY: ArrayId = ArrayId::from_bytes(*b"0123456789abcdef");

    proptest! {
        #[test]
        fn round_trip(a in any::<bool>(), epoch in 0..=FIELD, generation in 0..=FIELD) {
            let key = ReservationKey {
                controller: if a { ControllerId::A } else { ControllerId::B },
                epoch: Epoch::new(epoch),
                generation: Generation::new(generation),
            };
            let raw = encode(ARRAY, key).expect("fits");
            prop_assert_eq!(decode(ARRAY, raw), Some(key));
            prop_assert_ne!(raw, Key(0));
        }

        #[test]
        fn any_bits(raw in any::<u64>()) {
            if let Some(key) = decode(ARRAY, Key(raw)) {
                prop_assert_eq!(encode(ARRAY, key), Some(Key(raw)));
            }
        }
    }

    #[test]
    fn strangers_are_told_apart() {
        let other = ArrayId::from_bytes(*b"another array :)");
        let key = ReservationKey {
            controller: ControllerId::B,
            epoch: Epoch::new(7),
            generation: Generation::new(3),
        };
        let theirs = encode(other, key).expect("fits");
        assert_eq!(whose(theirs), "controller b of another array, epoch 7, claim 3");
        let left = remover(ARRAY, ControllerId::A);
        assert_eq!(decode(ARRAY, left), None, "no owner is fenced by it");
        assert!(whose(left).contains("by controller a"), "{}", whose(left));
        assert!(whose(Key(0x1234)).contains("no controller"));
        assert_eq!(parse(&left.to_string()), Ok(left));
        assert_eq!(parse("00000000000012aF"), Ok(Key(0x12af)));
        for wrong in [
            "",
            "0x",
            "12",
            "0x00000000000000000",
            "+000000000000012",
            "0x0000000000000000",
        ] {
            assert!(parse(wrong).expect_err(wrong).contains("16 hexadecimal digits"));
        }
    }

    #[test]
    fn what_does_not_fit_or_belong() {
        let key = ReservationKey {
            controller: ControllerId::A,
            epoch: Epoch::new(FIELD + 1),
            generation: Generation::new(1),
        };
        assert_eq!(encode(ARRAY, key), None);
        let other = ArrayId::from_bytes([1; 16]);
        let ours = encode(
            ARRAY,
            ReservationKey {
                epoch: Epoch::new(1),
                ..key
            },
        )
        .expect("fits");
        assert_eq!(decode(other, ours), None, "a key of another array");
        assert_eq!(owner(ARRAY, ours), Some(ControllerId::A));
        for key in [
            Key(ours.0 ^ 2 << 56),
            Key(ours.0 ^ 8 << 60),
            remover(ARRAY, ControllerId::B),
        ] {
            assert_eq!(owner(ARRAY, key), None, "{key}");
        }
    }
}
