//! Logging in: who are you, what do you want, and how shall we talk (RFC 7143, 6 and 13).
//!
//! ```text
//!            AuthMethod=None                 operational keys
//!  security ----------------> operational -------------------> full feature
//!      \______________________________________________________/
//! ```
//!
//! A function of the request: [`Login::step`] takes a Login Request and says what to answer and whether the
//! session stands. Who is admitted beyond the form is the caller's business.

use super::pdu::{Digests, Header, Pdu, request, response};
use super::text;

/// Longest data segment that this target takes in one PDU.
pub const MAX_RECEIVE: u32 = 256 * 1024;
/// Longest burst that it agrees to.
const MAX_BURST: u32 = 1024 * 1024;
/// Longest unsolicited burst that it agrees to.
const FIRST_BURST: u32 = 256 * 1024;
/// Text of one login, all its requests together.
const MAX_TEXT: usize = 64 * 1024;
/// Longest data segment that it sends while the initiator's limit is not known yet.
const MAX_LOGIN_REPLY: usize = 8192;

/// Class and detail of a Login Response (11.13.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Refusal {
    /// The request makes no sense.
    InitiatorError = 0x0200,
    /// No such target.
    NotFound = 0x0203,
    /// No common version.
    UnsupportedVersion = 0x0205,
    /// A key that is mandatory is missing.
    MissingParameter = 0x0207,
    /// No such type of session.
    SessionType = 0x0209,
    /// No such session.
    NoSession = 0x020a,
}

/// What was agreed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// Checksums.
    pub digests: Digests,
    /// Longest data segment that the initiator takes.
    pub max_send: u32,
    /// Longest burst, either way.
    pub max_burst: u32,
    /// Longest unsolicited burst.
    pub first_burst: u32,
    /// Data may not come unsolicited in Data-Out PDUs.
    pub initial_r2t: bool,
    /// Data may come with the command.
    pub immediate_data: bool,
}

impl Default for Parameters {
    /// What holds for keys that nobody mentions (RFC 7143, 13).
    fn default() -> Self {
        Self {
            digests: Digests::default(),
            max_send: 8192,
            max_burst: 262_144,
            first_burst: 65_536,
            initial_r2t: true,
            immediate_data: true,
        }
    }
}

/// A session that has been agreed upon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// Name of the initiator.
    pub initiator: String,
    /// The initiator's part of the session's identity.
    pub isid: [u8; 6],
    /// Only to ask for targets.
    pub discovery: bool,
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

/// The state of one login.
#[derive(Debug)]
pub struct Login {
    target: String,
    portal_group: u16,
    /// Text that was announced to go on.
    text: Vec<u8>,
    /// The first request has been answered.
    begun: bool,
    discovery: bool,
    initiator: Option<String>,
    named_target: Option<String>,
    declared: bool,
    group_said: bool,
    parameters: Parameters,
    stage: u8,
}

const SECURITY: u8 = 0;
const OPERATIONAL: u8 = 1;
const FULL_FEATURE: u8 = 3;

type Refused = (Refusal, String);

impl Login {
    /// A login at the target of this name, through this portal group.
    #[must_use]
    pub fn new(target: &str, portal_group: u16) -> Self {
        Self {
            target: target.to_owned(),
            portal_group,
            text: Vec::new(),
            begun: false,
            discovery: false,
            initiator: None,
            named_target: None,
            declared: false,
            group_said: false,
            parameters: Parameters::default(),
            stage: SECURITY,
        }
    }

    /// The next request.
    pub fn step(&mut self, pdu: &Pdu) -> Step {
        let mut reply = Header::response(response::LOGIN, pdu.header.tag());
        reply.0[1] = 0;
        reply.0[8..16].copy_from_slice(&pdu.header.0[8..16]);
        match self.negotiate(pdu, &mut reply) {
            Ok((answer, None)) => Step::Continue(reply, answer),
            Ok((answer, Some(agreed))) => Step::Done(reply, answer, Box::new(agreed)),
            Err((refusal, why)) => {
                reply.0[1] = 0;
                reply.put16(36, refusal as u16);
                Step::Refuse(reply, why)
            }
        }
    }

