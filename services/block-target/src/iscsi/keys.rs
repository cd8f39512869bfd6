//! What two ends agree on: the operational keys of RFC 7143, section 13, each with its range, its result and when it
//! has none.
//!
//! ```text
//!  kind          the result                        where it means nothing
//!  list          the host's first that we know     Reject
//!  boolean       either (OR) or both (AND)         Reject
//!  number        the smaller, the larger           Reject
//!  declaration   what it says; no answer           Reject
//!  another       -                                 NotUnderstood
//! ```
//!
//! A key is offered once in a login; who offers it again is no initiator that follows the protocol (6.2).

use super::limits::KEYS_MAX;
use super::pdu::Digests;
use super::text;
use std::collections::BTreeSet;

/// Longest data segment that this target takes in one PDU, once the login is done.
pub const MAX_RECEIVE: u32 = 256 * 1024;
/// Longest burst that it agrees to.
pub(super) const MAX_BURST: u32 = 1024 * 1024;
/// Longest unsolicited burst that it agrees to.
const FIRST_BURST: u32 = 256 * 1024;
/// Requests for data of one command that are outstanding at once. Data comes in order, so that more only hides the
/// way there and back.
const OUTSTANDING_R2T: u32 = 4;
/// Longest value of a key, unless its definition says otherwise (6.1).
const VALUE_MAX: usize = 255;
/// Iscsi protocol level of RFC 7143.
const PROTOCOL_LEVEL: u32 = 1;

const REJECT: &str = "Reject";
const IRRELEVANT: &str = "Irrelevant";
const NOT_UNDERSTOOD: &str = "NotUnderstood";

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
    /// Requests for data of one command that may be outstanding at once.
    pub outstanding_r2t: u32,
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
            outstanding_r2t: 1,
        }
    }
}

/// Not a matter of a single key: the login is over (`initiator error`).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// A second time.
    #[error("{0} is offered a second time")]
    Again(String),
    /// More keys than there are.
    #[error("more than {KEYS_MAX} keys in one login")]
    TooMany,
    /// 13.14: the one may not exceed the other.
    #[error("FirstBurstLength {first} exceeds MaxBurstLength {max}")]
    Bursts {
        /// FirstBurstLength.
        first: u32,
        /// MaxBurstLength.
        max: u32,
    },
}

/// The keys of one login.
#[derive(Debug, Default)]
pub struct Negotiation {
    /// As they stand.
    pub parameters: Parameters,
    seen: BTreeSet<String>,
}

impl Negotiation {
    /// Notes that a key was offered.
    ///
    /// # Errors
    /// It was before; there are too many.
    pub fn offered(&mut self, key: &str) -> Result<(), Wrong> {
        if self.seen.len() >= KEYS_MAX {
            return Err(Wrong::TooMany);
        }
        match self.seen.insert(key.to_owned()) {
            true => Ok(()),
            false => Err(Wrong::Again(key.to_owned())),
        }
    }

    /// Which of the keys has to be looked at first: FirstBurstLength depends on MaxBurstLength, wherever it stands.
    #[must_use]
    pub fn precedence(key: &str) -> u8 {
        u8::from(key != "MaxBurstLength")
    }

    /// At the end of the login.
    ///
    /// # Errors
    /// The parameters contradict each other.
    pub fn check(&mut self) -> Result<(), Wrong> {
        let p = &mut self.parameters;
        if p.first_burst > p.max_burst && self.seen.contains("FirstBurstLength") {
            return Err(Wrong::Bursts {
                first: p.first_burst,
                max: p.max_burst,
            });
        }
        // A default that nobody has mentioned gives way.
        p.first_burst = p.first_burst.min(p.max_burst);
        Ok(())
    }

    /// One operational key; `None`: it is a declaration and needs no answer.
    pub fn answer(&mut self, key: &str, value: &str, discovery: bool) -> Option<String> {
        let relevant = !matches!(
            key,
            "MaxConnections"
                | "InitialR2T"
                | "ImmediateData"
                | "MaxBurstLength"
                | "FirstBurstLength"
                | "MaxOutstandingR2T"
                | "DataPDUInOrder"
                | "DataSequenceInOrder"
                | "TaskReporting"
        );
        if discovery && !relevant {
            return Some(IRRELEVANT.to_owned());
        }
        if value.len() > VALUE_MAX {
            return Some(REJECT.to_owned());
        }
        match self.operational(key, value) {
            Ok(answer) => answer,
            Err(constant) => Some(constant.to_owned()),
        }
    }

