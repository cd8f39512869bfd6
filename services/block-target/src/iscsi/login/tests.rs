use super::super::chap::{Algorithm, Credential};
use super::super::limits::KEYS_MAX;
use super::*;
use bytes::Bytes;
use proptest::prelude::*;

const IQN: &str = "iqn.2026-01.io.pollux:array";
const OPEN: &str = "iqn.x:open";
const PROVEN: &str = "iqn.x:proven";
const LOCKED: &str = "iqn.x:locked";
const SECRET: &[u8] = b"a-secret-of-the-host";
const TARGET_SECRET: &[u8] = b"a-secret-of-the-target";

struct Door;

impl Doorkeeper for Door {
    fn admit(&self, initiator: &str) -> Admission {
        match initiator {
            OPEN => Admission::Open,
            PROVEN => Admission::Chap(Arc::new(Credentials {
                host: Credential::new("user", SECRET),
                target: Some(Credential::new("array", TARGET_SECRET)),
            })),
            LOCKED => Admission::Locked,
            _ => Admission::Unknown,
        }
    }
}

fn login() -> Login {
    Login::new(IQN, 2, Challenge::from_random([7; 33]))
}

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

fn value(answer: &[u8], key: &str) -> Option<String> {
    keys(answer)
        .into_iter()
        .find(|(name, _)| name == key)
        .map(|(_, value)| value)
}

fn goes_on(login: &mut Login, pdu: &Pdu) -> (Header, Vec<u8>) {
    match login.step(pdu, &Door) {
        Step::Continue(header, answer) => (header, answer),
        other => panic!("goes on, instead of {other:?}"),
    }
}

fn done(login: &mut Login, pdu: &Pdu) -> (Header, Vec<u8>, Box<Agreed>) {
    match login.step(pdu, &Door) {
        Step::Done(header, answer, agreed) => (header, answer, agreed),
        other => panic!("done, instead of {other:?}"),
    }
}

fn refused(login: &mut Login, pdu: &Pdu, refusal: Refusal) {
    match login.step(pdu, &Door) {
        Step::Refuse(header, why) => {
            assert_eq!(header.get16(36), refusal as u16, "{why}");
            assert!(!why.is_empty());
        }
        other => panic!("{refusal:?} instead of {other:?}"),
    }
}

fn names(initiator: &str) -> [(&str, &str); 2] {
    [("InitiatorName", initiator), ("TargetName", IQN)]
}

#[test]
fn linux_style_login_in_two_stages() {
    let mut login = login();
    let first = [&names(OPEN)[..], &[("AuthMethod", "CHAP,None")]].concat();
    let (header, answer) = goes_on(&mut login, &request(0x81, &first));
    assert_eq!(header.0[1], 0x81);
    assert_eq!(value(&answer, "TargetPortalGroupTag").as_deref(), Some("2"));
    assert_eq!(value(&answer, "AuthMethod").as_deref(), Some("None"));
    let wanted = [
        ("HeaderDigest", "CRC32C,None"),
        ("DataDigest", "None"),
        ("InitialR2T", "No"),
        ("FirstBurstLength", "0x4000"),
        ("MaxBurstLength", "16776192"),
        ("MaxRecvDataSegmentLength", "131072"),
        ("DataPDUInOrder", "No"),
        ("X-com.example", "1"),
    ];
    let (header, answer, agreed) = done(&mut login, &request(0x87, &wanted));
    assert_eq!(header.0[1], 0x87);
    for (key, said) in [
        ("HeaderDigest", "CRC32C"),
        ("MaxBurstLength", "1048576"),
        ("FirstBurstLength", "16384"),
        ("DataPDUInOrder", "Yes"),
        ("X-com.example", "NotUnderstood"),
        ("MaxRecvDataSegmentLength", "262144"),
    ] {
        assert_eq!(value(&answer, key).as_deref(), Some(said), "{key}");
    }
    assert_eq!((agreed.cmd_sn, agreed.proof.is_none()), (17, true));
    let p = agreed.parameters;
    assert!(p.digests.header && !p.digests.data && !p.initial_r2t && p.immediate_data);
    assert_eq!(
        (p.max_send, p.max_burst, p.first_burst),
        (131_072, 1_048_576, 16_384)
    );
}