    fn negotiate(&mut self, pdu: &Pdu, reply: &mut Header) -> Result<(Vec<u8>, Option<Agreed>), Refused> {
        let error = |why: String| (Refusal::InitiatorError, why);
        let header = &pdu.header;
        if header.opcode() != request::LOGIN {
            return Err(error(format!("{header:?} came before the login was done")));
        }
        if header.0[3] > 0 {
            let why = format!(
                "the initiator speaks version {} and above, this target 0",
                header.0[3]
            );
            return Err((Refusal::UnsupportedVersion, why));
        }
        if header.get16(14) != 0 {
            // A connection to be added to a session, of which each has one here.
            return Err((
                Refusal::NoSession,
                format!("no session {} of this initiator", header.get16(14)),
            ));
        }
        let (transit, continues) = (header.is_final(), header.0[1] & 0x40 != 0);
        let (current, next) = (header.0[1] >> 2 & 3, header.0[1] & 3);
        if !matches!(current, SECURITY | OPERATIONAL) || self.begun && current < self.stage {
            return Err(error(format!("stage {current} after stage {}", self.stage)));
        }
        if transit && (continues || next <= current || !matches!(next, OPERATIONAL | FULL_FEATURE)) {
            return Err(error(format!("no way from stage {current} to stage {next}")));
        }
        if self.text.len() + pdu.data.len() > MAX_TEXT {
            return Err(error(format!("more than {MAX_TEXT} bytes of text")));
        }
        self.text.extend_from_slice(&pdu.data);
        self.stage = current;
        reply.0[1] = current << 2;
        if continues {
            return Ok((Vec::new(), None));
        }
        let keys = text::split(&std::mem::take(&mut self.text)).map_err(|bad| error(bad.to_string()))?;
        let answer = self.answer(&keys)?;
        if !self.begun {
            self.check_names()?;
            self.begun = true;
        }
        if !transit {
            return Ok((answer, None));
        }
        reply.0[1] = 0x80 | current << 2 | next;
        if next != FULL_FEATURE {
            self.stage = next;
            return Ok((answer, None));
        }
        // Keys come in any order, and 13.14 binds the one to the other.
        self.parameters.first_burst = self.parameters.first_burst.min(self.parameters.max_burst);
        let agreed = Agreed {
            initiator: self.initiator.clone().unwrap_or_default(),
            isid: header.0[8..14].try_into().expect("six bytes"),
            discovery: self.discovery,
            parameters: self.parameters.clone(),
            cmd_sn: header.get32(24),
        };
        Ok((answer, Some(agreed)))
    }

    /// The first request names both ends.
    fn check_names(&self) -> Result<(), Refused> {
        if self.initiator.as_deref().is_none_or(str::is_empty) {
            return Err((Refusal::MissingParameter, "InitiatorName is missing".into()));
        }
        match &self.named_target {
            _ if self.discovery => Ok(()),
            Some(name) if *name == self.target => Ok(()),
            Some(name) => Err((
                Refusal::NotFound,
                format!("no target {name}; this is {}", self.target),
            )),
            None => Err((Refusal::MissingParameter, "TargetName is missing".into())),
        }
    }

    fn answer(&mut self, keys: &[(String, String)]) -> Result<Vec<u8>, Refused> {
        let mut out = Vec::new();
        for (key, value) in keys {
            if let Some(answer) = self.key(key, value)? {
                text::push(&mut out, key, &answer);
            }
        }
        if !self.discovery && self.initiator.is_some() && !self.group_said {
            text::push(&mut out, "TargetPortalGroupTag", &self.portal_group.to_string());
            self.group_said = true;
        }
        if self.stage == OPERATIONAL && !self.declared {
            text::push(&mut out, "MaxRecvDataSegmentLength", &MAX_RECEIVE.to_string());
            self.declared = true;
        }
        match out.len() <= MAX_LOGIN_REPLY {
            true => Ok(out),
            false => Err((Refusal::InitiatorError, "more keys than can be answered".into())),
        }
    }

