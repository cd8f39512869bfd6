//! The key board of the management address: which tokens are good, and for what.
//!
//! A token is 256 random bits. It is shown once, when it is made; what is kept is its hash, with name, role and dates,
//! in the key store:
//!
//! ```text
//! tokens.json   { "version": 1, "tokens": [{ "name", "role", "created_unix_ms", "expires_unix_ms", "hash" }] }
//! ```
//!
//! Nobody can find 256 random bits by trying, so a plain hash protects them as well as a slow one would. Hashes are
//! compared in constant time, and each with all.
//!
//! Invariants: the file is replaced as a whole, or not; what is not on disk opens nothing; with a file that cannot be
//! read no token is good.

use pollux_api::error::{Code, RpcError};
use pollux_api::role::Role;
use pollux_api::router::{TOKEN_ADD, Token, TokenAdd, TokenAdded, TokenRemove, TokenRemoved};
use pollux_platform::file::replace;
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Name of the file in the key store.
pub const FILE: &str = "tokens.json";
/// Tokens of one controller.
const TOKENS: usize = 256;
/// How every token begins, so that one that was left lying about is recognized.
const PREFIX: &str = "pollux_";
/// Longest name, bytes.
const NAME: usize = 32;
/// Longest life, days.
const DAYS: u32 = 3650;
const DAY_MS: u64 = 24 * 60 * 60 * 1000;
const VERSION: u32 = 1;

/// Why tokens cannot be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file cannot be read or written.
    #[error("tokens in {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others can read or write it.
    #[error("tokens in {}: mode {mode:03o} lets others in; make it 600 if you trust what it says, or remove it", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The content is not what it should be.
    #[error("tokens in {}: {what}; remove it and make new tokens", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong, without its content.
        what: String,
    },
}

#[derive(Serialize, Deserialize)]
struct Board {
    version: u32,
    tokens: Vec<Line>,
}

#[derive(Serialize, Deserialize)]
struct Line {
    #[serde(flatten)]
    token: Token,
    hash: String,
}

#[derive(Clone, Debug)]
struct Kept {
    token: Token,
    hash: blake3::Hash,
}

/// A token that is good.
#[derive(Clone, Debug)]
pub(super) struct Good {
    pub(super) name: String,
    pub(super) role: Role,
    hash: blake3::Hash,
}

/// Why a token is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Bad {
    Unknown,
    Expired(String),
}

