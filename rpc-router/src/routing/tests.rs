//! The sorting room without sockets: refusals that real sockets hardly ever show, and the promise that every request
//! is answered exactly once.

use super::*;
use proptest::prelude::*;
use std::collections::HashSet;

/// Queues that can be full, a clock that stands, and what was closed.
#[derive(Default)]
struct Paper {
    sent: HashMap<ConnectionId, Vec<String>>,
    full: HashSet<ConnectionId>,
    closed: Vec<ConnectionId>,
    actions: u8,
    errands: Vec<(Ticket, Errand)>,
}

impl World for Paper {
    fn send(&mut self, to: ConnectionId, message: &[u8]) -> bool {
        if self.full.contains(&to) {
            return false;
        }
        self.sent
            .entry(to)
            .or_default()
            .push(String::from_utf8(message.to_vec()).unwrap());
        true
    }

    fn close(&mut self, connection: ConnectionId, _why: &str) {
        self.closed.push(connection);
    }

    fn new_action(&mut self) -> ActionId {
        self.actions = self.actions.wrapping_add(1);
        ActionId::from_bytes([self.actions; 16])
    }

    fn journal(&mut self, _record: &Entry) -> bool {
        true
    }

    fn run(&mut self, ticket: Ticket, errand: Errand) -> bool {
        self.errands.push((ticket, errand));
        self.errands.len() < 3
    }
}

const PERSON: ConnectionId = 1;
const SERVANT: ConnectionId = 2;
const LINK: ConnectionId = 3;
const TRUSTED: Peer = Peer {
    uid: 1000,
    pid: 7,
    trusted: true,
};

fn at(us: u64) -> Now {
    Now { us, unix_us: us }
}

/// A person, a service `echo` of rank 70 with the method `echo.back`, and the link to the partner.
fn room() -> (Core, Paper) {
    let mut core = Core::new(ControllerId::A, "0", "partner".into(), Ring::default(), at(0));
    let mut paper = Paper::default();
    core.opened(PERSON, TRUSTED);
    core.opened(SERVANT, TRUSTED);
    let register = r#"{"jsonrpc":"2.0","id":0,"method":"router.register","params":{"name":"echo","version":"0","rank":70,
        "methods":[{"name":"echo.back","idempotent":true},{"name":"echo.note","idempotent":true,"notification":true}]}}"#;
    core.receive(SERVANT, register.as_bytes(), at(0), &mut paper);
    core.link_up(LINK, "0".into(), at(0), &mut paper);
    assert!(paper.sent.remove(&SERVANT).unwrap()[0].contains("\"result\""));
    (core, paper)
}

fn say(core: &mut Core, paper: &mut Paper, from: ConnectionId, message: &str) {
    core.receive(from, message.as_bytes(), at(0), paper);
}

