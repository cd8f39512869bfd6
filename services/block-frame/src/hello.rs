//! Logging in: who is here, on which array, at which endpoint; over TCP, the proof of the pairing key.
//!
//! ```text
//! initiator                                   target
//!   Hello   version, array, port, ..., nonce i  ->
//!                                           <-  Hello   version, array, ..., nonce t, proof t
//!   Auth    proof i                             ->      (only where the target has a key)
//!                                           <-  Auth    Ok
//! ```
//!
//! A proof is keyed BLAKE3 under the pairing key over a role word, both nonces and both hellos, so neither a replay
//! nor a reflection of the other end's proof is accepted, and nothing in a hello can be altered unnoticed.
//!
//! # Versions
//!
//! | version | what it has |
//! |---|---|
//! | 2 | replies say the target's clock, and a host's request says on that clock by when it may be begun |
//! | 1 | the first |
//!
//! Both hellos say a range, from the oldest version to the newest; the target takes the newest that both speak and says
//! which, or refuses with its own range. Version 1 knows no range: it looks at the oldest, and is one itself where the
//! newest is zero. So a build speaks version 1 for as long as a partner of that age may be there (a rolling upgrade goes one
//! build at a time), and a pair of two builds goes on with what both know.
//!
//! ```text
//! hello    0 u16 oldest   2 u16 purpose   4 u16 port     6 u16 newest   8 [16] array   24 [16] nonce
//!         40 u64 epoch   48 u64 generation   56 [32] client   88 zeros to 112   then what later versions add
//! welcome  0 u16 agreed   2 u16 bytes added after 112   4 u16 oldest   6 u16 newest   8 [16] array   24 [16] nonce
//!         40 u64 session  48 u32 largest payload   52 u32 queue depth   56 u64 clock, us   64 zeros to 112, additions, proof
//! ```
//!
//! What later versions add stands behind byte 112 and is skipped by whoever does not know it; the proofs cover it. Version 1
//! takes no hello of another length: additions are for those whose oldest version is 2.

use crate::frame::{FrameError, Opcode, field};
use core::fmt;
use uuid::Uuid;

/// A range of versions of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    /// The oldest.
    pub oldest: u16,
    /// The newest.
    pub newest: u16,
}

/// The versions that this build speaks.
pub const VERSIONS: Versions = Versions { oldest: 1, newest: 2 };
/// The first version in which replies say the target's clock.
pub(crate) const WITH_CLOCK: u16 = 2;
/// The first version that knows the question which blocks are mapped.
pub(crate) const WITH_LBA_STATUS: u16 = 2;

impl Versions {
    /// The newest that both speak.
    #[must_use]
    pub fn common(self, other: Self) -> Option<u16> {
        let newest = self.newest.min(other.newest);
        (newest >= self.oldest.max(other.oldest)).then_some(newest)
    }

    /// As the detail of [`Status::VersionMismatch`](crate::Status::VersionMismatch): the newest, and above it the oldest,
    /// unless there is only one. Version 1 says 1.
    pub(crate) fn to_detail(self) -> u64 {
        match self.oldest == self.newest {
            true => self.newest.into(),
            false => u64::from(self.oldest) << 16 | u64::from(self.newest),
        }
    }

    pub(crate) fn from_detail(detail: u64) -> Self {
        let newest = detail as u16;
        match (detail >> 16) as u16 {
            0 => Self {
                oldest: newest,
                newest,
            },
            oldest => Self { oldest, newest },
        }
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.oldest == self.newest {
            true => write!(f, "version {}", self.newest),
            false => write!(f, "versions {} to {}", self.oldest, self.newest),
        }
    }
}

/// Longest client name, bytes.
pub const CLIENT_NAME_MAX: usize = 32;

const HELLO_BYTES: usize = 112;
const PROOF_BYTES: usize = 32;

/// An initiator port, numbered like a relative target port identifier: 1 is controller a, 2 is controller b.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Port(pub u16);

