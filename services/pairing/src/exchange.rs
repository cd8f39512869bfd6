//! The conversation in which two controllers become partners.
//!
//! ```text
//! the one on which the code was typed        the one that shows it
//!   hello { controller, array, SPAKE2 }  ->
//!                                        <-  hello { controller, array, SPAKE2 }
//!   proof { own public key, tag }        ->  (a wrong tag is a wrong try)
//!                                        <-  proof { own public key, tag }, or a refusal
//!   done                                 ->
//! ```
//!
//! One JSON object per line. SPAKE2 gives both sides the same secret if both know the code, and nobody else anything
//! to try codes on. From the secret come the tags, which cover both hellos and the public key, and the pairing key of
//! the array. Who typed the code proves it first: a stranger has to commit to a guess before it learns anything, and
//! that guess is counted.
//!
//! Invariants: nothing is kept before the other side's tag was right; a line is at most 4 KiB long; how long a
//! conversation may take is the caller's business ([`WITHIN`]).

use crate::code::Code;
use crate::identity::{Identity, PublicKey, from_hex};
use pollux_api::id::{ArrayId, ControllerId};
use pollux_platform::keys::PairingKey;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use spake2::{Ed25519Group, Password, Spake2};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};

/// A conversation that takes longer is none.
pub const WITHIN: Duration = Duration::from_secs(10);
/// Version of the conversation.
const VERSION: u32 = 1;
/// Longest line.
const LINE: u64 = 4096;

/// Who one is, for the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Me {
    /// Which controller.
    pub controller: ControllerId,
    /// Of which array.
    pub array: ArrayId,
}

/// What a conversation yields.
#[derive(Debug)]
pub struct Paired {
    /// The key to pin.
    pub partner: PublicKey,
    /// What both sides know now and nobody else.
    pub key: PairingKey,
}

