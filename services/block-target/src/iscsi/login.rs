//! Logging in: who are you, can you prove it, what do you want, and how shall we talk (RFC 7143, 6 and 12).
//!
//! ```text
//!            AuthMethod, CHAP                operational keys
//!  security ----------------> operational -------------------> full feature
//!      \______________________________________________________/
//! ```
//!
//! A function of the requests: [`Login::step`] takes a Login Request and says what to answer and whether the
//! session stands. Who is admitted, and by which proof, it asks the [`Doorkeeper`].
//!
//! Invariants: a host that has to prove itself passes the security stage only proven; a host that the configuration
//! does not have gets no session but an empty discovery; nothing of a refusal tells which of name and secret was wrong.

use super::chap::{Challenge, Credentials, Exchange, Offer};
use super::keys::Negotiation;
pub use super::keys::{MAX_RECEIVE, Parameters};
use super::limits::{LOGIN_REQUESTS, LOGIN_SEGMENT, TEXT_MAX};
use super::pdu::{Header, Pdu, request, response};
use super::text;
use std::sync::Arc;

/// Longest name of an initiator (RFC 7143, 4.2.7.1).
const NAME_MAX: usize = 223;

/// Class and detail of a Login Response (11.13.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Refusal {
    /// The request makes no sense.
    InitiatorError = 0x0200,
    /// The initiator has not proven who it is.
    Authentication = 0x0201,
    /// The initiator has nothing to do here.
    Authorization = 0x0202,
    /// No such target.
    NotFound = 0x0203,
    /// No common version.
    UnsupportedVersion = 0x0205,
    /// Sessions have one connection here.
    TooManyConnections = 0x0206,
    /// A key that is mandatory is missing.
    MissingParameter = 0x0207,
    /// No such type of session.
    SessionType = 0x0209,
    /// No such session.
    NoSession = 0x020a,
    /// Not a Login Request.
    NotALogin = 0x020b,
    /// Something is wrong here.
    TargetError = 0x0300,
    /// Not now.
    Unavailable = 0x0301,
    /// No more sessions.
    OutOfResources = 0x0302,
}

/// How a host is let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// The configuration does not have it.
    Unknown,
    /// By its name.
    Open,
    /// When it has proven itself.
    Chap(Arc<Credentials>),
    /// It would have to prove itself, and its secret is not at hand now.
    Locked,
}

/// Knows the hosts.
pub trait Doorkeeper {
    /// How the initiator of this name is let in.
    fn admit(&self, initiator: &str) -> Admission;
}

/// A session that has been agreed upon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// Name of the initiator.
    pub initiator: String,
    /// The initiator's part of the session's identity.
    pub isid: [u8; 6],
    /// The session to which the connection is to belong; zero: a new one.
    pub tsih: u16,
    /// The connection's number within the session.
    pub cid: u16,
    /// Only to ask for targets.
    pub discovery: bool,
    /// By what the initiator has proven itself.
    pub proof: Option<Arc<Credentials>>,
    /// How to talk.
    pub parameters: Parameters,
    /// First command sequence number to expect.
    pub cmd_sn: u32,
}

/// What comes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Answer, and wait for the next request.
    Continue(Header, Vec<u8>),
    /// Answer; the session stands.
    Done(Header, Vec<u8>, Box<Agreed>),
    /// Answer, and close.
    Refuse(Header, String),
}

/// Fields that are the same in every request of a login (11.12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Constant {
    isid: [u8; 6],
    tsih: u16,
    tag: u32,
    cid: u16,
}

impl Constant {
    fn of(header: &Header) -> Self {
        Self {
            isid: header.0[8..14].try_into().expect("six bytes"),
            tsih: header.get16(14),
            tag: header.tag(),
            cid: header.get16(20),
        }
    }
}

/// How the initiator proves itself.
#[derive(Debug)]
enum Proof {
    /// It has not been asked who it is.
    Unasked,
    /// It need not.
    Open,
    /// It has to, and has not begun.
    Due(Arc<Credentials>),
    /// It does.
    UnderWay(Exchange, Arc<Credentials>),
}

