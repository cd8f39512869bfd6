//! The directory of the exchange, printed: the OpenRPC document that `rpc.discover` answers.
//!
//! It is made from the contract, not from what services said when they registered, so that what can be called is known
//! before it is there; what is registered now is marked. Readers are tools of the ecosystem (OpenRPC 1.3, JSON Schema
//! draft 7), which pass over the members that begin with `x-`:
//!
//! ```text
//! method   x-kind         request or notification       x-registered   its service is, at this router
//!          x-afar         the role that may from afar, or null
//!          x-rank         place in the order of calls   x-errors       names of its own errors
//!          x-repeat       idempotent, once or each      x-params       the schema of the parameters as one value
//!          x-peer         the partner's may call it
//! schema   x-unit         of a number: from the end of its name
//! document x-topics       what can be subscribed to     x-errors       what every name of an error means
//!          x-errors-everywhere                          x-calls        who calls what
//! ```
//!
//! A type whose name means different things in different modules of the contract is called `module.Type`.

use pollux_api::contract::{Declaration, Door, EVERYWHERE, Kind, Repeat, SERVICES, Service};
use pollux_api::error::Code;
use schemars::generate::SchemaSettings;
use schemars::{Schema, SchemaGenerator};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

/// Version of the OpenRPC specification.
pub const OPENRPC: &str = "1.3.2";
const SCHEMAS: &str = "#/components/schemas/";
/// Ends of names that say a unit.
const UNITS: &[(&str, &str)] = &[
    ("_unix_ms", "ms of Unix time"),
    ("_unix_us", "us of Unix time"),
    ("_ms", "ms"),
    ("_us", "us"),
    ("_ns", "ns"),
    ("_bytes", "bytes"),
    ("_percent", "percent"),
    ("bytes", "bytes"),
    ("percent", "percent"),
];

/// The document, at a router of this version; `registered` says which services are.
pub fn document(version: &str, registered: impl Fn(&str) -> bool) -> Value {
    let mut document = CONTRACT.clone();
    document["info"]["version"] = version.into();
    for method in document["methods"].as_array_mut().into_iter().flatten() {
        let owner = method["name"].as_str().and_then(|name| name.split_once('.'));
        let here =
            owner.is_some_and(|(service, _)| matches!(service, "router" | "rpc") || registered(service));
        method["x-registered"] = here.into();
    }
    document
}

/// What does not change while the router runs.
static CONTRACT: LazyLock<Value> = LazyLock::new(|| {
    let Shapes {
        schemas,
        mut messages,
    } = Shapes::of_all();
    let mut methods = Vec::new();
    let mut topics = Vec::new();
    for service in SERVICES {
        for declaration in service.methods {
            let (params, result) = messages.remove(declaration.name).unwrap_or_default();
            match declaration.kind {
                Kind::Topic => topics.push(json!({
                    "name": declaration.name,
                    "description": plain(declaration.about),
                    "schema": params,
                    "x-afar": declaration.afar,
                })),
                _ => methods.push(method(service, declaration, params, result, &schemas)),
            }
        }
    }
    json!({
        "openrpc": OPENRPC,
        "info": {
            "title": "Pollux",
            "description": "Services of one controller of the array. Every message may carry action_id, parent and \
                            deadline_ms beside the members of JSON-RPC 2.0; `partner/`, `a/` or `b/` before a method \
                            names a controller.",
            "version": "",
            "license": { "name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0" },
        },
        "servers": [server("router", "router.sock")],
        "methods": methods,
        "components": {
            "schemas": schemas,
            "errors": Code::ALL.iter().map(|code| (code.name().to_owned(), error(*code))).collect::<Map<_, _>>(),
        },
        "x-topics": topics,
        "x-errors": Code::ALL.iter().map(|code| (code.name().to_owned(), plain(code.about()).into()))
            .collect::<Map<_, _>>(),
        "x-errors-everywhere": EVERYWHERE.iter().map(|code| code.name()).collect::<Vec<_>>(),
        "x-calls": SERVICES.iter().map(|service| (service.name.to_owned(), service.calls.into()))
            .collect::<Map<_, _>>(),
    })
});

fn server(name: &str, socket: &str) -> Value {
    json!({ "name": name, "url": format!("unix:{socket}"), "description": "A unix socket: one JSON object per line." })
}

fn error(code: Code) -> Value {
    json!({ "code": code.number(), "message": code.name() })
}