/// Why two controllers did not become partners.
#[derive(Debug, thiserror::Error)]
pub enum PairError {
    /// The network.
    #[error("the conversation broke: {0}")]
    Io(#[from] io::Error),
    /// Not this conversation.
    #[error("the other side sent {0}")]
    Malformed(&'static str),
    /// Another version of it.
    #[error("the other side pairs by version {0}, this one by {VERSION}; update the older")]
    Version(u32),
    /// Two of the same.
    #[error("the other side is controller {0} too; check controller.toml of both")]
    Twin(ControllerId),
    /// Another array.
    #[error("controller.toml of the other side names array {theirs}, this one's {ours}; make them equal")]
    Array {
        /// Said by the other side.
        theirs: ArrayId,
        /// From the configuration.
        ours: ArrayId,
    },
    /// The codes differ.
    #[error("the code is wrong")]
    WrongCode,
    /// The other side has ended it.
    #[error("the other side refused: {0}")]
    Refused(String),
}

#[derive(Debug, Serialize, Deserialize)]
struct Hello {
    pollux_pairing: u32,
    controller: ControllerId,
    array: ArrayId,
    spake: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Proof {
    key: String,
    tag: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Reply {
    Proof(Proof),
    Refusal { refused: String },
}

#[derive(Debug, Serialize, Deserialize)]
struct Done {
    done: bool,
}

/// Both hellos as they were sent, and what follows from them and the code.
struct Session {
    hellos: [String; 2],
    secret: Vec<u8>,
}

impl Session {
    /// Covers both hellos and `key`; only who knows the code can make it.
    fn tag(&self, side: &str, key: &PublicKey) -> blake3::Hash {
        let mut hasher =
            blake3::Hasher::new_keyed(&blake3::derive_key("pollux pairing 1: tag", &self.secret));
        for part in [
            side.as_bytes(),
            self.hellos[0].as_bytes(),
            self.hellos[1].as_bytes(),
            key.as_bytes(),
        ] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        hasher.finalize()
    }

    fn prove(&self, side: &str, key: &PublicKey) -> Proof {
        Proof {
            key: key.to_string(),
            tag: self.tag(side, key).to_hex().to_string(),
        }
    }

    fn check(&self, side: &str, proof: &Proof) -> Result<PublicKey, PairError> {
        let key = from_hex(proof.key.as_bytes()).and_then(|key| key.try_into().ok());
        let key = PublicKey::new(key.ok_or(PairError::Malformed("no public key"))?);
        let tag = blake3::Hash::from_hex(&proof.tag).map_err(|_| PairError::Malformed("no tag"))?;
        // Compares in constant time.
        if tag == self.tag(side, &key) {
            Ok(key)
        } else {
            Err(PairError::WrongCode)
        }
    }

    fn key(&self) -> PairingKey {
        PairingKey::new(blake3::derive_key("pollux pairing 1: pairing key", &self.secret))
    }
}

const SHOWS: &str = "the side that shows the code";
const TYPED: &str = "the side on which it was typed";

fn start(code: &Code, typed: bool) -> (Spake2<Ed25519Group>, Vec<u8>) {
    let (password, shows, joins) = (
        Password::new(code.as_bytes()),
        spake2::Identity::new(SHOWS.as_bytes()),
        spake2::Identity::new(TYPED.as_bytes()),
    );
    if typed {
        Spake2::start_b(&password, &shows, &joins)
    } else {
        Spake2::start_a(&password, &shows, &joins)
    }
}

fn hello(me: Me, spake: &[u8]) -> Hello {
    Hello {
        pollux_pairing: VERSION,
        controller: me.controller,
        array: me.array,
        spake: spake.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

/// Whether the other side may become the partner of this one, but for the code.
fn judge(me: Me, theirs: &Hello) -> Result<Vec<u8>, PairError> {
    if theirs.pollux_pairing != VERSION {
        return Err(PairError::Version(theirs.pollux_pairing));
    }
    if theirs.controller == me.controller {
        return Err(PairError::Twin(me.controller));
    }
    if theirs.array != me.array {
        return Err(PairError::Array {
            theirs: theirs.array,
            ours: me.array,
        });
    }
    from_hex(theirs.spake.as_bytes()).ok_or(PairError::Malformed("no hello"))
}

async fn send<S: AsyncWrite + Unpin>(stream: &mut S, message: &impl Serialize) -> Result<String, PairError> {
    let line = serde_json::to_string(message).map_err(io::Error::from)?;
    stream.write_all(format!("{line}\n").as_bytes()).await?;
    stream.flush().await?;
    Ok(line)
}

async fn hear<S: AsyncRead + Unpin>(stream: &mut BufReader<S>) -> Result<String, PairError> {
    let mut line = Vec::new();
    stream.take(LINE).read_until(b'\n', &mut line).await?;
    match String::from_utf8(line) {
        Ok(line) if line.ends_with('\n') => Ok(line.trim_end().to_owned()),
        _ => Err(PairError::Malformed("no line of a pairing")),
    }
}

fn read<T: DeserializeOwned>(line: &str, what: &'static str) -> Result<T, PairError> {
    serde_json::from_str(line).map_err(|_| PairError::Malformed(what))
}

/// The side that shows the code. [`PairError::WrongCode`] is a try that counts.
///
/// # Errors
/// [`PairError`]; nothing was agreed.
pub async fn show<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    code: &Code,
    me: Me,
    own: &Identity,
) -> Result<Paired, PairError> {
    let mut stream = BufReader::new(stream);
    let heard = hear(&mut stream).await?;
    let judged = judge(me, &read(&heard, "no hello")?);
    let theirs = match judged {
        Ok(theirs) => theirs,
        Err(error) => return Err(refuse(&mut stream, error).await),
    };
    let (spake, mine) = start(code, false);
    let said = send(&mut stream, &hello(me, &mine)).await?;
    let secret = spake
        .finish(&theirs)
        .map_err(|_| PairError::Malformed("no SPAKE2"))?;
    let session = Session {
        hellos: [heard, said],
        secret,
    };
    let proof: Proof = read(&hear(&mut stream).await?, "no proof")?;
    let partner = match session.check(TYPED, &proof) {
        Ok(partner) => partner,
        Err(error) => return Err(refuse(&mut stream, error).await),
    };
    send(&mut stream, &session.prove(SHOWS, &own.public())).await?;
    let Done { done: true } = read(&hear(&mut stream).await?, "no end")? else {
        return Err(PairError::Malformed("no end"));
    };
    Ok(Paired {
        partner,
        key: session.key(),
    })
}

/// Tells the other side why; it may have gone already.
async fn refuse<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut BufReader<S>, error: PairError) -> PairError {
    let refused = error.to_string();
    let _ = send(stream, &Reply::Refusal { refused }).await;
    error
}

/// The side on which the code was typed. `keep` keeps what was agreed before the other side is told that it was: if
/// that fails, neither side has a new partner.
///
/// # Errors
/// [`PairError`].
pub async fn join<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    code: &Code,
    me: Me,
    own: &Identity,
    keep: impl FnOnce(&Paired) -> io::Result<()>,
) -> Result<Paired, PairError> {
    let mut stream = BufReader::new(stream);
    let (spake, mine) = start(code, true);
    let said = send(&mut stream, &hello(me, &mine)).await?;
    let heard = hear(&mut stream).await?;
    if let Ok(Reply::Refusal { refused }) = read(&heard, "no hello") {
        return Err(PairError::Refused(refused));
    }
    let theirs = judge(me, &read(&heard, "no hello")?)?;
    let secret = spake
        .finish(&theirs)
        .map_err(|_| PairError::Malformed("no SPAKE2"))?;
    let session = Session {
        hellos: [said, heard],
        secret,
    };
    send(&mut stream, &session.prove(TYPED, &own.public())).await?;
    let proof = match read(&hear(&mut stream).await?, "no proof")? {
        Reply::Proof(proof) => proof,
        Reply::Refusal { refused } if refused == PairError::WrongCode.to_string() => {
            return Err(PairError::WrongCode);
        }
        Reply::Refusal { refused } => return Err(PairError::Refused(refused)),
    };
    let paired = Paired {
        partner: session.check(SHOWS, &proof)?,
        key: session.key(),
    };
    keep(&paired)?;
    send(&mut stream, &Done { done: true }).await?;
    Ok(paired)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::duplex;
    use tokio::time::timeout;

    fn me(controller: ControllerId, array: u8) -> Me {
        Me {
            controller,
            array: ArrayId::from_bytes([array; 16]),
        }
    }

    struct Side {
        me: Me,
        code: &'static str,
        identity: Identity,
        _dir: tempfile::TempDir,
    }

    fn side(controller: ControllerId, array: u8, code: &'static str) -> Side {
        let dir = tempfile::tempdir().unwrap();
        Side {
            me: me(controller, array),
            code,
            identity: Identity::load_or_make(dir.path()).unwrap(),
            _dir: dir,
        }
    }

    async fn talk(a: &Side, b: &Side) -> (Result<Paired, PairError>, Result<Paired, PairError>, bool) {
        let (left, right) = duplex(LINE as usize);
        let (one, other) = (Code::read(a.code).unwrap(), Code::read(b.code).unwrap());
        let mut kept = false;
        let shows = show(left, &one, a.me, &a.identity);
        let joins = join(right, &other, b.me, &b.identity, |_| {
            kept = true;
            Ok(())
        });
        let (shows, joins) = timeout(WITHIN, async { tokio::join!(shows, joins) })
            .await
            .unwrap();
        (shows, joins, kept)
    }

    #[tokio::test]
    async fn the_same_code_makes_partners_with_a_secret_of_their_own() {
        let (a, b) = (
            side(ControllerId::A, 1, "12345678"),
            side(ControllerId::B, 1, "1234-5678"),
        );
        let (first, second, kept) = talk(&a, &b).await;
        let (first, second) = (first.unwrap(), second.unwrap());
        assert!(kept);
        assert_eq!(
            (first.partner, second.partner),
            (b.identity.public(), a.identity.public())
        );
        assert_eq!(first.key.expose(), second.key.expose());
        let (again, _, _) = talk(&a, &b).await;
        assert_ne!(
            again.unwrap().key.expose(),
            first.key.expose(),
            "a secret is used once"
        );
    }

    #[tokio::test]
    async fn another_code_another_array_or_a_twin_makes_none() {
        let a = side(ControllerId::A, 1, "12345678");
        let (shows, joins, kept) = talk(&a, &side(ControllerId::B, 1, "12345679")).await;
        assert!(matches!(shows, Err(PairError::WrongCode)) && matches!(joins, Err(PairError::WrongCode)));
        assert!(!kept);
        let (shows, joins, kept) = talk(&a, &side(ControllerId::B, 2, "12345678")).await;
        assert!(matches!(shows, Err(PairError::Array { .. })), "{shows:?}");
        assert!(matches!(joins, Err(PairError::Refused(why)) if why.contains("controller.toml")));
        assert!(!kept);
        let (shows, _, kept) = talk(&a, &side(ControllerId::A, 1, "12345678")).await;
        assert!(matches!(shows, Err(PairError::Twin(ControllerId::A))) && !kept);
    }

    #[tokio::test]
    async fn who_sits_between_them_and_swaps_the_keys_is_found() {
        let (a, b) = (
            side(ControllerId::A, 1, "12345678"),
            side(ControllerId::B, 1, "12345678"),
        );
        let (left, mut near) = duplex(8192);
        let (mut far, right) = duplex(8192);
        let code = Code::read("12345678").unwrap();
        let shows = show(left, &code, a.me, &a.identity);
        let joins = join(right, &code, b.me, &b.identity, |_| Ok(()));
        let evil = side(ControllerId::B, 1, "00000000").identity.public().to_string();
        let own = b.identity.public().to_string();
        let between = async move {
            let mut far = BufReader::new(&mut far);
            let hello = hear(&mut far).await.unwrap();
            near.write_all(format!("{hello}\n").as_bytes()).await.unwrap();
            let mut near = BufReader::new(near);
            let answer = hear(&mut near).await.unwrap();
            far.write_all(format!("{answer}\n").as_bytes()).await.unwrap();
            let proof = hear(&mut far).await.unwrap();
            near.write_all(format!("{}\n", proof.replace(&own, &evil)).as_bytes())
                .await
                .unwrap();
            let refusal = hear(&mut near).await.unwrap();
            far.write_all(format!("{refusal}\n").as_bytes()).await.unwrap();
        };
        let (shows, joins, ()) = timeout(WITHIN, async { tokio::join!(shows, joins, between) })
            .await
            .unwrap();
        assert!(matches!(shows, Err(PairError::WrongCode)) && joins.is_err());
    }

    #[tokio::test]
    async fn rubbish_is_refused_and_bounded() {
        let a = side(ControllerId::A, 1, "12345678");
        let code = Code::read(a.code).unwrap();
        let long = vec![b'x'; 100_000];
        let point = r#"{"pollux_pairing":1,"controller":"b","array":"01010101-0101-0101-0101-010101010101","spake":"00"}"#;
        for bytes in [
            &b""[..],
            b"\n",
            b"{}\n",
            b"\xff\n",
            &long,
            format!("{point}\n").as_bytes(),
        ] {
            let (left, mut right) = duplex(1 << 20);
            right.write_all(bytes).await.unwrap();
            right.shutdown().await.unwrap();
            assert!(
                timeout(WITHIN, show(left, &code, a.me, &a.identity))
                    .await
                    .unwrap()
                    .is_err()
            );
        }
    }
}
