//! JSON-RPC: where a message ends, what its envelope says, where the router sends it, what its parameters are.

use crate::script::Script;
use pollux_api::action::ActionId;
use pollux_api::id::ControllerId;
use pollux_api::{address, alua, chassis, config, heartbeat, pool, router, target};
use pollux_rpc_router::pending::Ticket;
use pollux_rpc_router::routing::{ConnectionId, Core, Errand, Now, Peer, World};
use pollux_rpc_router::trace::{Entry, Ring};
use pollux_runtime::wire::{self, Envelope, Framer, Head, Kind, Malformed};
use serde::{Serialize, de::DeserializeOwned};

/// A stream, behind the size of the pieces in which it comes.
pub(super) fn envelope(data: &[u8]) {
    let mut script = Script(data);
    let step = usize::from(script.byte()).max(1);
    let cut = |step: usize| {
        let (mut framer, mut found) = (Framer::default(), Vec::new());
        for piece in script.0.chunks(step) {
            framer.buffer().extend_from_slice(piece);
            while let Some(message) = framer.next_message() {
                found.push(message.map(<[u8]>::to_vec));
            }
        }
        found
    };
    let messages: Vec<Result<Vec<u8>, Malformed>> = cut(usize::MAX);
    assert_eq!(cut(step), messages, "in pieces of {step} bytes");
    for message in messages.into_iter().flatten() {
        one(&message);
    }
}

fn one(message: &[u8]) {
    let Ok(envelope) = Envelope::parse(message) else {
        return;
    };
    assert!(message.starts_with(b"{"), "an envelope that is no object");
    let Ok(kind) = envelope.kind() else { return };
    let head = Head {
        action_id: envelope.action_id,
        parent: envelope.parent,
        deadline_ms: envelope.deadline_ms,
        from: envelope.from.as_deref(),
        rank: envelope.rank,
    };
    let params = envelope.params;
    let mut out = Vec::new();
    match kind {
        Kind::Request { id, method } => wire::write_call(&mut out, Some(id), method, params, &head),
        Kind::Notification { method } => wire::write_call(&mut out, None, method, params, &head),
        Kind::Answer { id, answer } => {
            wire::write_answer(&mut out, id, answer, envelope.action_id);
        }
    }
    let line = out.strip_suffix(b"\n").expect("a message ends its line");
    assert!(!line.contains(&b'\n'), "a message of two lines");
    let mut framer = Framer::default();
    framer.buffer().extend_from_slice(&out);
    let framed = framer.next_message().expect("whole").expect("framed").to_vec();
    assert_eq!(framed, line, "what was written is one message");
    let again = Envelope::parse(&framed).expect("what was written is read");
    let described = |kind: Kind<'_>| match kind {
        Kind::Request { id, method } => (Some(flat(id)), Some(method.to_owned()), None),
        Kind::Notification { method } => (None, Some(method.to_owned()), None),
        Kind::Answer { id, answer } => {
            let answer = answer.map(flat).map_err(flat);
            (Some(flat(id)), None, Some(answer))
        }
    };
    let kinds = (envelope.kind().map(described), again.kind().map(described));
    assert_eq!(kinds.0.expect("a kind"), kinds.1.expect("the same kind"));
    // An answer has none; whoever sends one with them meant something else by it.
    if envelope.method.is_some() {
        assert_eq!(params.map(flat), again.params.map(flat));
    }
    assert_eq!(envelope.action_id, again.action_id);
}

/// JSON on one line, as the writer of messages makes it.
fn flat(json: &str) -> String {
    json.replace(['\n', '\r'], " ")
}

