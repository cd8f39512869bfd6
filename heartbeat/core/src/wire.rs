//! The heartbeat datagram: what is said on the wire. The driver adds and checks the authentication around it.
//!
//! ```text
//! u64 magic and version · [16] array id · u8 sender · u64 sequence · u64 nonce · echo (flag, u64) ·
//! advert · record (flag, record) · letter · holdings (count, [16] pool · u64 epoch · u64 generation each)
//! ```

use crate::area::{Advert, LETTER_MAX, Letter, Role};
use crate::codec::{Malformed, Parsed, Reader, Writer};
use crate::record::Record;
use alloc::vec::Vec;
use core::fmt;
use pollux_api::id::{ArrayId, ControllerId, Epoch, Generation, PoolId};

/// No body is longer, in bytes: with its tag (32), UDP (8) and IPv6 (40) it fits a frame of 1500.
pub const BODY_MAX: usize = 1408;
/// Holdings that one datagram tells at most. Where there are more, the next ones tell the rest, in turn.
/// Fewer than pools in a letter: a record with five quorum disks and one that leaves has to fit beside them.
pub const HOLDINGS_MAX: usize = LETTER_MAX - 4;

const MAGIC: u64 = u64::from_le_bytes(*b"PLXBEAT2");

/// One heartbeat.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Datagram {
    /// Grows with every datagram of one daemon's life; for loss statistics only.
    pub sequence: u64,
    /// Fresh and unpredictable: the partner echoes it, which proves that *now* both ways work.
    pub nonce: u64,
    /// The last nonce that came from the partner; none: nothing was heard, or the partner is being excluded.
    pub echo: Option<u64>,
    /// What the sender says of itself.
    pub advert: Advert,
    /// The highest decided record that the sender knows.
    pub record: Option<Record>,
    /// Wishes.
    pub letter: Letter,
    /// Pools that the sender serves, and under which claim: told to a partner that has lost the shelf and cannot read
    /// the claims, because who forwards must name the claim under which the owner serves.
    pub holdings: Vec<(PoolId, Epoch, Generation)>,
}

/// Why a body is not one of this array's partner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadDatagram {
    /// Not a heartbeat of this version.
    Magic,
    /// Of another array.
    Array,
    /// Not sent by the partner.
    Sender,
    /// Too long, too short, or breaking the rules inside.
    Content,
}

impl fmt::Display for BadDatagram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Magic => "no heartbeat of this version",
            Self::Array => "a heartbeat of another array",
            Self::Sender => "a heartbeat that is not the partner's",
            Self::Content => "a heartbeat with malformed content",
        })
    }
}

impl core::error::Error for BadDatagram {}

impl Datagram {
    /// What its sender says if its daemon ends now. It answers the same nonce, so it says nothing of life that the one
    /// before did not say.
    ///
    /// None for whoever does not act as a member: it has nothing that anybody would take over sooner for its word, and
    /// whoever says that it dies is taken for a member that has to be fenced. Its daemon comes back in the same life, so
    /// that fence would never be seen to have worked.
    #[must_use]
    pub fn last_word(&self) -> Option<Self> {
        let mut word = self.clone();
        word.advert.role = match self.advert.role {
            Role::Serving | Role::Releasing | Role::Dying => Role::Dying,
            Role::Starting | Role::Waiting | Role::Left => return None,
        };
        Some(word)
    }

    /// The body that `sender` sends; at most [`BODY_MAX`] bytes.
    #[must_use]
    pub fn encode(&self, array: ArrayId, sender: ControllerId) -> Vec<u8> {
        let mut body = Writer::default();
        body.u64(MAGIC);
        body.0.extend_from_slice(array.as_bytes());
        body.count(sender.index());
        body.u64(self.sequence);
        body.u64(self.nonce);
        body.flag(self.echo.is_some());
        body.u64(self.echo.unwrap_or(0));
        body.advert(&self.advert);
        body.option_record(self.record.as_ref());
        body.letter(&self.letter);
        body.count(self.holdings.len());
        for (pool, epoch, generation) in &self.holdings {
            body.pool(*pool);
            body.u64(epoch.get());
            body.u64(generation.get());
        }
        body.0
    }

    /// Reads an authenticated body.
    ///
    /// # Errors
    /// [`BadDatagram`] if it is not one of `partner` in `array`.
    pub fn decode(body: &[u8], array: ArrayId, partner: ControllerId) -> Result<Self, BadDatagram> {
        let mut bytes = Reader(body);
        let head = (bytes.u64(), bytes.array::<16>(), bytes.u8());
        let (Ok(magic), Ok(from_array), Ok(sender)) = head else {
            return Err(BadDatagram::Content);
        };
        if magic != MAGIC {
            return Err(BadDatagram::Magic);
        }
        if from_array != *array.as_bytes() {
            return Err(BadDatagram::Array);
        }
        if usize::from(sender) != partner.index() {
            return Err(BadDatagram::Sender);
        }
        let datagram = Self::fields(&mut bytes).map_err(|Malformed| BadDatagram::Content)?;
        if bytes.0.is_empty() {
            Ok(datagram)
        } else {
            Err(BadDatagram::Content)
        }
    }

