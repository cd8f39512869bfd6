//! Old and new understand each other: today's types read what was recorded, in every way that the contract promises.

use contract::frozen::{self, Conversation, Schemas, declarations};
use pollux_api::contract::{Declaration, Kind};
use pollux_runtime::wire::{Envelope, Kind as Said};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::LazyLock;

/// What has no recording yet is recorded before any test reads, if that is asked for.
static READY: LazyLock<()> = LazyLock::new(|| {
    if std::env::var_os("POLLUX_BLESS").is_some() {
        frozen::bless().expect("recordings are written");
    }
});

/// Every recording of every method.
fn all() -> Vec<(&'static Declaration, Conversation)> {
    *READY;
    let read = |declaration: &'static Declaration| {
        let path = frozen::file(declaration.name);
        let read = frozen::read(declaration.name).unwrap_or_else(|error| {
            panic!(
                "{}: {error}: record it with POLLUX_BLESS=1 cargo test -p contract",
                path.display()
            )
        });
        read.into_iter()
            .map(move |conversation| (declaration, conversation))
    };
    declarations().flat_map(read).collect()
}

/// A part of a conversation: the value, its schema, how today's type reads it, and what to call it.
struct Part {
    name: String,
    value: Value,
    schema: Value,
    read: fn(&str) -> serde_json::Result<String>,
}

fn parts() -> Vec<Part> {
    let schemas = Schemas::today();
    let mut parts = Vec::new();
    for (declaration, conversation) in all() {
        let name = declaration.name;
        parts.push(Part {
            name: format!("{name} params"),
            value: conversation.params(declaration.kind).clone(),
            schema: schemas.params(name),
            read: declaration.types.read_params,
        });
        if let Some(answer) = conversation.answer {
            parts.push(Part {
                name: format!("{name} result"),
                value: answer["result"].clone(),
                schema: schemas.result(name),
                read: declaration.types.read_result,
            });
        }
    }
    parts
}

fn read(part: &Part, value: &Value) -> serde_json::Result<Value> {
    serde_json::from_str(&(part.read)(&value.to_string())?)
}

/// Everything in `old` stands in `new` too; `new` may have more members.
fn keeps(old: &Value, new: &Value) -> bool {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => old
            .iter()
            .all(|(name, value)| new.get(name).is_some_and(|new| keeps(value, new))),
        (Value::Array(old), Value::Array(new)) => {
            old.len() == new.len() && old.iter().zip(new).all(|(old, new)| keeps(old, new))
        }
        (old, new) => old == new,
    }
}

#[test]
fn every_method_has_a_recording_under_seal() {
    *READY;
    let seals = frozen::seals().expect("frozen/SEALS is there");
    let declared: BTreeSet<String> = declarations()
        .map(|method| format!("{}.json", method.name))
        .collect();
    for name in &declared {
        let path = frozen::folder().join(name);
        let text = std::fs::read(&path).unwrap_or_else(|error| {
            panic!(
                "{}: {error}: record it with POLLUX_BLESS=1 cargo test -p contract",
                path.display()
            )
        });
        assert_eq!(
            seals.get(name),
            Some(&frozen::seal(&text)),
            "{} is not what was sealed. It stands for programs of older versions, which still say this: restore it. \
             If conversations were added, or the contract is broken on purpose, renew its line in SEALS and say why \
             in the commit",
            path.display()
        );
    }
    for name in seals.keys() {
        assert!(
            declared.contains(name),
            "{name} was recorded and is declared no more: older programs still call it. Declare it again; or, if none \
             can be left, delete the file and its line in SEALS and say why in the commit"
        );
    }
}

#[test]
fn envelopes_of_yesterday_are_read() {
    for (declaration, conversation) in all() {
        let name = declaration.name;
        let call = conversation.call.to_string();
        let envelope = Envelope::parse(call.as_bytes()).unwrap_or_else(|error| panic!("{name}: {error}"));
        match (declaration.kind, envelope.kind().unwrap()) {
            (Kind::Request, Said::Request { id, method }) => {
                assert_eq!((id, method), ("7", name));
                assert_eq!(envelope.deadline_ms, Some(30_000));
                assert!(envelope.action_id.is_some() && envelope.parent.is_some());
                assert_eq!(envelope.from.as_deref(), Some("a/shell"));
                let answer = conversation.answer.expect("a request has an answer").to_string();
                let answer = Envelope::parse(answer.as_bytes()).unwrap();
                let said = answer.kind().unwrap();
                assert!(
                    matches!(said, Said::Answer { id, answer: Ok(_) } if id == "7"),
                    "{name}: {said:?}"
                );
                assert_eq!(answer.action_id, envelope.action_id);
            }
            (Kind::Notification, Said::Notification { method }) => assert_eq!(method, name),
            (Kind::Topic, Said::Notification { method }) => assert_eq!(method, pollux_api::router::EVENT),
            (_, said) => panic!("{name}: {said:?}"),
        }
    }
}

#[test]
fn todays_types_read_yesterdays_messages_and_lose_nothing() {
    for part in parts() {
        let now = read(&part, &part.value)
            .unwrap_or_else(|error| panic!("{} is not read any more: {error}\n{}", part.name, part.value));
        assert!(
            keeps(&part.value, &now),
            "{} lost something:\n{}\n{now}",
            part.name,
            part.value
        );
    }
}