fn method(
    service: &Service,
    declaration: &Declaration,
    params: Value,
    result: Value,
    schemas: &Map<String, Value>,
) -> Value {
    let about = plain(declaration.about);
    let reference = |code: &Code| json!({ "$ref": format!("#/components/errors/{}", code.name()) });
    let mut method = json!({
        "name": declaration.name,
        "summary": about.split_inclusive(['.', ':']).next().unwrap_or(&about).trim_end_matches(['.', ':']),
        "description": about,
        "tags": [{ "name": service.name }],
        "paramStructure": "by-name",
        "params": descriptors(&params, schemas),
        "errors": declaration.errors.iter().map(reference).collect::<Vec<_>>(),
        "x-kind": if declaration.kind == Kind::Request { "request" } else { "notification" },
        "x-rank": service.rank,
        "x-repeat": format!("{:?}", declaration.repeat).to_lowercase(),
        "x-idempotent": declaration.repeat == Repeat::Idempotent,
        "x-peer": declaration.peer,
        "x-afar": declaration.afar,
        "x-errors": declaration.errors.iter().map(|code| code.name()).collect::<Vec<_>>(),
    });
    if params["type"] != "null" {
        method["x-params"] = params;
    }
    // Without a result a method is a notification: the specification says so.
    if declaration.kind == Kind::Request {
        method["result"] = json!({ "name": "result", "required": true, "schema": result });
    }
    if let Door::Socket(socket) = service.door {
        method["servers"] = json!([server(service.name, socket)]);
    }
    method
}

/// One descriptor per member of the parameters; a value that is no plain object is one descriptor.
fn descriptors(params: &Value, schemas: &Map<String, Value>) -> Vec<Value> {
    if params["type"] == "null" {
        return Vec::new();
    }
    let referred = params["$ref"]
        .as_str()
        .and_then(|name| schemas.get(name.strip_prefix(SCHEMAS)?));
    let object = referred.unwrap_or(params);
    let Some(members) = object["properties"]
        .as_object()
        .filter(|_| object["oneOf"].is_null())
    else {
        return vec![json!({ "name": "params", "required": true, "schema": params })];
    };
    let required: BTreeSet<&str> = object["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let descriptor = |(name, schema): (&String, &Value)| {
        json!({
            "name": name,
            "description": schema["description"].as_str().unwrap_or_default(),
            "required": required.contains(name.as_str()),
            "schema": schema,
        })
    };
    members.iter().map(descriptor).collect()
}

/// Comments of the code as text: one space after a sentence, no links of rustdoc.
pub fn plain(comment: &str) -> String {
    let text: Vec<&str> = comment.split_whitespace().collect();
    let text = text.join(" ");
    text.replace("[`", "`").replace("`]", "`").replace("crate::", "")
}

/// The schemas of all messages, with names that are clear in one document.
struct Shapes {
    schemas: Map<String, Value>,
    /// Parameters and result by name of the method.
    messages: BTreeMap<&'static str, (Value, Value)>,
}

impl Shapes {
    fn of_all() -> Self {
        let mut messages = BTreeMap::new();
        // By name of the type, then by module of the contract.
        let mut found: BTreeMap<String, BTreeMap<String, Value>> = BTreeMap::new();
        for (service, declaration) in SERVICES
            .iter()
            .flat_map(|service| service.methods.iter().map(|method| (service.name, method)))
        {
            let types = &declaration.types;
            let mut shape = |id: &str, make: fn(&mut SchemaGenerator) -> Schema| {
                let owner = module(id).unwrap_or(service).to_owned();
                let settings = SchemaSettings::draft07().with(|settings| {
                    settings.definitions_path = "/components/schemas".into();
                    settings.meta_schema = None;
                });
                // A generator of its own: within one message a name means one thing.
                let mut generator = settings.into_generator();
                let schema = make(&mut generator).to_value();
                for (name, schema) in generator.take_definitions(true) {
                    found.entry(name).or_default().insert(owner.clone(), schema);
                }
                (owner, schema)
            };
            let params = shape(&(types.params_id)(), types.params);
            let result = shape(&(types.result_id)(), types.result);
            messages.insert(declaration.name, (params, result));
        }
        let ambiguous = ambiguous(&found);
        let mut schemas = Map::new();
        for (name, by_owner) in found {
            for (owner, mut schema) in by_owner {
                mend(&mut schema, &owner, &ambiguous);
                schemas.insert(spelled(&name, &owner, &ambiguous), schema);
            }
        }
        let mended = |(owner, mut schema): (String, Value)| {
            mend(&mut schema, &owner, &ambiguous);
            schema
        };
        let messages = messages
            .into_iter()
            .map(|(name, (params, result))| (name, (mended(params), mended(result))))
            .collect();
        Self { schemas, messages }
    }
}