    fn fields(bytes: &mut Reader<'_>) -> Parsed<Self> {
        let (sequence, nonce) = (bytes.u64()?, bytes.u64()?);
        let echo = match (bytes.flag()?, bytes.u64()?) {
            (true, nonce) => Some(nonce),
            (false, 0) => None,
            (false, _) => return Err(Malformed),
        };
        let advert = bytes.advert()?;
        let record = bytes.option_record()?;
        let letter = bytes.letter()?;
        let mut holdings = Vec::new();
        for _ in 0..bytes.count(HOLDINGS_MAX)? {
            holdings.push((bytes.pool()?, bytes.epoch()?, bytes.generation()?));
        }
        Ok(Self {
            sequence,
            nonce,
            echo,
            advert,
            record,
            letter,
            holdings,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::tests::strategy;
    use proptest::prelude::*;

    const ARRAY: ArrayId = ArrayId::from_bytes([7; 16]);

    prop_compose! {
        fn datagram()(
            sequence in any::<u64>(), nonce in any::<u64>(), echo in any::<Option<u64>>(),
            advert in strategy::advert(), record in proptest::option::of(strategy::record()),
            letter in strategy::letter(), holdings in proptest::collection::vec(holding(), 0..=HOLDINGS_MAX),
        ) -> Datagram {
            Datagram { sequence, nonce, echo, advert, record, letter, holdings }
        }
    }

    fn holding() -> impl Strategy<Value = (PoolId, Epoch, Generation)> {
        (strategy::pool(), any::<u64>(), any::<u64>())
            .prop_map(|(pool, epoch, generation)| (pool, Epoch::new(epoch), Generation::new(generation)))
    }

    proptest! {
        #[test]
        fn what_is_sent_is_what_arrives(datagram in datagram()) {
            let body = datagram.encode(ARRAY, ControllerId::B);
            prop_assert_eq!(Datagram::decode(&body, ARRAY, ControllerId::B), Ok(datagram));
            prop_assert_eq!(Datagram::decode(&body, ARRAY, ControllerId::A), Err(BadDatagram::Sender));
            let other = ArrayId::from_bytes([8; 16]);
            prop_assert_eq!(Datagram::decode(&body, other, ControllerId::B), Err(BadDatagram::Array));
            for length in 0..body.len() {
                prop_assert_eq!(
                    Datagram::decode(&body[..length], ARRAY, ControllerId::B),
                    Err(BadDatagram::Content)
                );
            }
        }

        #[test]
        fn no_bytes_make_it_panic(body in proptest::collection::vec(any::<u8>(), 0..1500)) {
            let mut framed = Datagram::encode(&quiet(), ARRAY, ControllerId::A);
            prop_assert!(Datagram::decode(&body, ARRAY, ControllerId::A).is_err());
            framed.truncate(25);
            framed.extend_from_slice(&body);
            if let Ok(read) = Datagram::decode(&framed, ARRAY, ControllerId::A) {
                prop_assert_eq!(read.encode(ARRAY, ControllerId::A), framed);
            }
        }
    }

    fn quiet() -> Datagram {
        Datagram {
            sequence: 0,
            nonce: 0,
            echo: None,
            advert: Advert::default(),
            record: None,
            letter: Letter::default(),
            holdings: Vec::new(),
        }
    }

    #[test]
    fn the_fullest_letter_fits_one_frame() {
        let mut full = quiet();
        full.record = Some(Record::genesis(strategy::widest()));
        full.letter.asks = alloc::vec![PoolId::from_bytes([1; 16]); LETTER_MAX];
        full.letter.gifts = alloc::vec![(PoolId::from_bytes([1; 16]), Generation::new(1)); LETTER_MAX];
        full.holdings =
            alloc::vec![(PoolId::from_bytes([1; 16]), Epoch::new(1), Generation::new(1)); HOLDINGS_MAX];
        let length = full.encode(ARRAY, ControllerId::A).len();
        assert!(length <= BODY_MAX, "{length} bytes");
    }

    #[test]
    fn every_reason_for_which_a_datagram_is_refused_has_its_words() {
        use alloc::string::ToString;
        let all = [
            BadDatagram::Magic,
            BadDatagram::Array,
            BadDatagram::Sender,
            BadDatagram::Content,
        ];
        let words: Vec<_> = all.iter().map(ToString::to_string).collect();
        assert!(words.iter().all(|words| words.contains("heartbeat")), "{words:?}");
        let different: alloc::collections::BTreeSet<_> = words.iter().collect();
        assert_eq!(different.len(), all.len());
    }

    #[test]
    fn an_echo_is_there_with_its_nonce_or_not_at_all() {
        let body = |echo| Datagram { echo, ..quiet() }.encode(ARRAY, ControllerId::A);
        let read = |body: &[u8]| Datagram::decode(body, ARRAY, ControllerId::A);
        for echo in [None, Some(0), Some(7)] {
            assert_eq!(read(&body(echo)).map(|datagram| datagram.echo), Ok(echo));
        }
        // Magic 8, array 16, sender 1, sequence 8, nonce 8; then the flag.
        let mut wrong = body(Some(7));
        wrong[41] = 0;
        assert_eq!(
            read(&wrong),
            Err(BadDatagram::Content),
            "one encoding for each value"
        );
        let mut other = body(None);
        other[0] ^= 1;
        assert_eq!(read(&other), Err(BadDatagram::Magic));
    }
}