/// The state of one login.
#[derive(Debug)]
pub struct Login {
    target: String,
    portal_group: u16,
    challenge: Challenge,
    constant: Option<Constant>,
    requests: u32,
    /// Text that was announced to go on.
    text: Vec<u8>,
    /// An answer of which the initiator has not fetched everything.
    unsent: Vec<u8>,
    /// The first text has been answered.
    begun: bool,
    discovery: bool,
    initiator: Option<String>,
    named_target: Option<String>,
    proof: Proof,
    declared: bool,
    group_said: bool,
    negotiation: Negotiation,
    stage: u8,
}

const SECURITY: u8 = 0;
const OPERATIONAL: u8 = 1;
const FULL_FEATURE: u8 = 3;
/// The bit that says that text goes on.
const CONTINUES: u8 = 0x40;

type Refused = (Refusal, String);

fn error(why: impl Into<String>) -> Refused {
    (Refusal::InitiatorError, why.into())
}

impl Login {
    /// A login at the target of this name, through this portal group. The challenge is for this login only.
    #[must_use]
    pub fn new(target: &str, portal_group: u16, challenge: Challenge) -> Self {
        Self {
            target: target.to_owned(),
            portal_group,
            challenge,
            constant: None,
            requests: 0,
            text: Vec::new(),
            unsent: Vec::new(),
            begun: false,
            discovery: false,
            initiator: None,
            named_target: None,
            proof: Proof::Unasked,
            declared: false,
            group_said: false,
            negotiation: Negotiation::default(),
            stage: SECURITY,
        }
    }

    /// Who it says he is, once he has.
    #[must_use]
    pub fn initiator(&self) -> Option<&str> {
        self.initiator.as_deref()
    }

    /// The next request.
    pub fn step(&mut self, pdu: &Pdu, door: &dyn Doorkeeper) -> Step {
        let mut reply = Header::response(response::LOGIN, pdu.header.tag());
        reply.0[1] = 0;
        reply.0[8..16].copy_from_slice(&pdu.header.0[8..16]);
        match self.take(pdu, &mut reply, door) {
            Ok((answer, None)) => Step::Continue(reply, answer),
            Ok((answer, Some(agreed))) => Step::Done(reply, answer, Box::new(agreed)),
            Err((refusal, why)) => Step::Refuse(refuse(reply, refusal), why),
        }
    }

    fn take(
        &mut self,
        pdu: &Pdu,
        reply: &mut Header,
        door: &dyn Doorkeeper,
    ) -> Result<(Vec<u8>, Option<Agreed>), Refused> {
        let header = &pdu.header;
        self.check_header(pdu)?;
        let (transit, continues) = (header.is_final(), header.0[1] & CONTINUES != 0);
        let (current, next) = (header.0[1] >> 2 & 3, header.0[1] & 3);
        if !matches!(current, SECURITY | OPERATIONAL) || self.begun && current != self.stage {
            return Err(error(format!("stage {current} in stage {}", self.stage)));
        }
        if transit && (continues || next <= current || !matches!(next, OPERATIONAL | FULL_FEATURE)) {
            return Err(error(format!("no way from stage {current} to stage {next}")));
        }
        self.stage = current;
        reply.0[1] = current << 2;
        if !self.unsent.is_empty() {
            if !pdu.data.is_empty() || continues {
                return Err(error("the last answer has not been fetched to its end"));
            }
        } else {
            if self.text.len() + pdu.data.len() > TEXT_MAX {
                return Err(error(format!("more than {TEXT_MAX} bytes of text")));
            }
            self.text.extend_from_slice(&pdu.data);
            if continues {
                return Ok((Vec::new(), None));
            }
            let text = std::mem::take(&mut self.text);
            let keys = text::split(&text).map_err(|bad| error(bad.to_string()))?;
            self.unsent = self.answer(&keys, door)?;
        }
        let rest = self.unsent.split_off(self.unsent.len().min(LOGIN_SEGMENT));
        let piece = std::mem::replace(&mut self.unsent, rest);
        if !self.unsent.is_empty() {
            reply.0[1] |= CONTINUES;
            return Ok((piece, None));
        }
        if !transit || current == SECURITY && !self.may_leave_security()? {
            return Ok((piece, None));
        }
        reply.0[1] = 0x80 | current << 2 | next;
        self.stage = next;
        if next != FULL_FEATURE {
            return Ok((piece, None));
        }
        self.negotiation
            .check()
            .map_err(|wrong| error(wrong.to_string()))?;
        Ok((piece, Some(self.agreed(header))))
    }