pub(super) fn envelopes() -> Vec<Vec<u8>> {
    let id = "0197fab0-0000-7000-8000-000000000001";
    [
        r#"{"jsonrpc":"2.0","id":1,"method":"router.status","params":{}}"#.to_owned(),
        format!(r#"{{"jsonrpc":"2.0","id":"x","method":"partner/config.show","action_id":"{id}","deadline_ms":50}}"#),
        format!(r#"{{"jsonrpc":"2.0","method":"a/x.y","parent":"{id}","from":"a/heartbeat","rank":10,"params":[1]}}"#),
        r#"{"jsonrpc":"2.0","id":7,"result":null}{"jsonrpc":"2.0","id":8,"error":{"code":-32601,"message":"x"}}"#.into(),
        "{\"a\":\"}\\\"{\"}\n[{},{}]\nhello\n{\"jsonrpc\" : \"2.0\" ,\n\"id\":null,\"method\":\"m\"}".into(),
    ]
    .into_iter()
    .map(|stream| [&[64][..], stream.as_bytes(), b"\n"].concat())
    .collect()
}

/// What the router wants done, checked as it comes.
#[derive(Default)]
struct Wires {
    actions: u64,
    closed: Vec<ConnectionId>,
}

impl World for Wires {
    fn send(&mut self, _to: ConnectionId, message: &[u8]) -> bool {
        let line = message.strip_suffix(b"\n").expect("a message ends its line");
        assert!(!line.contains(&b'\n'), "a message of two lines");
        if !line.starts_with(b"[") {
            let envelope = Envelope::parse(line).expect("the router writes envelopes");
            envelope.kind().expect("the router writes messages");
        }
        true
    }

    fn close(&mut self, connection: ConnectionId, _why: &str) {
        self.closed.push(connection);
    }

    fn new_action(&mut self) -> ActionId {
        self.actions += 1;
        ActionId::from_bytes(u128::from(self.actions).to_be_bytes())
    }

    fn run(&mut self, _: Ticket, _: Errand) -> bool {
        false
    }

    fn journal(&mut self, _record: &Entry) -> bool {
        true
    }
}

const MARK: u8 = 0xff;
const PEOPLE: u8 = 4;
const LINK: u8 = 4;

/// A script of a router's life: bytes of one connection up to a mark (0xff, which no JSON has); the byte behind it
/// says who speaks next (0 to 3: local, 4: the partner's router), that it hangs up (+8), that time passes (+16), or
/// that it is not the router's own user when it comes (+32).
pub(super) fn bus(data: &[u8]) {
    let mut now = Now::default();
    let mut core = Core::new(ControllerId::A, "0", "partner".into(), Ring::default(), now);
    let mut wires = Wires::default();
    // Per seat: who sits there (numbers of connections are never used again), and what it has said.
    let mut seats: Vec<Option<(ConnectionId, Framer)>> = (0..=LINK).map(|_| None).collect();
    let mut next: ConnectionId = 0;
    for part in data.split(|byte| *byte == MARK) {
        let Some((&order, bytes)) = part.split_first() else {
            continue;
        };
        let seat = usize::from(order % 8 % (LINK + 1));
        if order & 16 != 0 {
            now.us += 50_000;
            now.unix_us += 50_000;
            core.expire(now, &mut wires);
        }
        let (connection, framer) = seats[seat].get_or_insert_with(|| {
            next += 1;
            if seat < usize::from(PEOPLE) {
                let trusted = order & 32 == 0;
                core.opened(
                    next,
                    Peer {
                        uid: 1000,
                        pid: 7,
                        trusted,
                    },
                );
            } else {
                core.link_up(next, "0".into(), now, &mut wires);
            }
            (next, Framer::default())
        });
        let connection = *connection;
        framer.buffer().extend_from_slice(bytes);
        while let Some(message) = framer.next_message() {
            match message {
                Ok(message) => core.receive(connection, message, now, &mut wires),
                Err(malformed) => core.garbage(connection, &malformed.into(), &mut wires),
            }
        }
        if order & 8 != 0 {
            wires.closed.push(connection);
        }
        for gone in std::mem::take(&mut wires.closed) {
            core.closed(gone, now, &mut wires);
            for seat in &mut seats {
                seat.take_if(|(connection, _)| *connection == gone);
            }
        }
    }
    // Every request ends: answered, or its deadline passes. (The router may ask again on its own, a bounded number
    // of times.)
    for _ in 0..64 {
        let Some(deadline) = core.next_deadline() else {
            break;
        };
        now.us = now.us.max(deadline);
        core.expire(now, &mut wires);
    }
    assert_eq!(core.next_deadline(), None, "something is awaited for ever");
    for (connection, _) in seats.iter().flatten() {
        assert_eq!(core.awaited(*connection), 0, "a person waits for ever");
    }
}

pub(super) fn buses() -> Vec<Vec<u8>> {
    let register = concat!(
        r#"{"jsonrpc":"2.0","id":0,"method":"router.register","params":{"name":"echo","version":"0","rank":70,"#,
        r#""methods":[{"name":"echo.back","idempotent":true},"#,
        r#"{"name":"echo.note","idempotent":true,"notification":true}]}}"#
    );
    let call = |method: &str| format!(r#"{{"jsonrpc":"2.0","id":"i","method":"{method}","deadline_ms":50}}"#);
    let part = |order: u8, text: &str| [&[order][..], text.as_bytes(), &[MARK]].concat();
    let trace = r#"{"jsonrpc":"2.0","id":3,"method":"router.trace","params":{"action_id":"0197fab0-0000-7000-8000-000000000001"}}"#;
    let subscribe = r#"{"jsonrpc":"2.0","id":4,"method":"router.subscribe","params":{"topics":["echo.news","partner/pool.state"]}}"#;
    let publish = r#"{"jsonrpc":"2.0","id":5,"method":"router.publish","params":{"topic":"echo.news","payload":{"x":1}}}"#;
    let answer = r#"{"jsonrpc":"2.0","id":"0","result":{"ok":true}}"#;
    vec![
        [part(1, register), part(0, &call("echo.back")), part(1, answer)].concat(),
        [
            part(1, register),
            part(0, &call("echo.back")),
            part(9, ""),
            part(16, ""),
        ]
        .concat(),
        [
            part(4, ""),
            part(0, &call("partner/config.show")),
            part(20, answer),
        ]
        .concat(),
        [part(4, ""), part(0, trace), part(0, &call("router.status"))].concat(),
        [
            part(1, register),
            part(4, ""),
            part(0, subscribe),
            part(1, publish),
            part(12, ""),
        ]
        .concat(),
        part(0, &format!("[{},{}]", call("router.status"), call("nobody.home"))),
        [part(33, register), part(0, "garbage\n{\"a\":1}")].concat(),
    ]
}

/// A type of the contract: bytes that are one stay the same however often they are written and read.
fn payload<T: DeserializeOwned + Serialize>(json: &str) {
    if let Ok(value) = wire::params::<T>("payload", json) {
        let first = wire::to_json(&value);
        let again: T = serde_json::from_str(&first).expect("what was written is read");
        assert_eq!(wire::to_json(&again), first, "it changes each time");
    }
}

/// Every type that comes as parameters or as a result, in an order that only grows at its end: corpora count on it.
const PAYLOADS: &[fn(&str)] = &[
    payload::<config::Change>,
    payload::<config::SetEpoch>,
    payload::<config::Append>,
    payload::<config::Fetch>,
    payload::<config::Fetched>,
    payload::<config::Sync>,
    payload::<config::Snapshot>,
    payload::<config::Status>,
    payload::<config::Watch>,
    payload::<config::Get>,
    payload::<config::List>,
    payload::<config::Freeze>,
    payload::<router::Register>,
    payload::<router::Subscribe>,
    payload::<router::Publish<serde_json::Value>>,
    payload::<router::Trace>,
    payload::<router::TraceReport>,
    payload::<router::Status>,
    payload::<heartbeat::Status>,
    payload::<heartbeat::TimelineQuery>,
    payload::<heartbeat::Incident>,
    payload::<heartbeat::Switchover>,
    payload::<heartbeat::Takeover>,
    payload::<heartbeat::Giveback>,
    payload::<heartbeat::OpenAlone>,
    payload::<pool::Take>,
    payload::<pool::Import>,
    payload::<pool::Export>,
    payload::<pool::Status>,
    payload::<pool::PoolEvent>,
    payload::<target::Publish>,
    payload::<target::Hold>,
    payload::<target::Flip>,
    payload::<target::Status>,
    payload::<alua::Set>,
    payload::<alua::Status>,
    payload::<address::Raise>,
    payload::<address::Lower>,
    payload::<address::Status>,
    payload::<chassis::Status>,
    payload::<chassis::Event>,
    payload::<chassis::SetDiskFault>,
    payload::<chassis::bmc::Arm>,
    payload::<pollux_api::error::RpcError>,
];

/// JSON, behind the number of the type that it should be.
pub(super) fn payloads(data: &[u8]) {
    let mut script = Script(data);
    let kind = usize::from(script.byte()) % PAYLOADS.len();
    if let Ok(json) = std::str::from_utf8(script.0) {
        PAYLOADS[kind](json);
    }
}

pub(super) fn payload_seeds() -> Vec<Vec<u8>> {
    let uuid = "0197fab0-0000-7000-8000-000000000001";
    let json = [
        (0, r#"{"ops":[{"op":"create_volume","name":"v","pool":"p","size_bytes":1048576}],"expected_index":3,"dry_run":true}"#.to_owned()),
        (1, r#"{"record":{"epoch":3,"members":{"a":7},"mode":"open","base":{"length":1}}}"#.into()),
        (12, r#"{"name":"echo","version":"0","rank":70,"methods":[{"name":"echo.back","idempotent":true}]}"#.into()),
        (13, r#"{"topics":["a.b"]}"#.into()),
        (14, r#"{"topic":"a.b","payload":{"x":[1,2.5e3,null,"\u00e9"]}}"#.into()),
        (15, format!(r#"{{"action_id":"{uuid}","limit":10,"local":true}}"#)),
        (19, format!(r#"{{"action_id":"{uuid}","limit":3}}"#)),
        (21, format!(r#"{{"pool":"{uuid}","to":"b"}}"#)),
        (25, format!(r#"{{"pool":"{uuid}","epoch":3,"generation":4,"disks":[3,4]}}"#)),
        (30, format!(r#"{{"volumes":[{{"id":"{uuid}","blocks":2048}}]}}"#)),
        (36, r#"{"pool":"x","cidr":"10.0.0.1/24"}"#.into()),
        (41, r#"{"disk":3,"port":"a","fault":{"delay":{"ms":5}}}"#.into()),
        (42, r#"{"timeout_ms":500}"#.into()),
        (43, r#"{"code":-32000,"message":"x","data":{"what":"w","where":"h","remedy":"r","since":1}}"#.into()),
    ];
    json.into_iter()
        .map(|(kind, json)| [&[kind][..], json.as_bytes()].concat())
        .collect()
}