#[test]
fn refusals_have_their_own_codes() {
    let both = [("InitiatorName", OPEN), ("TargetName", "iqn.other")];
    let odd = [("InitiatorName", OPEN), ("SessionType", "Odd")];
    let nobody = names("iqn.x:stranger");
    let locked = names(LOCKED);
    let long = "i".repeat(224);
    let cases: [(Pdu, Refusal); 12] = [
        (request(0x87, &both), Refusal::NotFound),
        (request(0x87, &both[..1]), Refusal::MissingParameter),
        (request(0x87, &both[1..]), Refusal::MissingParameter),
        (request(0x87, &odd), Refusal::SessionType),
        (request(0x87, &nobody), Refusal::Authorization),
        (request(0x87, &locked), Refusal::Unavailable),
        (request(0x87, &names(&long)), Refusal::InitiatorError),
        (request(0x87, &names("two words")), Refusal::InitiatorError),
        (request(0x87, &names("\x1b[31m")), Refusal::InitiatorError),
        // The same key twice; a key without a value; a wrong stage.
        (
            request(0x87, &[&names(OPEN)[..], &names(OPEN)[..1]].concat()),
            Refusal::InitiatorError,
        ),
        (
            Pdu {
                data: Bytes::from_static(b"InitiatorName\0"),
                ..request(0x87, &[])
            },
            Refusal::InitiatorError,
        ),
        (request(0x8f, &names(OPEN)), Refusal::InitiatorError),
    ];
    for (pdu, refusal) in cases {
        refused(&mut login(), &pdu, refusal);
    }
    let mut newer = request(0x87, &names(OPEN));
    (newer.header.0[2], newer.header.0[3]) = (2, 1);
    refused(&mut login(), &newer, Refusal::UnsupportedVersion);
    let mut command = request(0x87, &names(OPEN));
    command.header.0[0] = 0x01;
    refused(&mut login(), &command, Refusal::NotALogin);
}

#[test]
fn no_stage_is_left_out_or_gone_back_to() {
    // From, transit and to, per request, in one login.
    for (flags, whole) in [
        (&[0x87_u8][..], true),
        (&[0x83], true),
        (&[0x81, 0x87], true),
        (&[0x00, 0x81, 0x04, 0x87], true),
        // Operational to security; full feature as a stage; a stage that is reserved; transit to itself or back.
        (&[0x04, 0x00], false),
        (&[0x81, 0x00], false),
        (&[0x0c], false),
        (&[0x88], false),
        (&[0x80], false),
        (&[0x85], false),
        (&[0x84], false),
        (&[0x82], false),
        // Transit and more text; the next stage without the answer to the transit.
        (&[0xc1], false),
        (&[0x00, 0x87], false),
    ] {
        let mut login = login();
        let mut last = None;
        for (number, flags) in flags.iter().enumerate() {
            let first = if number == 0 { &names(OPEN)[..] } else { &[] };
            last = Some(login.step(&request(*flags, first), &Door));
        }
        assert_eq!(
            matches!(last, Some(Step::Done(..))),
            whole,
            "{flags:02x?}: {last:?}"
        );
        assert_eq!(matches!(last, Some(Step::Refuse(..))), !whole, "{flags:02x?}");
    }
}

#[test]
fn a_login_is_one_exchange() {
    for at in [8, 14, 16, 20] {
        let mut login = login();
        goes_on(&mut login, &request(0x00, &names(OPEN)));
        let mut other = request(0x81, &[]);
        other.header.0[at] ^= 1;
        refused(&mut login, &other, Refusal::InitiatorError);
    }
    // A name after the first text.
    let mut login = login();
    goes_on(&mut login, &request(0x00, &names(OPEN)));
    refused(
        &mut login,
        &request(0x81, &[("SessionType", "Discovery")]),
        Refusal::InitiatorError,
    );
    // For ever.
    let mut login = self::login();
    goes_on(&mut login, &request(0x00, &names(OPEN)));
    for _ in 1..LOGIN_REQUESTS {
        let (_, answer) = goes_on(&mut login, &request(0x00, &[]));
        assert!(answer.is_empty());
    }
    refused(&mut login, &request(0x00, &[]), Refusal::InitiatorError);
}

#[test]
fn text_may_come_in_pieces() {
    let mut login = login();
    let keys = [("InitiatorName", OPEN), ("SessionType", "Discovery")];
    let mut first = request(0x44, &keys);
    first.data = first.data.slice(..5);
    let (header, answer) = goes_on(&mut login, &first);
    assert_eq!((header.0[1], answer.len()), (0x04, 0));
    let mut rest = request(0x87, &keys);
    rest.data = rest.data.slice(5..);
    let (_, answer, agreed) = done(&mut login, &rest);
    assert!(agreed.discovery);
    assert_eq!(agreed.initiator, OPEN);
    assert_eq!(value(&answer, "TargetPortalGroupTag"), None);
}