    fn agreed(&self, header: &Header) -> Agreed {
        let proof = match &self.proof {
            Proof::UnderWay(_, credentials) => Some(credentials.clone()),
            Proof::Unasked | Proof::Open | Proof::Due(_) => None,
        };
        let constant = Constant::of(header);
        Agreed {
            initiator: self.initiator.clone().unwrap_or_default(),
            isid: constant.isid,
            tsih: constant.tsih,
            cid: constant.cid,
            discovery: self.discovery,
            proof,
            parameters: self.negotiation.parameters.clone(),
            cmd_sn: header.get32(24),
        }
    }

    fn check_header(&mut self, pdu: &Pdu) -> Result<(), Refused> {
        let header = &pdu.header;
        if header.opcode() != request::LOGIN {
            let why = format!("{header:?} came before the login was done");
            return Err((Refusal::NotALogin, why));
        }
        if header.0[3] > 0 {
            let why = format!(
                "the initiator speaks version {} and above, this target 0",
                header.0[3]
            );
            return Err((Refusal::UnsupportedVersion, why));
        }
        let constant = Constant::of(header);
        if *self.constant.get_or_insert(constant) != constant {
            return Err(error(
                "ISID, TSIH, task tag or CID is another than in the first request",
            ));
        }
        if !pdu.additional.is_empty() {
            return Err(error("a Login Request has no additional headers"));
        }
        self.requests += 1;
        if self.requests > LOGIN_REQUESTS {
            return Err(error(format!("more than {LOGIN_REQUESTS} requests")));
        }
        Ok(())
    }

    /// The first text names both ends.
    fn begin(&mut self, door: &dyn Doorkeeper) -> Result<(), Refused> {
        let missing = |key: &str| (Refusal::MissingParameter, format!("{key} is missing"));
        let initiator = self
            .initiator
            .as_deref()
            .ok_or_else(|| missing("InitiatorName"))?;
        match &self.named_target {
            _ if self.discovery => {}
            Some(name) if *name == self.target => {}
            Some(name) => {
                let why = format!("no target {}; this is {}", name.escape_debug(), self.target);
                return Err((Refusal::NotFound, why));
            }
            None => return Err(missing("TargetName")),
        }
        self.proof = match door.admit(initiator) {
            Admission::Open => Proof::Open,
            // It is told of nothing.
            Admission::Unknown if self.discovery => Proof::Open,
            Admission::Unknown => {
                let why = "no host of the configuration has this initiator".to_owned();
                return Err((Refusal::Authorization, why));
            }
            Admission::Chap(credentials) => Proof::Due(credentials),
            Admission::Locked => {
                let why = "its secret has not been opened yet".to_owned();
                return Err((Refusal::Unavailable, why));
            }
        };
        if matches!(self.proof, Proof::Due(_)) && self.stage != SECURITY {
            let why = "it has to prove itself by CHAP and leaves the security stage out".to_owned();
            return Err((Refusal::Authentication, why));
        }
        self.begun = true;
        Ok(())
    }

    /// False: the initiator has yet to answer.
    fn may_leave_security(&self) -> Result<bool, Refused> {
        match &self.proof {
            Proof::Open => Ok(true),
            Proof::UnderWay(exchange, _) => Ok(exchange.is_proven()),
            Proof::Unasked | Proof::Due(_) => {
                let why = "it has to prove itself by CHAP and does not offer it (AuthMethod)".to_owned();
                Err((Refusal::Authentication, why))
            }
        }
    }