    fn operational(&mut self, key: &str, value: &str) -> Result<Option<String>, &'static str> {
        let p = &mut self.parameters;
        let number = |low: u32, high: u32| {
            text::number(value)
                .filter(|number| (low..=high).contains(number))
                .ok_or(REJECT)
        };
        let truth = match value {
            "Yes" => Ok(true),
            "No" => Ok(false),
            _ => Err(REJECT),
        };
        let word = |yes: bool| if yes { "Yes" } else { "No" }.to_owned();
        let answer = match key {
            "HeaderDigest" | "DataDigest" => {
                let mut offered = value.split(',');
                let chosen = offered
                    .find(|digest| matches!(*digest, "CRC32C" | "None"))
                    .ok_or(REJECT)?;
                let field = match key {
                    "HeaderDigest" => &mut p.digests.header,
                    _ => &mut p.digests.data,
                };
                *field = chosen == "CRC32C";
                chosen.to_owned()
            }
            "MaxRecvDataSegmentLength" => {
                p.max_send = number(512, 0x00ff_ffff)?;
                return Ok(None);
            }
            "MaxBurstLength" => {
                p.max_burst = number(512, 0x00ff_ffff)?.min(MAX_BURST);
                p.max_burst.to_string()
            }
            "FirstBurstLength" => {
                p.first_burst = number(512, 0x00ff_ffff)?.min(FIRST_BURST).min(p.max_burst);
                p.first_burst.to_string()
            }
            "InitialR2T" => {
                p.initial_r2t = truth?;
                word(p.initial_r2t)
            }
            "ImmediateData" => {
                p.immediate_data = truth?;
                word(p.immediate_data)
            }
            "MaxConnections" => number(1, 65535)?.min(1).to_string(),
            "MaxOutstandingR2T" => {
                p.outstanding_r2t = number(1, 65535)?.min(OUTSTANDING_R2T);
                p.outstanding_r2t.to_string()
            }
            // The smaller is agreed upon, and there is one level here.
            "ErrorRecoveryLevel" => {
                number(0, 2)?;
                "0".to_owned()
            }
            // A host that lost its connection may come back at once, and nothing is kept for it.
            "DefaultTime2Wait" => number(0, 3600)?.to_string(),
            "DefaultTime2Retain" => {
                number(0, 3600)?;
                "0".to_owned()
            }
            "DataPDUInOrder" | "DataSequenceInOrder" => {
                truth?;
                word(true)
            }
            "iSCSIProtocolLevel" => number(0, 31)?.min(PROTOCOL_LEVEL).to_string(),
            // What ends a task is awaited before the function that aborts it is answered, as RFC 3720 has it.
            "TaskReporting" => {
                let known = value.split(',').any(|way| way == "RFC3720");
                known.then(|| "RFC3720".to_owned()).ok_or(REJECT)?
            }
            "InitiatorAlias" | "X#NodeArchitecture" => return Ok(None),
            // Of an older standard; must be understood, and refused (13.25).
            "IFMarker" | "OFMarker" | "IFMarkInt" | "OFMarkInt" => return Err(REJECT),
            // Said by targets only, or in the full feature phase only.
            "TargetAlias" | "TargetAddress" | "TargetPortalGroupTag" | "SendTargets" => return Err(REJECT),
            _ => return Err(NOT_UNDERSTOOD),
        };
        Ok(Some(answer))
    }
}