#[test]
fn an_answer_that_is_too_long_for_one_pdu_is_fetched() {
    let many: Vec<(String, String)> = (0..200)
        .map(|number| (format!("X-{}{number}", "k".repeat(50)), String::new()))
        .collect();
    let mut offered = names(OPEN).to_vec();
    offered.extend(many.iter().map(|(key, value)| (key.as_str(), value.as_str())));
    let whole = request(0x87, &offered);
    let mut login = login();
    let mut answer = Vec::new();
    // More than the initiator may send in one PDU, too.
    let middle = whole.data.len() / 2;
    let mut piece = request(0x44, &[]);
    piece.data = whole.data.slice(..middle);
    goes_on(&mut login, &piece);
    piece = request(0x87, &[]);
    piece.data = whole.data.slice(middle..);
    let (header, said) = goes_on(&mut login, &piece);
    assert_eq!((header.0[1], said.len()), (0x44, LOGIN_SEGMENT));
    answer.extend(said);
    let (header, said, _) = done(&mut login, &request(0x87, &[]));
    assert_eq!(header.0[1], 0x87);
    answer.extend(said);
    let understood = keys(&answer)
        .iter()
        .filter(|(_, value)| value == "NotUnderstood")
        .count();
    assert_eq!(understood, 200);
}

#[test]
fn bombs_of_text_are_refused() {
    let mut login = login();
    let mut bomb = request(0x40, &[]);
    bomb.data = vec![b'x'; LOGIN_SEGMENT].into();
    goes_on(&mut login, &bomb);
    goes_on(&mut login, &bomb);
    refused(&mut login, &bomb, Refusal::InitiatorError);
    let mut keys = request(0x80, &[]);
    keys.data = b"A=\0".repeat(KEYS_MAX + 1).into();
    refused(&mut self::login(), &keys, Refusal::InitiatorError);
}

/// Request by request until the proof; what the target has called out.
fn challenged(login: &mut Login, algorithms: &str) -> (Algorithm, u8, Vec<u8>) {
    let first = [&names(PROVEN)[..], &[("AuthMethod", "None,CHAP")]].concat();
    let (header, answer) = goes_on(login, &request(0x81, &first));
    assert_eq!(header.0[1], 0x00, "it stays in the security stage");
    assert_eq!(value(&answer, "AuthMethod").as_deref(), Some("CHAP"));
    let (header, answer) = goes_on(login, &request(0x00, &[("CHAP_A", algorithms)]));
    assert_eq!(header.0[1], 0x00);
    let say = |key| value(&answer, key).expect("said");
    (
        Algorithm::choose(&say("CHAP_A")).expect("one"),
        say("CHAP_I").parse().expect("a byte"),
        text::binary(&say("CHAP_C"), 1024).expect("bytes"),
    )
}

#[test]
fn a_host_with_a_key_proves_itself_and_the_target_does() {
    for algorithms in ["5", "7,5", "8,7,5"] {
        let mut login = login();
        let (algorithm, identifier, challenge) = challenged(&mut login, algorithms);
        let response = text::hexadecimal(&algorithm.respond(identifier, SECRET, &challenge));
        let proof = [
            ("CHAP_N", "user"),
            ("CHAP_R", &response),
            ("CHAP_I", "200"),
            ("CHAP_C", "0bAAECAw=="),
        ];
        let (header, answer) = goes_on(&mut login, &request(0x81, &proof));
        assert_eq!(header.0[1], 0x81);
        let right = text::hexadecimal(&algorithm.respond(200, TARGET_SECRET, &[0, 1, 2, 3]));
        assert_eq!(value(&answer, "CHAP_R"), Some(right));
        assert_eq!(value(&answer, "CHAP_N").as_deref(), Some("array"));
        let (_, _, agreed) = done(&mut login, &request(0x87, &[]));
        assert_eq!(agreed.proof.expect("proven").host.user, "user");
    }
}

