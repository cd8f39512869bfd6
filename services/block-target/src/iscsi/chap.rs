//! CHAP: each side proves that it knows a secret without saying it (RFC 1994; RFC 7143, 12.1.3).
//!
//! A watchword at a gate: the guard calls out a word that was never used before, and only who knows the secret can
//! answer it. The host may call out a word of its own, and the guard proves himself as well (*mutual*).
//!
//! ```text
//!  host                                   target
//!  CHAP_A=8,7,5  ------------------------>
//!                <------------------------  CHAP_A=8 CHAP_I=.. CHAP_C=..
//!  CHAP_N CHAP_R [CHAP_I CHAP_C] -------->  right? only then:
//!                <------------------------  [CHAP_N CHAP_R]
//! ```
//!
//! Invariants: a challenge comes from the system's random numbers and is used once; the target proves itself only to
//! who has proven himself first; it never answers its own challenge (reflection), and has one secret per direction,
//! so that no answer of one direction is one of the other.
//!
//! It must never show a secret: not in an error, a log or [`std::fmt::Debug`].

use super::text;
use md5::{Digest, Md5};
use sha3::Sha3_256;
use std::fmt;
use std::sync::Arc;
use subtle::ConstantTimeEq;

/// Longest challenge that is answered (RFC 7143, 12.1.3).
const CHALLENGE_MAX: usize = 1024;

/// How a response is computed. Numbers: IANA, PPP authentication algorithms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Algorithm {
    /// MD5: what every host speaks.
    Md5 = 5,
    /// SHA-256.
    Sha256 = 7,
    /// SHA3-256.
    Sha3 = 8,
}

impl Algorithm {
    fn of_number(number: u32) -> Option<Self> {
        [Self::Md5, Self::Sha256, Self::Sha3]
            .into_iter()
            .find(|algorithm| *algorithm as u32 == number)
    }

    /// The first of a host's list, which is in the order of its preference, that is known here.
    #[must_use]
    pub fn choose(list: &str) -> Option<Self> {
        list.split(',').filter_map(text::number).find_map(Self::of_number)
    }

    /// What proves the secret: the digest of identifier, secret and challenge (RFC 1994, 4.1).
    #[must_use]
    pub fn respond(self, identifier: u8, secret: &[u8], challenge: &[u8]) -> Vec<u8> {
        let parts: [&[u8]; 3] = [&[identifier], secret, challenge];
        match self {
            Self::Md5 => parts
                .iter()
                .fold(Md5::new(), Md5::chain_update)
                .finalize()
                .to_vec(),
            Self::Sha3 => parts
                .iter()
                .fold(Sha3_256::new(), Sha3_256::chain_update)
                .finalize()
                .to_vec(),
            Self::Sha256 => {
                let mut context = ring::digest::Context::new(&ring::digest::SHA256);
                parts.iter().for_each(|part| context.update(part));
                context.finish().as_ref().to_vec()
            }
        }
    }
}

/// A name and the secret that goes with it.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// The name (CHAP_N).
    pub user: String,
    secret: Vec<u8>,
}

impl Credential {
    /// A name with its secret.
    #[must_use]
    pub fn new(user: impl Into<String>, secret: impl Into<Vec<u8>>) -> Self {
        Self {
            user: user.into(),
            secret: secret.into(),
        }
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// What a host proves itself by, and what the target proves itself by to that host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The host's.
    pub host: Credential,
    /// The target's, if it has one for this host.
    pub target: Option<Credential>,
}

impl Credentials {
    /// One secret for both directions lets a stranger have the target answer its own challenge (RFC 7143, 12.1.4
    /// forbids it).
    #[must_use]
    pub fn are_the_same(&self) -> bool {
        let same = |target: &Credential| bool::from(target.secret.ct_eq(&self.host.secret));
        self.target.as_ref().is_some_and(same)
    }
}

/// What the target calls out: an identifier and random bytes. Of use for one login only.
#[derive(Clone, PartialEq, Eq)]
pub struct Challenge {
    identifier: u8,
    bytes: [u8; 32],
}

impl fmt::Debug for Challenge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Challenge")
    }
}

impl Challenge {
    /// A new one, from the system's random numbers.
    ///
    /// # Errors
    /// The system has none.
    pub fn draw() -> Result<Self, getrandom::Error> {
        let mut random = [0; 33];
        getrandom::fill(&mut random)?;
        Ok(Self::from_random(random))
    }

