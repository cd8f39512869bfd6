//! Recorded conversations: what once went over the wire under each name, one file per method.
//!
//! ```text
//! frozen/pool.take.json   { "method", "messages": [ { "call": <as a router hands it to the service>,
//!                                                     "answer": <as a router hands it to the caller> }, .. ] }
//! frozen/SEALS            <BLAKE3 of the file, 16 digits>  <name of the file>
//! ```
//!
//! A recording is made once, from the schema of that day, with every member and every variant. From then on it stands
//! for every program that was built while it was true. Growing a type by a member with a default leaves it valid; to
//! record the new member too, add a conversation to the file by hand and renew its seal.
//!
//! Invariant: nothing in here writes over a file that is there.

use crate::examples::Examples;
use pollux_api::contract::{Declaration, Kind, SERVICES};
use pollux_api::id::ControllerId;
use pollux_api::router::{EVENT, Event};
use pollux_rpc_router::discover::document;
use pollux_runtime::wire::{self, Head};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

const SEALS: &str = "SEALS";

/// Where the recordings are.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("frozen")
}

/// The file of a method.
pub fn file(name: &str) -> PathBuf {
    folder().join(format!("{name}.json"))
}

/// Every declaration of the contract.
pub fn declarations() -> impl Iterator<Item = &'static Declaration> {
    SERVICES.iter().flat_map(|service| service.methods)
}

/// The schemas of a declaration's parameters (or payload) and result, and those of all types.
#[derive(Debug)]
pub struct Schemas {
    document: Value,
}

impl Schemas {
    /// Of today.
    pub fn today() -> Self {
        Self {
            document: document("", |_| false),
        }
    }

    /// All types by name.
    pub fn types(&self) -> &Map<String, Value> {
        self.document["components"]["schemas"]
            .as_object()
            .expect("a document has schemas")
    }

    /// Of the parameters or the payload; `null` for none.
    pub fn params(&self, name: &str) -> Value {
        let entry = self.entry(name);
        let schema = entry.get("x-params").or_else(|| entry.get("schema"));
        schema.cloned().unwrap_or_else(|| json!({ "type": "null" }))
    }

    /// Of the result; `null` for none.
    pub fn result(&self, name: &str) -> Value {
        self.entry(name)["result"]
            .get("schema")
            .cloned()
            .unwrap_or_else(|| json!({ "type": "null" }))
    }

    fn entry(&self, name: &str) -> &Value {
        let lists = ["methods", "x-topics"].map(|list| self.document[list].as_array());
        let mut entries = lists.into_iter().flatten().flatten();
        entries
            .find(|entry| entry["name"] == name)
            .unwrap_or(&Value::Null)
    }
}

/// What has gone over the wire, or would go today.
#[derive(Clone, Debug)]
pub struct Conversation {
    /// Request, notification or event.
    pub call: Value,
    /// Answer; none to what is not answered.
    pub answer: Option<Value>,
}

impl Conversation {
    /// Parameters or payload of the call.
    pub fn params(&self, kind: Kind) -> &Value {
        match kind {
            Kind::Topic => &self.call["params"]["payload"],
            _ => &self.call["params"],
        }
    }
}

/// The recorded conversations of a method.
///
/// # Errors
/// The file cannot be read, or is no recording.
pub fn read(name: &str) -> io::Result<Vec<Conversation>> {
    let whole: Value = serde_json::from_slice(&fs::read(file(name))?)?;
    let messages = whole["messages"].as_array().filter(|_| whole["method"] == name);
    let messages = messages.ok_or_else(|| io::Error::other("no recording of this method"))?;
    let one = |message: &Value| Conversation {
        call: message["call"].clone(),
        answer: message.get("answer").cloned(),
    };
    Ok(messages.iter().map(one).collect())
}