impl Port {
    /// Port of controller a.
    pub const A: Port = Port(1);
    /// Port of controller b.
    pub const B: Port = Port(2);
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Port::A => f.write_str("a"),
            Port::B => f.write_str("b"),
            Port(other) => write!(f, "port {other}"),
        }
    }
}

/// What the session is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Purpose {
    /// To a disk of the shelf.
    Disk = 1,
    /// To a volume of a pool that is imported on the same controller.
    Volume = 2,
    /// To the partner's block target; each request names its volume.
    Forward = 3,
}

/// The 32-byte pairing key of the array.
#[derive(Clone)]
pub struct AuthKey([u8; 32]);

impl AuthKey {
    /// From its bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        AuthKey(bytes)
    }

    fn proof(&self, role: &str, initiator: &[u8], target: &[u8]) -> [u8; PROOF_BYTES] {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(role.as_bytes());
        hasher.update(initiator);
        hasher.update(target);
        *hasher.finalize().as_bytes()
    }

    /// Proof of the initiator, over both hellos as they travelled.
    pub(crate) fn initiator_proof(&self, initiator: &[u8], target: &[u8]) -> [u8; PROOF_BYTES] {
        self.proof("pollux block-frame initiator", initiator, target)
    }

    /// Proof of the target, over both hellos as they travelled.
    pub(crate) fn target_proof(&self, initiator: &[u8], target: &[u8]) -> [u8; PROOF_BYTES] {
        self.proof("pollux block-frame target", initiator, target)
    }
}

impl fmt::Debug for AuthKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuthKey(..)")
    }
}

/// Compares proofs in constant time.
pub(crate) fn proof_matches(expected: &[u8; PROOF_BYTES], found: &[u8]) -> bool {
    <[u8; PROOF_BYTES]>::try_from(found).is_ok_and(|found| blake3::Hash::from(*expected) == found)
}

/// What an initiator says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The array it belongs to.
    pub array: Uuid,
    /// The controller that speaks.
    pub port: Port,
    /// What the session is for.
    pub purpose: Purpose,
    /// Name of the program, at most [`CLIENT_NAME_MAX`] bytes; part of the session's identity.
    pub client: String,
    /// Epoch under which it acts; 0 where that has no meaning.
    pub epoch: u64,
    /// Claim generation under which it acts; 0 where that has no meaning.
    pub generation: u64,
}

/// What a target says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The array it belongs to.
    pub array: Uuid,
    /// The session that was given, unique while the server lives.
    pub session: u64,
    /// Largest payload that it takes, bytes.
    pub max_payload: u32,
    /// How many requests it takes before it stops reading.
    pub queue_depth: u32,
    /// The version that is spoken.
    pub version: u16,
    /// The target's clock when it said so, us; 0: it says none.
    pub clock_us: u64,
}

const MALFORMED: fn(&'static str) -> FrameError = |what| FrameError::Malformed {
    opcode: Opcode::Hello,
    what,
};

impl Hello {
    pub(crate) fn encode(&self, versions: Versions, nonce: [u8; 16]) -> Vec<u8> {
        let mut out = vec![0; HELLO_BYTES];
        out[0..2].copy_from_slice(&versions.oldest.to_le_bytes());
        out[2..4].copy_from_slice(&(self.purpose as u16).to_le_bytes());
        out[4..6].copy_from_slice(&self.port.0.to_le_bytes());
        out[6..8].copy_from_slice(&versions.newest.to_le_bytes());
        out[8..24].copy_from_slice(self.array.as_bytes());
        out[24..40].copy_from_slice(&nonce);
        out[40..48].copy_from_slice(&self.epoch.to_le_bytes());
        out[48..56].copy_from_slice(&self.generation.to_le_bytes());
        let name = &self.client.as_bytes()[..self.client.len().min(CLIENT_NAME_MAX)];
        out[56..56 + name.len()].copy_from_slice(name);
        out
    }