    /// One key; `None`: it is a declaration and needs no answer.
    fn key(&mut self, key: &str, value: &str) -> Result<Option<String>, Refused> {
        const REJECT: &str = "Reject";
        let p = &mut self.parameters;
        let number = |low: u32, high: u32| text::number(value).filter(|n| (low..=high).contains(n));
        let least = |low, high, ours: u32| number(low, high).map(|theirs| theirs.min(ours));
        let truth = match value {
            "Yes" => Some(true),
            "No" => Some(false),
            _ => None,
        };
        let word = |yes: bool| if yes { "Yes" } else { "No" }.to_owned();
        let answer = match key {
            "InitiatorName" => {
                self.initiator = Some(value.to_owned());
                return Ok(None);
            }
            "TargetName" => {
                self.named_target = Some(value.to_owned());
                return Ok(None);
            }
            "InitiatorAlias" | "TargetAlias" | "TargetAddress" => return Ok(None),
            "SessionType" => {
                self.discovery = match value {
                    "Discovery" => true,
                    "Normal" => false,
                    other => {
                        return Err((
                            Refusal::SessionType,
                            format!("SessionType={other}: Normal or Discovery"),
                        ));
                    }
                };
                return Ok(None);
            }
            "AuthMethod" => match value.split(',').any(|method| method == "None") {
                true => Some("None".to_owned()),
                false => {
                    let why = format!("AuthMethod={value}: this target offers None");
                    return Err((Refusal::InitiatorError, why));
                }
            },
            "HeaderDigest" | "DataDigest" => {
                let chosen = value
                    .split(',')
                    .find(|digest| matches!(*digest, "CRC32C" | "None"));
                let on = chosen == Some("CRC32C");
                if key == "HeaderDigest" {
                    p.digests.header = on
                } else {
                    p.digests.data = on
                }
                chosen.map(str::to_owned)
            }
            "MaxRecvDataSegmentLength" => match number(512, 0x00ff_ffff) {
                Some(theirs) => {
                    p.max_send = theirs;
                    return Ok(None);
                }
                None => None,
            },
            "MaxBurstLength" => least(512, 0x00ff_ffff, MAX_BURST).map(|agreed| {
                p.max_burst = agreed;
                agreed.to_string()
            }),
            "FirstBurstLength" => least(512, 0x00ff_ffff, FIRST_BURST).map(|agreed| {
                p.first_burst = agreed;
                agreed.to_string()
            }),
            "InitialR2T" => truth.map(|theirs| {
                p.initial_r2t = theirs;
                word(theirs)
            }),
            "ImmediateData" => truth.map(|theirs| {
                p.immediate_data = theirs;
                word(theirs)
            }),
            "MaxConnections" | "MaxOutstandingR2T" => least(1, 65535, 1).map(|agreed| agreed.to_string()),
            "ErrorRecoveryLevel" => least(0, 2, 0).map(|agreed| agreed.to_string()),
            // A host that lost its connection may come back at once, and nothing is kept for it.
            "DefaultTime2Wait" => number(0, 3600).map(|theirs| theirs.to_string()),
            "DefaultTime2Retain" => least(0, 3600, 0).map(|agreed| agreed.to_string()),
            "DataPDUInOrder" | "DataSequenceInOrder" => truth.map(|_| word(true)),
            "IFMarker" | "OFMarker" => truth.map(|_| word(false)),
            "IFMarkInt" | "OFMarkInt" => Some("Irrelevant".to_owned()),
            _ => Some("NotUnderstood".to_owned()),
        };
        Ok(Some(answer.unwrap_or_else(|| REJECT.to_owned())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;

    const IQN: &str = "iqn.2026-01.io.pollux:array";

    fn request(flags: u8, keys: &[(&str, &str)]) -> Pdu {
        let mut header = Header([0; 48]);
        header.0[0] = 0x43;
        header.0[1] = flags;
        header.put32(24, 17);
        let mut data = Vec::new();
        for (key, value) in keys {
            text::push(&mut data, key, value);
        }
        Pdu {
            header,
            additional: Bytes::new(),
            data: data.into(),
        }
    }

    fn keys(answer: &[u8]) -> Vec<(String, String)> {
        text::split(answer).expect("our own text")
    }

    #[test]
    fn linux_style_login_in_two_stages() {
        let mut login = Login::new(IQN, 2);
        let names = [
            ("InitiatorName", "iqn.x:h"),
            ("TargetName", IQN),
            ("AuthMethod", "CHAP,None"),
        ];
        let Step::Continue(header, answer) = login.step(&request(0x81, &names)) else {
            panic!("goes on")
        };
        assert_eq!(header.0[1], 0x81);
        assert!(keys(&answer).contains(&("TargetPortalGroupTag".into(), "2".into())));
        let wanted = [
            ("HeaderDigest", "CRC32C,None"),
            ("DataDigest", "None"),
            ("InitialR2T", "No"),
            ("MaxBurstLength", "16776192"),
            ("FirstBurstLength", "0x4000"),
            ("MaxRecvDataSegmentLength", "131072"),
            ("DataPDUInOrder", "No"),
            ("X-com.example", "1"),
        ];
        let Step::Done(header, answer, agreed) = login.step(&request(0x87, &wanted)) else {
            panic!("done")
        };
        assert_eq!(header.0[1], 0x87);
        let answer = keys(&answer);
        for (key, value) in [
            ("HeaderDigest", "CRC32C"),
            ("MaxBurstLength", "1048576"),
            ("FirstBurstLength", "16384"),
            ("DataPDUInOrder", "Yes"),
            ("X-com.example", "NotUnderstood"),
            ("MaxRecvDataSegmentLength", "262144"),
        ] {
            assert!(answer.contains(&(key.into(), value.into())), "{key}: {answer:?}");
        }
        assert_eq!(agreed.cmd_sn, 17);
        let p = agreed.parameters;
        assert!(p.digests.header && !p.digests.data && !p.initial_r2t && p.immediate_data);
        assert_eq!(
            (p.max_send, p.max_burst, p.first_burst),
            (131_072, MAX_BURST, 16_384)
        );
    }

    #[test]
    fn refusals_have_their_own_codes() {
        let both = [("InitiatorName", "iqn.x:h"), ("TargetName", "iqn.other")];
        let cases: [(Pdu, Refusal); 6] = [
            (request(0x87, &both), Refusal::NotFound),
            (request(0x87, &both[..1]), Refusal::MissingParameter),
            (request(0x87, &both[1..]), Refusal::MissingParameter),
            (request(0x87, &[("SessionType", "Odd")]), Refusal::SessionType),
            (request(0x8f, &both), Refusal::InitiatorError),
            (
                request(
                    0x81,
                    &[
                        ("InitiatorName", "i"),
                        ("TargetName", IQN),
                        ("AuthMethod", "CHAP"),
                    ],
                ),
                Refusal::InitiatorError,
            ),
        ];
        for (pdu, refusal) in cases {
            let Step::Refuse(header, why) = Login::new(IQN, 1).step(&pdu) else {
                panic!("{refusal:?}")
            };
            assert_eq!(header.get16(36), refusal as u16, "{why}");
        }
        let mut joined = request(0x87, &both);
        joined.header.put16(14, 9);
        let Step::Refuse(header, _) = Login::new(IQN, 1).step(&joined) else {
            panic!("no session 9")
        };
        assert_eq!(header.get16(36), 0x020a);
    }

    #[test]
    fn text_may_come_in_pieces() {
        let mut login = Login::new(IQN, 1);
        let mut first = request(0x44, &[("InitiatorName", "iqn.x:h")]);
        first.data = first.data.slice(..5);
        let Step::Continue(_, answer) = login.step(&first) else {
            panic!("goes on")
        };
        assert!(answer.is_empty());
        let mut rest = request(
            0x87,
            &[("InitiatorName", "iqn.x:h"), ("SessionType", "Discovery")],
        );
        rest.data = rest.data.slice(5..);
        let Step::Done(_, _, agreed) = login.step(&rest) else {
            panic!("done")
        };
        assert!(agreed.discovery);
        assert_eq!(agreed.initiator, "iqn.x:h");
    }

    proptest! {
        #[test]
        fn any_request_is_answered(first: [u8; 48], data: Vec<u8>, again: [u8; 48]) {
            let mut login = Login::new(IQN, 1);
            for bytes in [first, again] {
                let mut header = Header(bytes);
                header.0[0] = 0x43;
                let data = Bytes::from(data.clone());
                let _ = login.step(&Pdu { header, additional: Bytes::new(), data });
            }
        }

        #[test]
        fn any_value_is_answered(key in "(MaxBurstLength|FirstBurstLength|HeaderDigest|InitialR2T|MaxRecvDataSegmentLength)", value in "[ -~]{0,40}") {
            let pdu = request(0x87, &[("InitiatorName", "i"), ("TargetName", IQN), (&key, &value)]);
            let Step::Done(_, _, agreed) = Login::new(IQN, 1).step(&pdu) else { panic!("done") };
            prop_assert!(agreed.parameters.max_send >= 512 && agreed.parameters.max_burst >= 512);
        }
    }
}