/// The tokens of a controller.
#[derive(Debug)]
pub(super) struct Tokens {
    path: PathBuf,
    kept: Mutex<Vec<Kept>>,
    /// Held while the file is written, so that one change follows the other; who asks does not wait for it.
    writing: Mutex<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Whole values stand behind both.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tokens {
    /// Those in a key store; none if it has no file of them.
    pub(super) fn load(keys: &Path) -> Result<Self, TokenError> {
        let path = keys.join(FILE);
        let kept = read(&path)?;
        Ok(Self {
            path,
            kept: Mutex::new(kept),
            writing: Mutex::default(),
        })
    }

    /// Whose token this is.
    pub(super) fn check(&self, secret: &str, now_unix_ms: u64) -> Result<Good, Bad> {
        let hash = hash(secret);
        let kept = lock(&self.kept);
        // Compared in constant time, and with all of them.
        let found = kept.iter().fold(
            None,
            |found, kept| if kept.hash == hash { Some(kept) } else { found },
        );
        match found {
            None => Err(Bad::Unknown),
            Some(Kept { token, .. }) if expired(token, now_unix_ms) => Err(Bad::Expired(token.name.clone())),
            Some(Kept { token, hash }) => Ok(Good {
                name: token.name.clone(),
                role: token.role,
                hash: *hash,
            }),
        }
    }

    /// Whether it is good still.
    pub(super) fn still(&self, good: &Good, now_unix_ms: u64) -> bool {
        let same = |kept: &Kept| kept.hash == good.hash && !expired(&kept.token, now_unix_ms);
        lock(&self.kept).iter().any(same)
    }

    /// Every token, in order of their names.
    pub(super) fn list(&self) -> Vec<Token> {
        let kept = lock(&self.kept);
        let mut tokens: Vec<Token> = kept.iter().map(|kept| kept.token.clone()).collect();
        tokens.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        tokens
    }

    /// Makes one. Waits for the disk.
    pub(super) fn add(&self, asked: &TokenAdd, now_unix_ms: u64) -> Result<TokenAdded, RpcError> {
        let TokenAdd {
            name,
            role,
            expires_days,
        } = asked;
        let mut wrong = RpcError::new(Code::InvalidParams, TOKEN_ADD, "no token can be made of this");
        let good =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
        if !(1..=NAME).contains(&name.len()) || !name.bytes().all(good) {
            let remedy = format!("up to {NAME} lower-case letters, digits, - and _");
            wrong = wrong.problem("name", format!("`{name}` is no name of a token"), remedy);
        }
        if let Some(days) = expires_days.filter(|days| !(1..=DAYS).contains(days)) {
            wrong = wrong.problem("expires_days", format!("{days} days"), format!("1 to {DAYS}"));
        }
        if !wrong.data.problems.is_empty() {
            return Err(wrong);
        }
        let _writing = lock(&self.writing);
        let mut kept = lock(&self.kept).clone();
        if kept.iter().any(|kept| kept.token.name == *name) {
            let what = format!("there is a token {name}");
            return Err(RpcError::new(Code::Conflict, self.place(), what)
                .remedy(format!("another name, or `pollux token remove {name}` first")));
        }
        if kept.len() >= TOKENS {
            let what = format!("there are {TOKENS} tokens");
            return Err(RpcError::new(Code::Conflict, self.place(), what)
                .remedy("`pollux token list` shows them, `pollux token remove NAME` makes room"));
        }
        let secret = secret().ok_or_else(|| {
            RpcError::new(Code::Failed, self.place(), "the system has no random bytes")
                .remedy("ask again later")
        })?;
        let token = Token {
            name: name.clone(),
            role: *role,
            created_unix_ms: now_unix_ms,
            expires_unix_ms: expires_days.map(|days| now_unix_ms + u64::from(days) * DAY_MS),
        };
        kept.push(Kept {
            token: token.clone(),
            hash: hash(&secret),
        });
        self.keep(kept)?;
        Ok(TokenAdded { secret, token })
    }

    /// Takes one away. Waits for the disk.
    pub(super) fn remove(&self, asked: &TokenRemove) -> Result<TokenRemoved, RpcError> {
        let _writing = lock(&self.writing);
        let mut kept = lock(&self.kept).clone();
        let before = kept.len();
        kept.retain(|kept| kept.token.name != asked.name);
        let removed = kept.len() < before;
        if removed {
            self.keep(kept)?;
        }
        Ok(TokenRemoved { removed })
    }

    fn keep(&self, kept: Vec<Kept>) -> Result<(), RpcError> {
        write(&self.path, &kept).map_err(|error| refusal(&error))?;
        *lock(&self.kept) = kept;
        Ok(())
    }

    fn place(&self) -> String {
        self.path.display().to_string()
    }
}

/// What is answered when the file is the trouble.
pub(super) fn refusal(error: &TokenError) -> RpcError {
    RpcError::new(Code::Failed, FILE, error.to_string()).remedy("mend the key store; nothing was changed")
}

fn expired(token: &Token, now_unix_ms: u64) -> bool {
    token.expires_unix_ms.is_some_and(|end| now_unix_ms >= end)
}

fn hash(secret: &str) -> blake3::Hash {
    blake3::Hash::from_bytes(blake3::derive_key("pollux management token 1", secret.as_bytes()))
}

fn secret() -> Option<String> {
    let mut bytes = [0; 32];
    SystemRandom::new().fill(&mut bytes).ok()?;
    let mut secret = PREFIX.to_owned();
    for byte in bytes {
        // Writing to a string does not fail.
        let _ = write!(secret, "{byte:02x}");
    }
    Some(secret)
}

fn read(path: &Path) -> Result<Vec<Kept>, TokenError> {
    let io = |source| TokenError::Io {
        path: path.to_owned(),
        source,
    };
    let malformed = |what: String| TokenError::Malformed {
        path: path.to_owned(),
        what,
    };
    let metadata = match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        metadata => metadata.map_err(io)?,
    };
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let path = path.to_owned();
        return Err(TokenError::Exposed { path, mode });
    }
    let bytes = std::fs::read(path).map_err(io)?;
    let board: Board = serde_json::from_slice(&bytes).map_err(|error| {
        malformed(format!(
            "line {}, column {} is not as written",
            error.line(),
            error.column()
        ))
    })?;
    if board.version != VERSION {
        return Err(malformed(format!(
            "version {} where {VERSION} should be",
            board.version
        )));
    }
    let kept = board.tokens.into_iter().map(|Line { token, hash }| {
        let hash =
            blake3::Hash::from_hex(&hash).map_err(|_| malformed(format!("no hash of {}", token.name)))?;
        Ok(Kept { token, hash })
    });
    kept.collect()
}