#[test]
fn recorded_messages_are_what_the_schemas_say() {
    let schemas = Schemas::today();
    for part in parts() {
        let whole = json!({ "components": { "schemas": schemas.types() }, "allOf": [part.schema] });
        let judge = jsonschema::draft7::new(&whole).unwrap();
        let errors: Vec<String> = judge
            .iter_errors(&part.value)
            .map(|error| error.to_string())
            .collect();
        assert!(
            errors.is_empty(),
            "{}: {}\n{}",
            part.name,
            errors.join("; "),
            part.value
        );
    }
}

/// What a newer version might add.
const NEWER: &str = "of_a_newer_version";

/// Every object in `value` whose members the schema lists: pointer, names that may be missing, names that may not,
/// and whether unknown members are refused.
fn objects(schemas: &Schemas, schema: &Value, value: &Value, at: &str, found: &mut Vec<Object>) {
    if let Some(name) = schema["$ref"]
        .as_str()
        .and_then(|name| name.strip_prefix("#/components/schemas/"))
    {
        return objects(schemas, &schemas.types()[name], value, at, found);
    }
    if let (Some([only]), None) = (
        schema["allOf"].as_array().map(Vec::as_slice),
        schema.get("properties"),
    ) {
        return objects(schemas, only, value, at, found);
    }
    match value {
        Value::Object(members) if schema["oneOf"].is_null() && schema["properties"].is_object() => {
            let required: BTreeSet<&str> = schema["required"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect();
            let (needed, optional) = members
                .keys()
                .cloned()
                .partition(|name| required.contains(name.as_str()));
            found.push(Object {
                at: at.to_owned(),
                needed,
                optional,
                strict: schema["additionalProperties"] == false,
            });
            for (name, member) in members {
                objects(
                    schemas,
                    &schema["properties"][name],
                    member,
                    &format!("{at}/{name}"),
                    found,
                );
            }
        }
        Value::Array(items) if schema["items"].is_object() => {
            for (i, item) in items.iter().enumerate() {
                objects(schemas, &schema["items"], item, &format!("{at}/{i}"), found);
            }
        }
        _ => {}
    }
}

struct Object {
    at: String,
    needed: Vec<String>,
    optional: Vec<String>,
    strict: bool,
}

fn change(value: &Value, at: &str, change: impl FnOnce(&mut serde_json::Map<String, Value>)) -> Value {
    let mut changed = value.clone();
    change(
        changed
            .pointer_mut(at)
            .and_then(Value::as_object_mut)
            .expect("an object"),
    );
    changed
}

#[test]
fn unknown_members_are_ignored_except_where_the_contract_refuses_them() {
    let schemas = Schemas::today();
    let (mut ignored, mut refused) = (0, 0);
    for part in parts() {
        let mut found = Vec::new();
        objects(&schemas, &part.schema, &part.value, "", &mut found);
        let plain = read(&part, &part.value).unwrap();
        for object in found {
            let newer = change(&part.value, &object.at, |members| {
                drop(members.insert(NEWER.into(), 1.into()))
            });
            match read(&part, &newer) {
                Ok(now) => {
                    assert!(
                        !object.strict,
                        "{}{} took an unknown member",
                        part.name, object.at
                    );
                    assert_eq!(now, plain, "{}{}", part.name, object.at);
                    ignored += 1;
                }
                Err(error) => {
                    assert!(object.strict, "{}{}: {error}", part.name, object.at);
                    refused += 1;
                }
            }
        }
    }
    assert!(
        ignored > 200 && refused > 10,
        "{ignored} ignored, {refused} refused: nothing was tried"
    );
}

#[test]
fn missing_members_get_their_default_and_needed_ones_are_missed() {
    let schemas = Schemas::today();
    let (mut defaults, mut missed) = (0, 0);
    for part in parts() {
        let mut found = Vec::new();
        objects(&schemas, &part.schema, &part.value, "", &mut found);
        for object in found {
            for name in &object.optional {
                let older = change(&part.value, &object.at, |members| drop(members.remove(name)));
                let now = read(&part, &older);
                assert!(now.is_ok(), "{}{}/{name}: {now:?}", part.name, object.at);
                defaults += 1;
            }
            for name in &object.needed {
                let broken = change(&part.value, &object.at, |members| drop(members.remove(name)));
                assert!(
                    read(&part, &broken).is_err(),
                    "{}{}/{name} is not needed",
                    part.name,
                    object.at
                );
                missed += 1;
            }
        }
    }
    assert!(
        defaults > 100 && missed > 500,
        "{defaults} defaults, {missed} missed: nothing was tried"
    );
}

#[test]
fn a_recording_of_today_has_every_variant_of_an_alternative() {
    let schemas = Schemas::today();
    let change = declarations()
        .find(|method| method.name == pollux_api::config::CHANGE)
        .unwrap();
    let text = frozen::record(change, &schemas);
    for op in ["create_pool", "pool_ready", "map", "unmap", "delete"] {
        assert!(text.contains(&format!("\"op\": \"{op}\"")), "{op}");
    }
}