#[test]
fn nobody_gets_past_the_proof() {
    let both = names(PROVEN);
    let with = |method| [&both[..], &[("AuthMethod", method)]].concat();
    // Leaves the stage, the method or the proof out; also as a discovery.
    let discovery = [("InitiatorName", PROVEN), ("SessionType", "Discovery")];
    for pdu in [
        request(0x87, &both),
        request(0x83, &both),
        request(0x81, &both),
        request(0x87, &discovery),
        request(0x83, &discovery),
        request(0x81, &with("None")),
        request(0x81, &with("KRB5")),
        request(0x81, &[&both[..], &[("CHAP_A", "5")]].concat()),
    ] {
        refused(&mut login(), &pdu, Refusal::Authentication);
    }
    // Stays in the stage until it has proven itself.
    let mut login = login();
    for flags in [0x81, 0x83] {
        challenged(&mut login, "5");
        let (header, _) = goes_on(&mut login, &request(flags, &[]));
        assert_eq!(header.0[1], 0x00);
        login = self::login();
    }
    refused(&mut login, &request(0x87, &[]), Refusal::MissingParameter);
    let mut login = self::login();
    challenged(&mut login, "5");
    refused(&mut login, &request(0x04, &[]), Refusal::InitiatorError);
    for (name, secret) in [
        ("user", &b"another-secret-here"[..]),
        ("other", SECRET),
        ("user", TARGET_SECRET),
    ] {
        let mut login = self::login();
        let (algorithm, identifier, challenge) = challenged(&mut login, "5");
        let response = text::hexadecimal(&algorithm.respond(identifier, secret, &challenge));
        let proof = [("CHAP_N", name), ("CHAP_R", &response)];
        refused(&mut login, &request(0x81, &proof), Refusal::Authentication);
    }
    // A host without a key that insists on CHAP, or tries it unasked.
    let open = names(OPEN);
    let insists = [&open[..], &[("AuthMethod", "CHAP")]].concat();
    refused(
        &mut self::login(),
        &request(0x81, &insists),
        Refusal::Authentication,
    );
    let unasked = [&open[..], &[("CHAP_A", "5")]].concat();
    refused(
        &mut self::login(),
        &request(0x81, &unasked),
        Refusal::Authentication,
    );
}

#[test]
fn a_strangers_discovery_is_let_in_and_proves_nothing() {
    let keys = [
        ("InitiatorName", "iqn.x:stranger"),
        ("SessionType", "Discovery"),
        ("AuthMethod", "CHAP,None"),
    ];
    let mut login = login();
    goes_on(&mut login, &request(0x81, &keys));
    let (_, answer, agreed) = done(&mut login, &request(0x87, &[("MaxConnections", "1")]));
    assert_eq!(value(&answer, "MaxConnections").as_deref(), Some("Irrelevant"));
    assert!(agreed.discovery && agreed.proof.is_none());
}

proptest! {
    #[test]
    fn any_request_is_answered(first: [u8; 48], data: Vec<u8>, again: [u8; 48]) {
        let mut login = login();
        for bytes in [first, again] {
            let mut header = Header(bytes);
            header.0[0] = 0x43;
            let data = Bytes::from(data.clone());
            let _ = login.step(&Pdu { header, additional: Bytes::new(), data }, &Door);
        }
    }

    #[test]
    fn any_value_is_answered(key in "(MaxBurstLength|FirstBurstLength|HeaderDigest|InitialR2T|MaxRecvDataSegmentLength)", value in "[ -~]{0,40}") {
        let offered = [&names(OPEN)[..], &[(&key, &value)]].concat();
        let (_, _, agreed) = done(&mut login(), &request(0x87, &offered));
        prop_assert!(agreed.parameters.max_send >= 512 && agreed.parameters.max_burst >= 512);
    }

    /// Whatever is said in whatever order: nobody gets a session as a host with a key without the key.
    #[test]
    fn no_sequence_of_keys_is_a_proof(
        steps in proptest::collection::vec(
            (any::<u8>(), proptest::collection::vec((0_usize..9, 0_usize..6), 0..4)), 1..8),
    ) {
        const KEYS: [&str; 9] = ["AuthMethod", "CHAP_A", "CHAP_N", "CHAP_R", "CHAP_I", "CHAP_C",
            "SessionType", "TargetName", "MaxBurstLength"];
        const VALUES: [&str; 6] = ["CHAP", "None", "5", "user", "0x00", "Discovery"];
        let mut login = login();
        for (number, (flags, pairs)) in steps.into_iter().enumerate() {
            let mut keys = if number == 0 { names(PROVEN).to_vec() } else { Vec::new() };
            keys.extend(pairs.into_iter().map(|(key, value)| (KEYS[key], VALUES[value])));
            prop_assert!(!matches!(login.step(&request(flags, &keys), &Door), Step::Done(..)));
        }
    }
}
