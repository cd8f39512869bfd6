//! Refusals of other versions are understood: recorded error objects, one for each kind, in `frozen-errors.json`.

use pollux_api::error::{Code, RpcError};
use serde_json::{Map, Value, json};

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/frozen-errors.json");

/// An error of this kind with everything that one can say.
fn full(code: Code) -> Value {
    let error = RpcError::new(code, "a/pool", "what is wrong")
        .remedy("what would clear it")
        .since_ms(1_700_000_000_000)
        .problem("volumes[0].size", "0", "at least 1");
    serde_json::to_value(error).unwrap()
}

fn recorded() -> Map<String, Value> {
    let mut recorded: Map<String, Value> =
        std::fs::read(PATH).map_or_else(|_| Map::new(), |text| serde_json::from_slice(&text).unwrap());
    if std::env::var_os("POLLUX_BLESS").is_some() {
        // What is there stays as it is.
        for code in Code::ALL {
            recorded.entry(code.name()).or_insert_with(|| full(*code));
        }
        let text = serde_json::to_string_pretty(&recorded).unwrap() + "\n";
        std::fs::write(PATH, text).unwrap();
    }
    recorded
}

#[test]
fn every_kind_of_error_reads_as_it_was_recorded() {
    let recorded = recorded();
    for code in Code::ALL {
        let error = recorded.get(code.name()).unwrap_or_else(|| {
            panic!(
                "{PATH} has no {}: record it with POLLUX_BLESS=1 cargo test -p contract",
                code.name()
            )
        });
        assert_eq!(
            *error,
            full(*code),
            "{PATH}: {} is written otherwise now; older programs read and write what is recorded: restore it",
            code.name()
        );
        let read: RpcError = serde_json::from_value(error.clone()).unwrap();
        assert_eq!(read.kind(), Some(*code));
    }
    for name in recorded.keys() {
        assert!(
            Code::ALL.iter().any(|code| code.name() == name),
            "{name} was recorded and is gone: codes are for ever"
        );
    }
}

#[test]
fn an_error_of_a_newer_version_stays_what_it_is() {
    let newer = json!({
        "code": -32_099,
        "message": "a_new_kind",
        "data": { "what": "w", "of_a_newer_version": 1 },
        "of_a_newer_version": 2,
    });
    let read: RpcError = serde_json::from_value(newer).unwrap();
    assert_eq!(
        (read.kind(), read.message.as_str(), read.data.what.as_str()),
        (None, "a_new_kind", "w")
    );
    assert!(!read.is_transient(), "what is not known is not asked again");
    // A foreign error says only what JSON-RPC demands.
    let bare: RpcError =
        serde_json::from_value(json!({ "code": -32601, "message": "Method not found" })).unwrap();
    assert!(bare.is(Code::MethodNotFound) && bare.data.what.is_empty());
}