fn ask(core: &mut Core, paper: &mut Paper, from: ConnectionId, method: &str) {
    let message = format!(r#"{{"jsonrpc":"2.0","id":"i","method":"{method}","deadline_ms":50}}"#);
    say(core, paper, from, &message);
}

fn last(paper: &Paper, at: ConnectionId) -> &str {
    paper.sent[&at].last().unwrap()
}

/// The ticket of the request that was sent last.
fn ticket(paper: &Paper, at: ConnectionId) -> String {
    Envelope::parse(last(paper, at).as_bytes())
        .unwrap()
        .id
        .unwrap()
        .to_owned()
}

#[test]
fn a_stranger_is_refused_whatever_it_asks() {
    let (mut core, mut paper) = room();
    core.opened(
        9,
        Peer {
            uid: 1,
            pid: 1,
            trusted: false,
        },
    );
    for method in [
        "echo.back",
        "router.status",
        "router.register",
        "partner/echo.back",
    ] {
        ask(&mut core, &mut paper, 9, method);
        assert!(
            last(&paper, 9).contains("not_permitted"),
            "{method}: {}",
            last(&paper, 9)
        );
    }
    assert!(!paper.sent.contains_key(&SERVANT) && !paper.sent.contains_key(&LINK));
}

#[test]
fn who_comes_from_afar_may_what_the_role_of_its_token_opens() {
    use pollux_api::contract::Kind;
    let (mut core, mut paper) = room();
    for (connection, role) in (10..).zip(role::Role::ALL) {
        core.opened_from_afar(connection, &format!("t{connection}"), role);
        for method in pollux_api::contract::SERVICES.iter().flat_map(|s| s.methods) {
            if method.kind != Kind::Request {
                continue;
            }
            for name in [method.name.to_owned(), format!("partner/{}", method.name)] {
                ask(&mut core, &mut paper, connection, &name);
                let on_the_link = name.starts_with("partner/router.") && name.ends_with("subscribe");
                let shut = !role.opens(method.afar) || on_the_link;
                let answer = paper.sent.get(&connection).and_then(|sent| sent.last());
                let refused = answer.is_some_and(|answer| answer.contains(r#""error":{"code":-32006"#));
                assert_eq!(refused, shut, "{role} {name}");
                paper.sent.remove(&connection);
            }
        }
        // What the contract does not know is shut, and so is what only services say.
        ask(&mut core, &mut paper, connection, "echo.back");
        let refusal = last(&paper, connection);
        assert!(
            refusal.contains("not_permitted") && refusal.contains(&format!("a/web:t{connection}")),
            "{refusal}"
        );
        let note = r#"{"jsonrpc":"2.0","method":"echo.note"}"#;
        say(&mut core, &mut paper, connection, note);
        assert!(!paper.sent.contains_key(&SERVANT));
        paper.sent.remove(&connection);
    }
    // The refusal says which role would do.
    ask(&mut core, &mut paper, 10, "partner/heartbeat.switchover");
    for part in [
        "a/web:t10 is viewer and may not use heartbeat.switchover",
        r#""where":"b/heartbeat""#,
        "a token of role operator or admin",
    ] {
        assert!(last(&paper, 10).contains(part), "{}", last(&paper, 10));
    }
    // The partner is told the name of the token, and the lowest rank.
    ask(&mut core, &mut paper, 11, "partner/heartbeat.switchover");
    assert!(
        last(&paper, LINK).contains(r#""from":"a/web:t11","rank":0"#),
        "{}",
        last(&paper, LINK)
    );
}

#[test]
fn topics_are_opened_as_methods_are() {
    let (mut core, mut paper) = room();
    core.opened_from_afar(10, "eye", role::Role::Viewer);
    for (topic, open) in [
        ("router.work", true),
        ("partner/heartbeat.events", true),
        ("echo.said", false),
        ("heartbeat.status", false),
        ("router.event", false),
    ] {
        let message = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"router.subscribe","params":{{"topics":["{topic}"]}}}}"#
        );
        say(&mut core, &mut paper, 10, &message);
        assert_eq!(last(&paper, 10).contains("result"), open, "{}", last(&paper, 10));
    }
}

#[test]
fn keys_are_an_errand_and_no_business_of_services() {
    let (mut core, mut paper) = room();
    ask(&mut core, &mut paper, SERVANT, "router.token_list");
    assert!(last(&paper, SERVANT).contains("not_permitted"));
    ask(&mut core, &mut paper, SERVANT, "partner/router.token_list");
    assert!(last(&paper, LINK).contains(r#""rank":70"#));
    let from_the_partner =
        r#"{"jsonrpc":"2.0","id":1,"method":"router.token_list","from":"b/pool","rank":50}"#;
    say(&mut core, &mut paper, LINK, from_the_partner);
    assert!(last(&paper, LINK).contains("not_permitted"));
    assert_eq!(paper.errands, []);
    ask(&mut core, &mut paper, PERSON, "router.token_list");
    let (ticket, errand) = paper.errands[0].clone();
    assert_eq!(errand, Errand::List);
    assert_eq!(core.awaited(PERSON), 1);
    // The caller cannot answer it itself.
    let forged = format!(r#"{{"jsonrpc":"2.0","id":{ticket},"result":"forged"}}"#);
    say(&mut core, &mut paper, PERSON, &forged);
    core.done(ticket, Ok("[]".into()), at(1), &mut paper);
    assert!(last(&paper, PERSON).contains(r#""result":[]"#));
    assert_eq!(core.awaited(PERSON), 0);
    // One that is not answered in time, one for which there is no room, and one whose caller has gone.
    ask(&mut core, &mut paper, PERSON, "router.web");
    core.expire(at(60_000), &mut paper);
    assert!(last(&paper, PERSON).contains("deadline_passed"));
    ask(&mut core, &mut paper, PERSON, "router.web");
    assert!(last(&paper, PERSON).contains("overloaded"));
    paper.errands.clear();
    core.opened(9, TRUSTED);
    ask(&mut core, &mut paper, 9, "router.web");
    core.closed(9, at(2), &mut paper);
    core.done(paper.errands[0].0, Ok("[]".into()), at(3), &mut paper);
    assert!(!paper.sent.contains_key(&9));
}

#[test]
fn a_token_that_is_removed_ends_its_connections() {
    let (mut core, mut paper) = room();
    for (connection, name) in [(10, "one"), (11, "other"), (12, "one")] {
        core.opened_from_afar(connection, name, role::Role::Viewer);
    }
    core.revoked("one", &mut paper);
    paper.closed.sort_unstable();
    assert_eq!(paper.closed, [10, 12]);
}

#[test]
fn nobody_can_say_that_he_is_somebody_else() {
    let (mut core, mut paper) = room();
    let claim = r#"{"jsonrpc":"2.0","id":1,"method":"echo.back","from":"b/echo","rank":0}"#;
    say(&mut core, &mut paper, PERSON, claim);
    assert!(
        last(&paper, SERVANT).contains(r#""from":"a/shell""#),
        "{}",
        last(&paper, SERVANT)
    );
    // The partner's router is believed, but only about its own controller.
    say(&mut core, &mut paper, LINK, &claim.replace("b/echo", "a/pool"));
    assert!(
        last(&paper, SERVANT).contains(r#""from":"b/pool""#),
        "{}",
        last(&paper, SERVANT)
    );
    // What came over the link never goes back over it.
    ask(&mut core, &mut paper, LINK, "partner/echo.back");
    assert!(
        last(&paper, LINK).contains("invalid_request"),
        "{}",
        last(&paper, LINK)
    );
}

#[test]
fn what_a_person_says_is_read_to_its_end() {
    let (mut core, mut paper) = room();
    for params in ["{\"a\":}", "[1,}", "\"\\x\"", "{\"a\" 1}"] {
        let message = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"echo.back","params":{params}}}"#);
        say(&mut core, &mut paper, PERSON, &message);
        assert!(last(&paper, PERSON).contains("parse_error"), "{params}");
    }
    assert!(!paper.sent.contains_key(&SERVANT));
    assert_eq!(core.counters.malformed, 4);
}

#[test]
fn a_flood_of_reading_does_not_wash_changes_out_of_the_journal() {
    let (mut core, _) = room();
    let (mut noted, second) = (0, 1_000_000);
    for n in 0..3 * u64::from(JOURNAL_PER_SECOND) {
        noted += u32::from(core.journal_has_room(at(5 * second + n)));
    }
    assert_eq!(noted, JOURNAL_PER_SECOND);
    assert!(core.journal_has_room(at(6 * second)));
}

#[test]
fn what_can_be_called_is_told_on_the_connection_that_asks() {
    let (mut core, mut paper) = room();
    ask(&mut core, &mut paper, PERSON, "rpc.discover");
    let answer: serde_json::Value = serde_json::from_str(last(&paper, PERSON)).unwrap();
    assert!(answer["result"]["openrpc"].is_string() && answer["action_id"].is_string());
    ask(&mut core, &mut paper, PERSON, "rpc.invent");
    assert!(last(&paper, PERSON).contains("\"method_not_found\""));
}

#[test]
fn a_service_of_the_contract_registers_as_it_is_declared() {
    let (mut core, mut paper) = room();
    for (connection, methods, good) in [
        (11, r#"{"name":"alua.set","idempotent":false}"#, false),
        (12, r#"{"name":"alua.set","idempotent":true,"peer":true}"#, false),
        (
            13,
            r#"{"name":"alua.set","idempotent":true,"notification":true}"#,
            false,
        ),
        // The last is a newer version's.
        (
            14,
            r#"{"name":"alua.set","idempotent":true},{"name":"alua.unheard","idempotent":false}"#,
            true,
        ),
    ] {
        core.opened(connection, TRUSTED);
        let register = format!(
            r#"{{"jsonrpc":"2.0","id":0,"method":"router.register","params":
                {{"name":"alua","version":"0","rank":30,"methods":[{methods}]}}}}"#
        );
        say(&mut core, &mut paper, connection, &register);
        let answer = last(&paper, connection);
        assert_eq!(answer.contains("\"result\""), good, "{answer}");
        assert_eq!(answer.contains("is declared otherwise"), !good, "{answer}");
    }
}

#[test]
fn effects_that_only_this_router_saw_are_told_to_the_partner_and_kept_there() {
    let (mut core, mut paper) = room();
    let cause = ActionId::from_bytes([0xc; 16]);
    // Not caused, and caused: only the second is an effect.
    for parent in [String::new(), format!(r#""parent":"{cause}","#)] {
        let message = format!(r#"{{"jsonrpc":"2.0","id":1,{parent}"method":"echo.back"}}"#);
        say(&mut core, &mut paper, PERSON, &message);
        let answer = format!(
            r#"{{"jsonrpc":"2.0","id":{},"result":1}}"#,
            ticket(&paper, SERVANT)
        );
        say(&mut core, &mut paper, SERVANT, &answer);
    }
    let told = paper.sent.remove(&LINK).unwrap();
    let [told] = &told[..] else { panic!("{told:?}") };
    assert!(
        told.contains("router.traced") && told.contains(&cause.to_string()),
        "{told}"
    );
    // The partner keeps it, and tells it when this controller is gone.
    let (mut partner, mut there) = (
        Core::new(ControllerId::B, "0", "a".into(), Ring::default(), at(0)),
        Paper::default(),
    );
    partner.opened(PERSON, TRUSTED);
    partner.link_up(LINK, "0".into(), at(0), &mut there);
    let trace = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"router.trace","params":{{"action_id":"{cause}","local":true}}}}"#
    );
    let forged = told.replace(r#""at":"a""#, r#""at":"b""#);
    say(&mut partner, &mut there, LINK, &forged);
    say(&mut partner, &mut there, PERSON, told);
    say(&mut partner, &mut there, PERSON, &trace);
    assert!(
        !last(&there, PERSON).contains("echo.back"),
        "only the partner's router is believed, of its own"
    );
    say(&mut partner, &mut there, LINK, told);
    say(&mut partner, &mut there, PERSON, &trace);
    assert!(
        last(&there, PERSON).contains("echo.back"),
        "{}",
        last(&there, PERSON)
    );
}

#[test]
fn a_full_queue_refuses_and_leaves_nothing_behind() {
    let (mut core, mut paper) = room();
    paper.full.insert(SERVANT);
    ask(&mut core, &mut paper, PERSON, "echo.back");
    assert!(last(&paper, PERSON).contains("overloaded"));
    assert_eq!(
        (
            core.awaited(PERSON),
            core.counters.overloaded,
            core.next_deadline()
        ),
        (0, 1, None)
    );
    // Who does not read its answers is not waited for.
    paper.full.remove(&SERVANT);
    ask(&mut core, &mut paper, PERSON, "echo.back");
    let answer = format!(
        r#"{{"jsonrpc":"2.0","id":{},"result":1}}"#,
        ticket(&paper, SERVANT)
    );
    paper.full.insert(PERSON);
    say(&mut core, &mut paper, SERVANT, &answer);
    assert_eq!(paper.closed, [PERSON]);
}

#[test]
fn an_answer_counts_once_and_only_from_who_was_asked() {
    let (mut core, mut paper) = room();
    ask(&mut core, &mut paper, PERSON, "echo.back");
    let answer = format!(
        r#"{{"jsonrpc":"2.0","id":{},"result":1}}"#,
        ticket(&paper, SERVANT)
    );
    say(&mut core, &mut paper, LINK, &answer);
    say(&mut core, &mut paper, PERSON, &answer);
    assert!(!paper.sent.contains_key(&PERSON));
    say(&mut core, &mut paper, SERVANT, &answer);
    say(&mut core, &mut paper, SERVANT, &answer);
    assert_eq!(paper.sent[&PERSON].len(), 1);
    assert!(last(&paper, PERSON).contains(r#""id":"i""#) && last(&paper, PERSON).contains(r#""result":1"#));
    assert_eq!((core.counters.late_answers, core.awaited(PERSON)), (3, 0));
}

#[test]
fn a_deadline_passes_and_the_late_answer_is_dropped() {
    let (mut core, mut paper) = room();
    ask(&mut core, &mut paper, PERSON, "echo.back");
    assert_eq!(core.next_deadline(), Some(50_000));
    core.expire(at(49_999), &mut paper);
    assert!(!paper.sent.contains_key(&PERSON));
    core.expire(at(50_000), &mut paper);
    assert!(last(&paper, PERSON).contains("deadline_passed"));
    let answer = format!(
        r#"{{"jsonrpc":"2.0","id":{},"result":1}}"#,
        ticket(&paper, SERVANT)
    );
    say(&mut core, &mut paper, SERVANT, &answer);
    assert_eq!((paper.sent[&PERSON].len(), core.counters.late_answers), (1, 1));
}

#[test]
fn who_waits_for_the_partner_hears_when_the_link_breaks() {
    let (mut core, mut paper) = room();
    ask(&mut core, &mut paper, PERSON, "partner/echo.back");
    assert!(last(&paper, LINK).contains(r#""rank":0"#));
    core.closed(LINK, at(1_000), &mut paper);
    assert!(last(&paper, PERSON).contains("partner_unreachable"));
    ask(&mut core, &mut paper, PERSON, "b/echo.back");
    assert!(
        last(&paper, PERSON).contains("partner_unreachable") && last(&paper, PERSON).contains("since_ms")
    );
}

proptest! {
    #[test]
    fn every_request_is_answered_exactly_once(
        steps in proptest::collection::vec((0..9u8, 1..4u64, "(echo|partner/echo|b/echo|a/echo|router|none|x)\\.(back|status|trace|note|no)"), 1..60)
    ) {
        let (mut core, mut paper) = room();
        let (mut asked, mut now) = (0_usize, 0);
        for (kind, from, method) in steps {
            now += 1;
            match kind {
                // An answer to whatever was sent to the service or the link last.
                0 | 1 => {
                    let callee = if kind == 0 { SERVANT } else { LINK };
                    let sent = paper.sent.get(&callee).and_then(|sent| sent.last()).cloned();
                    let id = sent.as_deref().and_then(|sent| Envelope::parse(sent.as_bytes()).ok()?.id);
                    let answer = format!(r#"{{"jsonrpc":"2.0","id":{},"result":null}}"#, id.unwrap_or("7"));
                    core.receive(callee, answer.as_bytes(), at(now), &mut paper);
                }
                2 => { paper.full.insert(SERVANT); }
                3 => { paper.full.remove(&SERVANT); }
                4 => core.expire(at(now * 20_000), &mut paper),
                5 => {
                    core.closed(LINK, at(now), &mut paper);
                    core.link_up(LINK, "0".into(), at(now), &mut paper);
                }
                _ => {
                    let from = if from == LINK { PERSON } else { from };
                    asked += usize::from(from == PERSON);
                    let message = format!(r#"{{"jsonrpc":"2.0","id":"p{from}","method":"{method}","deadline_ms":50}}"#);
                    core.receive(from, message.as_bytes(), at(now), &mut paper);
                }
            }
        }
        core.expire(at(u64::MAX), &mut paper);
        let answers = paper.sent.get(&PERSON).map_or(0, |sent| sent.iter().filter(|m| m.contains("\"p1\"")).count());
        prop_assert_eq!(answers, asked);
        prop_assert_eq!((core.awaited(PERSON), core.next_deadline()), (0, None));
        let status = core.status();
        prop_assert!(status.services.iter().all(|service| service.pending == 0));
    }

    #[test]
    fn whatever_is_said_nothing_panics(texts in proptest::collection::vec("[\\[\\]{}\":,a-z0-9./ ]{0,80}", 1..20)) {
        let (mut core, mut paper) = room();
        for text in texts {
            for from in [PERSON, SERVANT, LINK] {
                core.receive(from, text.as_bytes(), at(1), &mut paper);
            }
        }
    }
}