    /// The versions of a hello, the one to speak, and the hello; the versions stand at the same place in every version.
    pub(crate) fn decode(
        bytes: &[u8],
        spoken: Versions,
    ) -> Result<(Versions, Option<(u16, Hello)>), FrameError> {
        if bytes.len() < 8 {
            return Err(MALFORMED("shorter than its version fields"));
        }
        let (oldest, newest) = (
            u16::from_le_bytes(field(bytes, 0)),
            u16::from_le_bytes(field(bytes, 6)),
        );
        let versions = Versions {
            oldest,
            newest: newest.max(oldest),
        };
        let Some(agreed) = versions.common(spoken) else {
            return Ok((versions, None));
        };
        if bytes.len() < HELLO_BYTES {
            return Err(MALFORMED("a hello has 112 bytes at least"));
        }
        let purpose = match u16::from_le_bytes(field(bytes, 2)) {
            1 => Purpose::Disk,
            2 => Purpose::Volume,
            3 => Purpose::Forward,
            _ => return Err(MALFORMED("purpose is 1 (disk), 2 (volume) or 3 (forward)")),
        };
        let name: [u8; CLIENT_NAME_MAX] = field(bytes, 56);
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
        let client = std::str::from_utf8(&name[..end]).map_err(|_| MALFORMED("client name is not UTF-8"))?;
        let hello = Hello {
            array: Uuid::from_bytes(field(bytes, 8)),
            port: Port(u16::from_le_bytes(field(bytes, 4))),
            purpose,
            client: client.to_owned(),
            epoch: u64::from_le_bytes(field(bytes, 40)),
            generation: u64::from_le_bytes(field(bytes, 48)),
        };
        Ok((versions, Some((agreed, hello))))
    }
}

/// A welcome, the bytes that proofs cover, and the target's proof.
type Decoded<'a> = (Welcome, &'a [u8], Option<&'a [u8]>);

impl Welcome {
    pub(crate) fn encode(&self, versions: Versions, nonce: [u8; 16]) -> Vec<u8> {
        let mut out = vec![0; HELLO_BYTES];
        out[0..2].copy_from_slice(&self.version.to_le_bytes());
        out[4..6].copy_from_slice(&versions.oldest.to_le_bytes());
        out[6..8].copy_from_slice(&versions.newest.to_le_bytes());
        out[56..64].copy_from_slice(&self.clock_us.to_le_bytes());
        out[8..24].copy_from_slice(self.array.as_bytes());
        out[24..40].copy_from_slice(&nonce);
        out[40..48].copy_from_slice(&self.session.to_le_bytes());
        out[48..52].copy_from_slice(&self.max_payload.to_le_bytes());
        out[52..56].copy_from_slice(&self.queue_depth.to_le_bytes());
        out
    }

    /// The welcome; the bytes that proofs cover; and, where the target has a key, its proof.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Decoded<'_>, FrameError> {
        if bytes.len() < HELLO_BYTES {
            return Err(MALFORMED("a welcome has 112 bytes at least"));
        }
        let end = HELLO_BYTES + usize::from(u16::from_le_bytes(field(bytes, 2)));
        let (raw, proof) = match bytes.len() {
            n if n == end => (bytes, None),
            n if n == end + PROOF_BYTES => (&bytes[..end], Some(&bytes[end..])),
            _ => {
                return Err(MALFORMED(
                    "a welcome has 112 bytes, what it adds, and a proof of 32 or none",
                ));
            }
        };
        let welcome = Welcome {
            array: Uuid::from_bytes(field(raw, 8)),
            session: u64::from_le_bytes(field(raw, 40)),
            max_payload: u32::from_le_bytes(field(raw, 48)),
            queue_depth: u32::from_le_bytes(field(raw, 52)),
            version: u16::from_le_bytes(field(raw, 0)),
            clock_us: u64::from_le_bytes(field(raw, 56)),
        };
        Ok((welcome, raw, proof))
    }
}