/// A key of the full feature phase; `None`: it needs no answer. Only the longest segment may change there.
pub fn in_full_feature(parameters: &mut Parameters, key: &str, value: &str) -> Option<String> {
    if key == "MaxRecvDataSegmentLength" {
        return match text::number(value).filter(|length| (512..=0x00ff_ffff).contains(length)) {
            Some(length) => {
                parameters.max_send = length;
                None
            }
            None => Some(REJECT.to_owned()),
        };
    }
    if matches!(key, "InitiatorAlias" | "X#NodeArchitecture") {
        return None;
    }
    let mut scratch = Negotiation::default();
    let known = scratch.answer(key, value, false).as_deref() != Some(NOT_UNDERSTOOD)
        || matches!(key, "InitiatorName" | "TargetName" | "SessionType" | "AuthMethod");
    Some(if known { REJECT } else { NOT_UNDERSTOOD }.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn said(key: &str, value: &str) -> Option<String> {
        Negotiation::default().answer(key, value, false)
    }

    /// Key, offer, answer in a normal session; RFC 7143, 13.1 to 13.26.
    const ANSWERS: &[(&str, &str, &str)] = &[
        ("HeaderDigest", "CRC32C,None", "CRC32C"),
        ("HeaderDigest", "None,CRC32C", "None"),
        ("DataDigest", "X-other,CRC32C", "CRC32C"),
        ("DataDigest", "X-other", "Reject"),
        ("MaxConnections", "8", "1"),
        ("MaxConnections", "0", "Reject"),
        ("MaxConnections", "65536", "Reject"),
        ("InitialR2T", "Yes", "Yes"),
        ("InitialR2T", "No", "No"),
        ("InitialR2T", "yes", "Reject"),
        ("ImmediateData", "Yes", "Yes"),
        ("ImmediateData", "No", "No"),
        ("MaxBurstLength", "512", "512"),
        ("MaxBurstLength", "511", "Reject"),
        ("MaxBurstLength", "16777215", "1048576"),
        ("MaxBurstLength", "16777216", "Reject"),
        ("FirstBurstLength", "0x200", "512"),
        ("FirstBurstLength", "16777215", "262144"),
        ("DefaultTime2Wait", "5", "5"),
        ("DefaultTime2Wait", "3601", "Reject"),
        ("DefaultTime2Retain", "3600", "0"),
        ("MaxOutstandingR2T", "1", "1"),
        ("MaxOutstandingR2T", "64", "4"),
        ("MaxOutstandingR2T", "0", "Reject"),
        ("DataPDUInOrder", "No", "Yes"),
        ("DataSequenceInOrder", "Yes", "Yes"),
        ("DataSequenceInOrder", "Maybe", "Reject"),
        ("ErrorRecoveryLevel", "2", "0"),
        ("ErrorRecoveryLevel", "3", "Reject"),
        ("iSCSIProtocolLevel", "2", "1"),
        ("iSCSIProtocolLevel", "0", "0"),
        ("TaskReporting", "FastAbort,RFC3720", "RFC3720"),
        ("TaskReporting", "FastAbort", "Reject"),
        ("IFMarker", "Yes", "Reject"),
        ("OFMarkInt", "2048~4096", "Reject"),
        ("SendTargets", "All", "Reject"),
        ("TargetAddress", "10.0.0.1", "Reject"),
        ("TargetPortalGroupTag", "1", "Reject"),
        ("MaxRecvDataSegmentLength", "511", "Reject"),
        ("RDMAExtensions", "Yes", "NotUnderstood"),
        ("X-com.example", "1", "NotUnderstood"),
    ];

    #[test]
    fn each_key_has_its_answer() {
        for (key, value, answer) in ANSWERS {
            assert_eq!(said(key, value).as_deref(), Some(*answer), "{key}={value}");
        }
        for (key, value) in [
            ("MaxRecvDataSegmentLength", "512"),
            ("InitiatorAlias", "ours"),
            ("X#NodeArchitecture", "some"),
        ] {
            assert_eq!(said(key, value), None, "{key} is a declaration");
        }
        let long = "a".repeat(256);
        assert_eq!(said("InitiatorAlias", &long).as_deref(), Some("Reject"));
    }

    #[test]
    fn a_discovery_session_moves_no_data() {
        let mut negotiation = Negotiation::default();
        for key in [
            "MaxConnections",
            "InitialR2T",
            "ImmediateData",
            "MaxBurstLength",
            "FirstBurstLength",
            "MaxOutstandingR2T",
            "DataPDUInOrder",
            "DataSequenceInOrder",
            "TaskReporting",
        ] {
            assert_eq!(
                negotiation.answer(key, "1", true).as_deref(),
                Some("Irrelevant"),
                "{key}"
            );
        }
        assert_eq!(negotiation.parameters, Parameters::default());
        assert_eq!(
            negotiation.answer("HeaderDigest", "None", true).as_deref(),
            Some("None")
        );
    }

    #[test]
    fn a_key_is_offered_once_and_bursts_do_not_contradict() {
        let mut negotiation = Negotiation::default();
        assert_eq!(negotiation.offered("A"), Ok(()));
        assert_eq!(negotiation.offered("A"), Err(Wrong::Again("A".into())));
        for (first, max, right) in [("65536", "1024", false), ("512", "1024", true)] {
            let mut negotiation = Negotiation::default();
            for (key, value) in [("FirstBurstLength", first), ("MaxBurstLength", max)] {
                negotiation.offered(key).expect("the first time");
                negotiation.answer(key, value, false);
            }
            assert_eq!(negotiation.check().is_ok(), right);
        }
        let mut negotiation = Negotiation::default();
        negotiation.answer("MaxBurstLength", "1024", false);
        negotiation.check().expect("nobody spoke of the first burst");
        assert_eq!(negotiation.parameters.first_burst, 1024);
    }

    #[test]
    fn in_the_full_feature_phase_only_the_longest_segment_changes() {
        let mut p = Parameters::default();
        assert_eq!(in_full_feature(&mut p, "MaxRecvDataSegmentLength", "65536"), None);
        assert_eq!(p.max_send, 65_536);
        for (key, value, answer) in [
            ("MaxRecvDataSegmentLength", "1", "Reject"),
            ("MaxBurstLength", "512", "Reject"),
            ("AuthMethod", "None", "Reject"),
            ("X-other", "1", "NotUnderstood"),
        ] {
            assert_eq!(
                in_full_feature(&mut p, key, value).as_deref(),
                Some(answer),
                "{key}"
            );
        }
        assert_eq!(p.max_burst, Parameters::default().max_burst);
    }

    proptest! {
        #[test]
        fn whatever_is_offered_stays_within_its_range(
            keys in proptest::collection::vec((0..ANSWERS.len(), "[ -~]{0,12}|[0-9]{1,9}"), 0..20),
        ) {
            let mut negotiation = Negotiation::default();
            for (at, value) in keys {
                let (key, _, _) = ANSWERS[at];
                if negotiation.offered(key).is_ok() {
                    negotiation.answer(key, &value, false);
                }
            }
            if negotiation.check().is_ok() {
                let p = negotiation.parameters;
                prop_assert!((512..1 << 24).contains(&p.max_send));
                prop_assert!((512..=MAX_BURST).contains(&p.max_burst));
                prop_assert!((512..=p.max_burst).contains(&p.first_burst));
                prop_assert!((1..=OUTSTANDING_R2T).contains(&p.outstanding_r2t));
            }
        }
    }
}