    /// From random bytes.
    #[must_use]
    pub fn from_random(random: [u8; 33]) -> Self {
        let [identifier, bytes @ ..] = random;
        Self { identifier, bytes }
    }
}

/// Why somebody was not let in. For the journal; the wire says the same of all of them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// No common algorithm.
    #[error("CHAP_A names no algorithm that is known here (5 MD5, 7 SHA-256, 8 SHA3-256)")]
    Algorithm,
    /// Keys that do not belong here.
    #[error("{0}")]
    Order(&'static str),
    /// The name is another, or the secret is.
    #[error("name or secret is wrong")]
    Wrong,
    /// The host has sent back what it was asked.
    #[error("the host's challenge is the target's own (reflection)")]
    Reflection,
    /// The host wants a proof that there is no secret for.
    #[error("the host asks the target to prove itself, and there is no key for that (purpose mutual_chap)")]
    NoTargetSecret,
    /// CHAP_R, CHAP_I or CHAP_C cannot be read.
    #[error("{0} is no value of its kind")]
    Value(&'static str),
}

/// The keys of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// CHAP_A.
    pub algorithms: Option<String>,
    /// CHAP_N.
    pub name: Option<String>,
    /// CHAP_R.
    pub response: Option<String>,
    /// CHAP_I.
    pub identifier: Option<String>,
    /// CHAP_C.
    pub challenge: Option<String>,
}

impl Offer {
    /// Takes the key if it is one of CHAP's.
    pub fn take(&mut self, key: &str, value: &str) -> bool {
        let field = match key {
            "CHAP_A" => &mut self.algorithms,
            "CHAP_N" => &mut self.name,
            "CHAP_R" => &mut self.response,
            "CHAP_I" => &mut self.identifier,
            "CHAP_C" => &mut self.challenge,
            _ => return false,
        };
        *field = Some(value.to_owned());
        true
    }

    /// None of the keys is there.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Begun,
    Asked(Algorithm),
    Proven,
}

/// One exchange, the target's half.
#[derive(Debug)]
pub struct Exchange {
    credentials: Arc<Credentials>,
    challenge: Challenge,
    state: State,
}

impl Exchange {
    /// An exchange with a host of whom these are known.
    #[must_use]
    pub fn new(credentials: Arc<Credentials>, challenge: Challenge) -> Self {
        Self {
            credentials,
            challenge,
            state: State::Begun,
        }
    }

    /// The host has proven itself.
    #[must_use]
    pub fn is_proven(&self) -> bool {
        self.state == State::Proven
    }

    /// Takes the keys of a request; the keys of the answer.
    ///
    /// # Errors
    /// [`Denied`]; the login is over.
    pub fn step(&mut self, offer: &Offer) -> Result<Vec<(&'static str, String)>, Denied> {
        if offer.is_empty() {
            return Ok(Vec::new());
        }
        match (self.state, &offer.algorithms) {
            (State::Begun, Some(list)) => {
                if offer.name.is_some() || offer.response.is_some() || offer.challenge.is_some() {
                    return Err(Denied::Order("an answer came before the challenge"));
                }
                let algorithm = Algorithm::choose(list).ok_or(Denied::Algorithm)?;
                self.state = State::Asked(algorithm);
                Ok(vec![
                    ("CHAP_A", (algorithm as u8).to_string()),
                    ("CHAP_I", self.challenge.identifier.to_string()),
                    ("CHAP_C", text::hexadecimal(&self.challenge.bytes)),
                ])
            }
            (State::Begun, None) => Err(Denied::Order("CHAP_A is missing")),
            (State::Asked(algorithm), None) => {
                let answer = self.check(algorithm, offer)?;
                self.state = State::Proven;
                Ok(answer)
            }
            (State::Asked(_) | State::Proven, Some(_)) | (State::Proven, None) => {
                Err(Denied::Order("CHAP goes on after its end"))
            }
        }
    }