/// The text of a recording of today.
///
/// # Panics
/// An example of a schema is not read by the type that the schema is of: the schema lies.
pub fn record(declaration: &Declaration, schemas: &Schemas) -> String {
    let types = &declaration.types;
    let values = |schema: &Value, read: fn(&str) -> serde_json::Result<String>| {
        let mut problem = String::new();
        // Keys of maps are digits, or a controller.
        for key in ["01890a5dac96774bbcce0000000000ff", "a"] {
            let examples = Examples::new(schemas.types(), key).of(schema);
            let read: serde_json::Result<Vec<String>> =
                examples.iter().map(|value| read(&value.to_string())).collect();
            match read {
                Ok(read) => return read,
                Err(error) => problem = format!("{error}: {examples:?}"),
            }
        }
        panic!(
            "{}: the type does not read what its schema permits: {problem}",
            declaration.name
        )
    };
    let params = values(&schemas.params(declaration.name), types.read_params);
    let results = values(&schemas.result(declaration.name), types.read_result);
    let count = params.len().max(results.len());
    let messages: Vec<Value> = (0..count)
        .map(|i| {
            let call = call(declaration, &params[i % params.len()]);
            match declaration.kind {
                Kind::Request => json!({ "call": call, "answer": answer(&results[i % results.len()]) }),
                _ => json!({ "call": call }),
            }
        })
        .collect();
    let whole = json!({ "method": declaration.name, "messages": messages });
    serde_json::to_string_pretty(&whole).expect("a value is written") + "\n"
}

/// A call as today's router hands it to a service.
fn call(declaration: &Declaration, params: &str) -> Value {
    let id = |last: &str| format!("01890a5d-ac96-774b-bcce-b302099a80{last}").parse().ok();
    let event = |payload: &str| {
        let payload: Value = serde_json::from_str(payload).unwrap_or_default();
        let topic = declaration.name.to_owned();
        wire::to_json(&Event {
            topic,
            controller: ControllerId::A,
            sequence: 1,
            payload,
        })
    };
    let mut line = Vec::new();
    match declaration.kind {
        Kind::Topic => wire::write_call(&mut line, None, EVENT, Some(&event(params)), &Head::default()),
        kind => {
            let request = kind == Kind::Request;
            let head = Head {
                action_id: id("57"),
                parent: id("56"),
                deadline_ms: request.then_some(30_000),
                from: Some("a/shell"),
                rank: None,
            };
            wire::write_call(
                &mut line,
                request.then_some("7"),
                declaration.name,
                Some(params),
                &head,
            );
        }
    }
    serde_json::from_slice(&line).expect("what the wire writes is JSON")
}

/// An answer as today's router hands it to a caller.
fn answer(result: &str) -> Value {
    let mut line = Vec::new();
    let action = "01890a5d-ac96-774b-bcce-b302099a8057".parse().ok();
    wire::write_answer(&mut line, "7", Ok(result), action);
    serde_json::from_slice(&line).expect("what the wire writes is JSON")
}

/// The seal of a file's text.
pub fn seal(text: &[u8]) -> String {
    blake3::hash(text).to_hex().chars().take(16).collect()
}

/// The seals by name of the file.
///
/// # Errors
/// The list cannot be read.
pub fn seals() -> io::Result<BTreeMap<String, String>> {
    let text = match fs::read_to_string(folder().join(SEALS)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        text => text?,
    };
    let pair = |line: &str| {
        line.split_once("  ")
            .map(|(seal, name)| (name.to_owned(), seal.to_owned()))
    };
    Ok(text.lines().filter_map(pair).collect())
}

/// Records what has no recording yet, and seals it.
///
/// # Errors
/// A file cannot be written.
pub fn bless() -> io::Result<()> {
    let (schemas, mut seals) = (Schemas::today(), seals()?);
    fs::create_dir_all(folder())?;
    for declaration in declarations() {
        let (path, name) = (file(declaration.name), format!("{}.json", declaration.name));
        if !path.exists() && !seals.contains_key(&name) {
            let text = record(declaration, &schemas);
            fs::write(path, &text)?;
            seals.insert(name, seal(text.as_bytes()));
        }
    }
    let lines: String = seals
        .iter()
        .map(|(name, seal)| format!("{seal}  {name}\n"))
        .collect();
    fs::write(folder().join(SEALS), lines)
}