fn write(path: &Path, kept: &[Kept]) -> Result<(), TokenError> {
    let io = |source| TokenError::Io {
        path: path.to_owned(),
        source,
    };
    let lines = kept.iter().map(|kept| Line {
        token: kept.token.clone(),
        hash: kept.hash.to_hex().to_string(),
    });
    let board = Board {
        version: VERSION,
        tokens: lines.collect(),
    };
    let text = serde_json::to_string_pretty(&board).map_err(|error| io(error.into()))? + "\n";
    if let Some(keys) = path.parent() {
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(keys).map_err(io)?;
    }
    replace(path, text.as_bytes(), 0o600).map_err(io)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(name: &str, expires_days: Option<u32>) -> TokenAdd {
        TokenAdd {
            name: name.into(),
            role: Role::Operator,
            expires_days,
        }
    }

    #[test]
    fn a_token_is_kept_as_a_hash_and_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let keys = dir.path().join("keys");
        let tokens = Tokens::load(&keys).unwrap();
        let ops = tokens.add(&ask("ops", None), 1000).unwrap();
        let brief = tokens.add(&ask("brief", Some(1)), 1000).unwrap();
        assert_eq!(ops.secret.len(), PREFIX.len() + 64);
        assert_ne!(ops.secret, brief.secret);
        assert!(!format!("{ops:?}").contains(&ops.secret));
        let path = keys.join(FILE);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains(&ops.secret[PREFIX.len()..]));
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        // Whoever comes after a restart knows the same.
        let again = Tokens::load(&keys).unwrap();
        assert_eq!(again.list(), tokens.list());
        assert_eq!(again.list()[0].name, "brief");
        let good = again.check(&ops.secret, u64::MAX).unwrap();
        assert_eq!((good.name.as_str(), good.role), ("ops", Role::Operator));
        for wrong in [
            "",
            "ops",
            &ops.secret[1..],
            &(ops.secret.clone() + "0"),
            &ops.secret.to_uppercase(),
        ] {
            assert_eq!(again.check(wrong, 0).unwrap_err(), Bad::Unknown, "{wrong}");
        }
        let end = 1000 + DAY_MS;
        let good = again.check(&brief.secret, end - 1).unwrap();
        assert!(again.still(&good, end - 1) && !again.still(&good, end));
        assert_eq!(
            again.check(&brief.secret, end).unwrap_err(),
            Bad::Expired("brief".into())
        );
        let remove = |name: &str| again.remove(&TokenRemove { name: name.into() }).unwrap().removed;
        assert!(remove("brief") && !remove("brief"));
        assert!(!again.still(&good, 0));
        assert_eq!(again.check(&brief.secret, 0).unwrap_err(), Bad::Unknown);
        assert_eq!(Tokens::load(&keys).unwrap().list().len(), 1);
    }

    #[test]
    fn what_is_no_token_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = Tokens::load(dir.path()).unwrap();
        for (name, days) in [
            ("", None),
            ("Ops", None),
            ("a/b", None),
            (&"x".repeat(33)[..], None),
            ("x", Some(0)),
            ("x", Some(3651)),
        ] {
            let refused = tokens.add(&ask(name, days), 0).unwrap_err();
            assert!(
                refused.is(Code::InvalidParams) && refused.data.problems.len() == 1,
                "{name}: {refused}"
            );
        }
        tokens.add(&ask("ops", None), 0).unwrap();
        assert!(tokens.add(&ask("ops", None), 0).unwrap_err().is(Code::Conflict));
        for number in 1..TOKENS {
            lock(&tokens.kept).push(Kept {
                token: Token {
                    name: number.to_string(),
                    role: Role::Viewer,
                    created_unix_ms: 0,
                    expires_unix_ms: None,
                },
                hash: hash(""),
            });
        }
        let refused = tokens.add(&ask("one-more", None), 0).unwrap_err();
        assert!(
            refused.is(Code::Conflict) && refused.data.what.contains("256"),
            "{refused}"
        );
    }

    #[test]
    fn damage_opens_nothing_and_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let tokens = Tokens::load(dir.path()).unwrap();
        tokens.add(&ask("ops", None), 0).unwrap();
        let whole = std::fs::read_to_string(&path).unwrap();
        for (damaged, named) in [
            (whole[..whole.len() / 2].to_owned(), "line"),
            (whole.replace("\"version\": 1", "\"version\": 2"), "version 2"),
            (whole.replace("\"hash\": \"", "\"hash\": \"x"), "no hash of ops"),
            (whole.replace("operator", "root"), "line"),
        ] {
            std::fs::write(&path, damaged).unwrap();
            let refused = Tokens::load(dir.path()).unwrap_err().to_string();
            assert!(refused.contains(named) && refused.contains(FILE), "{refused}");
        }
        std::fs::write(&path, whole).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(
            Tokens::load(dir.path()),
            Err(TokenError::Exposed { mode: 0o644, .. })
        ));
        // What cannot be kept opens nothing.
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        let refused = tokens.add(&ask("late", None), 0).unwrap_err();
        assert!(refused.is(Code::Failed), "{refused}");
        assert_eq!(tokens.list().len(), 1);
    }
}