/// The module in which a type was declared: `pool` of `pollux_api::pool::Take`.
fn module(id: &str) -> Option<&str> {
    let (_, path) = id.split_once("pollux_api::")?;
    path.split_once("::").map(|(module, _)| module)
}

/// Names that mean different things in different modules, directly or by what they refer to.
fn ambiguous(found: &BTreeMap<String, BTreeMap<String, Value>>) -> BTreeSet<String> {
    let differs = |by_owner: &BTreeMap<String, Value>| {
        let mut schemas = by_owner.values();
        let first = schemas.next();
        schemas.any(|schema| Some(schema) != first)
    };
    let several = found.iter().filter(|(_, by_owner)| by_owner.len() > 1);
    let mut names: BTreeSet<String> = several
        .clone()
        .filter(|(_, by_owner)| differs(by_owner))
        .map(|(name, _)| name.clone())
        .collect();
    loop {
        let refers = |schema: &Value| {
            let text = schema.to_string();
            names
                .iter()
                .any(|name| text.contains(&format!("\"{SCHEMAS}{name}\"")))
        };
        let more: Vec<String> = several
            .clone()
            .filter(|(name, by_owner)| !names.contains(*name) && by_owner.values().any(refers))
            .map(|(name, _)| name.clone())
            .collect();
        if more.is_empty() {
            return names;
        }
        names.extend(more);
    }
}

fn spelled(name: &str, owner: &str, ambiguous: &BTreeSet<String>) -> String {
    if ambiguous.contains(name) {
        format!("{owner}.{name}")
    } else {
        name.to_owned()
    }
}

/// Spells references, makes descriptions plain, and says units.
fn mend(schema: &mut Value, owner: &str, ambiguous: &BTreeSet<String>) {
    match schema {
        Value::Object(members) => {
            if let Some(Value::String(reference)) = members.get_mut("$ref")
                && let Some(name) = reference.strip_prefix(SCHEMAS)
            {
                *reference = format!("{SCHEMAS}{}", spelled(name, owner, ambiguous));
            }
            if let Some(Value::String(description)) = members.get_mut("description") {
                *description = plain(description);
            }
            if let Some(Value::Object(properties)) = members.get_mut("properties") {
                for (name, property) in properties {
                    let unit = UNITS.iter().find(|(end, _)| name.ends_with(end));
                    if let (Some((_, unit)), Value::Object(property)) = (unit, property) {
                        property.insert("x-unit".into(), (*unit).into());
                    }
                }
            }
            members
                .values_mut()
                .for_each(|member| mend(member, owner, ambiguous));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| mend(item, owner, ambiguous)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pollux_api::router::MAX_MESSAGE;

    #[test]
    fn it_fits_one_message_and_marks_what_is_registered() {
        let document = document("1.2.3", |service| service == "pool");
        assert_eq!(document["info"]["version"], "1.2.3");
        assert!(
            document.to_string().len() < MAX_MESSAGE / 2,
            "{}",
            document.to_string().len()
        );
        let registered = |name: &str| {
            let methods = document["methods"].as_array().unwrap();
            methods.iter().find(|method| method["name"] == name).unwrap()["x-registered"].clone()
        };
        assert_eq!(registered("pool.take"), true);
        assert_eq!(registered("router.status"), true);
        assert_eq!(registered("alua.set"), false);
    }

    #[test]
    fn names_that_mean_two_things_are_spelled_out_and_others_are_not() {
        let schemas = &CONTRACT["components"]["schemas"];
        assert!(schemas["config.Status"].is_object() && schemas["pool.Status"].is_object());
        assert!(schemas["PoolId"].is_object() && schemas["Status"].is_null());
        let names: Vec<&String> = schemas.as_object().unwrap().keys().collect();
        // The generator numbers what it cannot tell apart within one service.
        let numbered: Vec<_> = names
            .iter()
            .filter(|name| name.ends_with('2') && !name.ends_with("Hash32"))
            .collect();
        assert!(
            numbered.iter().all(|name| name.starts_with("Hex")),
            "{numbered:?}"
        );
    }

    #[test]
    fn units_stand_beside_numbers() {
        assert_eq!(
            CONTRACT["components"]["schemas"]["Hold"]["properties"]["drain_ms"]["x-unit"],
            "ms"
        );
    }
}