    fn answer(&mut self, keys: &[(String, String)], door: &dyn Doorkeeper) -> Result<Vec<u8>, Refused> {
        let mut chap = Offer::default();
        let mut method = None;
        let mut rest = Vec::new();
        for (key, value) in keys {
            self.negotiation
                .offered(key)
                .map_err(|wrong| error(wrong.to_string()))?;
            match key.as_str() {
                "AuthMethod" => method = Some(value.as_str()),
                key if chap.take(key, value) => {}
                key if self.name(key, value)? => {}
                _ => rest.push((key.as_str(), value.as_str())),
            }
        }
        if !self.begun {
            self.begin(door)?;
        }
        let mut out = Vec::new();
        if !self.discovery && !self.group_said {
            text::push(&mut out, "TargetPortalGroupTag", &self.portal_group.to_string());
            self.group_said = true;
        }
        if (method.is_some() || !chap.is_empty()) && self.stage != SECURITY {
            return Err(error("authentication outside of the security stage"));
        }
        if let Some(offered) = method {
            text::push(&mut out, "AuthMethod", self.method(offered)?);
        }
        for (key, value) in self.prove(&chap)? {
            text::push(&mut out, key, &value);
        }
        let mut answers = vec![None; rest.len()];
        for turn in 0..=1 {
            for ((key, value), answer) in rest.iter().zip(&mut answers) {
                if Negotiation::precedence(key) == turn {
                    *answer = self.negotiation.answer(key, value, self.discovery);
                }
            }
        }
        for ((key, _), answer) in rest.iter().zip(answers) {
            if let Some(answer) = answer {
                text::push(&mut out, key, &answer);
            }
        }
        if self.stage == OPERATIONAL && !self.declared {
            text::push(&mut out, "MaxRecvDataSegmentLength", &MAX_RECEIVE.to_string());
            self.declared = true;
        }
        Ok(out)
    }

    /// Takes a key that says who talks to whom. They stand in the first text.
    fn name(&mut self, key: &str, value: &str) -> Result<bool, Refused> {
        if !matches!(key, "InitiatorName" | "TargetName" | "SessionType") {
            return Ok(false);
        }
        if self.begun {
            return Err(error(format!("{key} comes after the first request")));
        }
        match (key, value) {
            ("SessionType", "Discovery") => self.discovery = true,
            ("SessionType", "Normal") => {}
            ("SessionType", other) => {
                let why = format!("SessionType={}: Normal or Discovery", other.escape_debug());
                return Err((Refusal::SessionType, why));
            }
            (_, name) if name.len() > NAME_MAX || !name.chars().all(is_of_name) || name.is_empty() => {
                return Err(error(format!("{key} is no name of 1 to {NAME_MAX} bytes")));
            }
            ("InitiatorName", name) => self.initiator = Some(name.to_owned()),
            (_, name) => self.named_target = Some(name.to_owned()),
        }
        Ok(true)
    }

    /// The method among those offered.
    fn method(&mut self, offered: &str) -> Result<&'static str, Refused> {
        let wanted = match &self.proof {
            Proof::Due(_) | Proof::UnderWay(..) => "CHAP",
            Proof::Open | Proof::Unasked => "None",
        };
        if !offered.split(',').any(|method| method == wanted) {
            let why = format!("AuthMethod has no {wanted}, which is what this host is let in by");
            return Err((Refusal::Authentication, why));
        }
        if let Proof::Due(credentials) = &self.proof {
            let exchange = Exchange::new(credentials.clone(), self.challenge.clone());
            self.proof = Proof::UnderWay(exchange, credentials.clone());
        }
        Ok(wanted)
    }

    fn prove(&mut self, offer: &Offer) -> Result<Vec<(&'static str, String)>, Refused> {
        let denied = |why: String| (Refusal::Authentication, why);
        match &mut self.proof {
            _ if offer.is_empty() => Ok(Vec::new()),
            Proof::UnderWay(exchange, _) => exchange.step(offer).map_err(|why| denied(why.to_string())),
            Proof::Unasked | Proof::Open | Proof::Due(_) => {
                Err(denied("CHAP was not agreed upon (AuthMethod)".to_owned()))
            }
        }
    }
}

/// Makes the answer to a request a refusal.
#[must_use]
pub fn refuse(mut reply: Header, refusal: Refusal) -> Header {
    reply.0[1] = 0;
    reply.put16(14, 0);
    reply.put16(36, refusal as u16);
    reply
}

/// Names are shown in the journal and to the operator.
fn is_of_name(character: char) -> bool {
    !character.is_control() && !character.is_whitespace()
}

#[cfg(test)]
mod tests;