    fn check(&self, algorithm: Algorithm, offer: &Offer) -> Result<Vec<(&'static str, String)>, Denied> {
        let (Some(name), Some(response)) = (&offer.name, &offer.response) else {
            return Err(Denied::Order("CHAP_N or CHAP_R is missing"));
        };
        let response = text::binary(response, CHALLENGE_MAX).ok_or(Denied::Value("CHAP_R"))?;
        let host = &self.credentials.host;
        let right = algorithm.respond(self.challenge.identifier, &host.secret, &self.challenge.bytes);
        // Both are compared whatever the first says, so that the time does not tell them apart.
        let proven = name.as_bytes().ct_eq(host.user.as_bytes()) & right.ct_eq(&response);
        if !bool::from(proven) {
            return Err(Denied::Wrong);
        }
        let (identifier, challenge) = match (&offer.identifier, &offer.challenge) {
            (None, None) => return Ok(Vec::new()),
            (Some(identifier), Some(challenge)) => (identifier, challenge),
            _ => return Err(Denied::Order("CHAP_I and CHAP_C go together")),
        };
        let identifier = text::number(identifier)
            .and_then(|number| u8::try_from(number).ok())
            .ok_or(Denied::Value("CHAP_I"))?;
        let challenge = text::binary(challenge, CHALLENGE_MAX)
            .filter(|bytes| !bytes.is_empty())
            .ok_or(Denied::Value("CHAP_C"))?;
        if challenge == self.challenge.bytes {
            return Err(Denied::Reflection);
        }
        let target = self.credentials.target.as_ref().ok_or(Denied::NoTargetSecret)?;
        let proof = algorithm.respond(identifier, &target.secret, &challenge);
        Ok(vec![
            ("CHAP_N", target.user.clone()),
            ("CHAP_R", text::hexadecimal(&proof)),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST_SECRET: &str = "host-secret-12";
    const TARGET_SECRET: &str = "target-secret-12";

    fn credentials() -> Arc<Credentials> {
        Arc::new(Credentials {
            host: Credential::new("host", HOST_SECRET),
            target: Some(Credential::new("array", TARGET_SECRET)),
        })
    }

    fn exchange() -> Exchange {
        let random = std::array::from_fn(|at| at as u8 + 1);
        Exchange::new(credentials(), Challenge::from_random(random))
    }

    fn offer(pairs: &[(&str, &str)]) -> Offer {
        let mut offer = Offer::default();
        for (key, value) in pairs {
            assert!(offer.take(key, value), "{key}");
        }
        offer
    }

    fn asked(exchange: &mut Exchange, list: &str) -> (Algorithm, u8, Vec<u8>) {
        let answer = exchange.step(&offer(&[("CHAP_A", list)])).expect("a challenge");
        let [(_, algorithm), (_, identifier), (_, challenge)] = &answer[..] else {
            panic!("{answer:?}")
        };
        (
            Algorithm::choose(algorithm).expect("one"),
            identifier.parse().expect("a byte"),
            text::binary(challenge, 1024).expect("bytes"),
        )
    }

    /// Known answers: MD5, SHA-256 and SHA3-256 of the bytes 07 "secret" 01 02 03, computed by another program.
    #[test]
    fn responses_are_the_digests_that_others_compute() {
        let of = |algorithm: Algorithm| text::hexadecimal(&algorithm.respond(7, b"secret", &[1, 2, 3]));
        assert_eq!(of(Algorithm::Md5), "0xcdeeb61420fa9e1b2d5b00336857b9ef");
        assert_eq!(
            of(Algorithm::Sha256),
            "0x51d5f35cc3e48506612bc645077b5922b2bef29a05147972e55a06ef7e9bc3b3"
        );
        assert_eq!(
            of(Algorithm::Sha3),
            "0x8a638df74ac86e960162bc77a493a597554d6773c4985a09880b903432e00233"
        );
    }

    #[test]
    fn the_hosts_order_decides_among_what_is_known() {
        assert_eq!(Algorithm::choose("6,8,7,5"), Some(Algorithm::Sha3));
        assert_eq!(Algorithm::choose("5,7,8"), Some(Algorithm::Md5));
        assert_eq!(Algorithm::choose("7"), Some(Algorithm::Sha256));
        assert_eq!(Algorithm::choose("6,x,,"), None);
    }

    #[test]
    fn who_knows_the_secret_is_let_in_and_told_the_targets() {
        for list in ["5", "7", "8"] {
            let mut exchange = exchange();
            let (algorithm, identifier, challenge) = asked(&mut exchange, list);
            let response = algorithm.respond(identifier, HOST_SECRET.as_bytes(), &challenge);
            let answer = exchange
                .step(&offer(&[
                    ("CHAP_N", "host"),
                    ("CHAP_R", &text::hexadecimal(&response)),
                    ("CHAP_I", "9"),
                    ("CHAP_C", "0x0102030405060708"),
                ]))
                .expect("proven");
            assert!(exchange.is_proven());
            let proof = algorithm.respond(9, TARGET_SECRET.as_bytes(), &[1, 2, 3, 4, 5, 6, 7, 8]);
            assert_eq!(
                answer,
                [
                    ("CHAP_N", "array".to_owned()),
                    ("CHAP_R", text::hexadecimal(&proof))
                ]
            );
        }
    }

    #[test]
    fn everybody_else_is_not() {
        let right = |exchange: &mut Exchange| {
            let (algorithm, identifier, challenge) = asked(exchange, "5");
            let response = algorithm.respond(identifier, HOST_SECRET.as_bytes(), &challenge);
            (text::hexadecimal(&response), text::hexadecimal(&challenge))
        };
        type Pairs = Vec<(&'static str, String)>;
        let denied = |pairs: &dyn Fn(&str, &str) -> Pairs| {
            let mut exchange = exchange();
            let (response, challenge) = right(&mut exchange);
            let pairs = pairs(&response, &challenge);
            let pairs: Vec<_> = pairs.iter().map(|(key, value)| (*key, value.as_str())).collect();
            let denied = exchange.step(&offer(&pairs)).expect_err("not let in");
            assert!(!exchange.is_proven());
            denied
        };
        let name = || ("CHAP_N", "host".to_owned());
        let own = |key, value: &str| (key, value.to_owned());
        assert_eq!(
            denied(&|response, _| vec![own("CHAP_N", "other"), own("CHAP_R", response)]),
            Denied::Wrong
        );
        assert_eq!(denied(&|_, _| vec![name(), own("CHAP_R", "0x00")]), Denied::Wrong);
        assert_eq!(
            denied(&|_, _| vec![name(), own("CHAP_R", "")]),
            Denied::Value("CHAP_R")
        );
        assert!(matches!(denied(&|_, _| vec![name()]), Denied::Order(_)));
        assert!(matches!(
            denied(&|response, _| vec![own("CHAP_A", "5"), own("CHAP_R", response)]),
            Denied::Order(_)
        ));
        let with = |response: &str, identifier: &str, challenge: &str| {
            vec![
                name(),
                own("CHAP_R", response),
                own("CHAP_I", identifier),
                own("CHAP_C", challenge),
            ]
        };
        assert_eq!(
            denied(&|response, challenge| with(response, "1", challenge)),
            Denied::Reflection
        );
        assert_eq!(
            denied(&|response, _| with(response, "256", "0x01")),
            Denied::Value("CHAP_I")
        );
        assert_eq!(
            denied(&|response, _| with(response, "1", "0x")),
            Denied::Value("CHAP_C")
        );
        let long = format!("0x{}", "00".repeat(1025));
        assert_eq!(
            denied(&|response, _| with(response, "1", &long)),
            Denied::Value("CHAP_C")
        );
        assert!(matches!(
            denied(&|response, _| vec![name(), own("CHAP_R", response), own("CHAP_I", "1")]),
            Denied::Order(_)
        ));
    }

    #[test]
    fn a_proof_that_nobody_has_a_secret_for_is_refused() {
        let credentials = Credentials {
            target: None,
            ..(*credentials()).clone()
        };
        let mut exchange = Exchange::new(Arc::new(credentials), Challenge::draw().expect("random"));
        let (algorithm, identifier, challenge) = asked(&mut exchange, "5");
        let response = text::hexadecimal(&algorithm.respond(identifier, HOST_SECRET.as_bytes(), &challenge));
        let pairs = [
            ("CHAP_N", "host"),
            ("CHAP_R", &response),
            ("CHAP_I", "1"),
            ("CHAP_C", "0x01"),
        ];
        assert_eq!(exchange.step(&offer(&pairs)), Err(Denied::NoTargetSecret));
    }

    #[test]
    fn no_secret_is_shown() {
        let shown = format!("{:?} {:?}", credentials(), exchange());
        assert!(!shown.contains("secret-12"), "{shown}");
        assert!(shown.contains("array"));
        let same = Credentials {
            host: Credential::new("a", HOST_SECRET),
            target: Some(Credential::new("b", HOST_SECRET)),
        };
        assert!(same.are_the_same() && !credentials().are_the_same());
    }

    #[test]
    fn challenges_differ() {
        let draw = || Challenge::draw().expect("random");
        let drawn: Vec<_> = (0..100).map(|_| draw().bytes).collect();
        let distinct: std::collections::BTreeSet<_> = drawn.iter().collect();
        assert_eq!(distinct.len(), drawn.len());
    }
}
