//! `rpc.discover` answers with what tools of the ecosystem read: an OpenRPC document.
//!
//! The judge is the meta-schema that the project OpenRPC publishes (openrpc/schema.json, Apache-2.0), unchanged but for
//! the list of versions, which its build fills in; beside it stand the rules of the specification that a schema cannot
//! say.

use pollux_api::contract::{Kind, SERVICES};
use pollux_rpc_router::discover::document;
use serde_json::{Value, json};
use std::collections::BTreeSet;

fn answer() -> Value {
    document("1.2.3", |service| service == "pool")
}

/// What a schema in the document refers to is found in the document.
fn judge(document: &Value, schema: &Value) -> jsonschema::Validator {
    let whole = json!({ "components": document["components"], "allOf": [schema] });
    jsonschema::draft7::new(&whole).expect("a schema of draft 7")
}

#[test]
fn the_document_is_valid_under_the_meta_schema_of_openrpc() {
    // A copy of the meta-schema of draft 7 on another host; the library knows the original.
    let text = include_str!("../openrpc/schema.json");
    let text = text
        .replace(
            "https://meta.json-schema.tools/#/definitions/JSONSchemaObject",
            "http://json-schema.org/draft-07/schema#",
        )
        .replace(
            "\"https://meta.json-schema.tools/\"",
            "\"http://json-schema.org/draft-07/schema#\"",
        )
        .replace(
            "\"https://meta.json-schema.tools\"",
            "\"http://json-schema.org/draft-07/schema#\"",
        );
    let mut meta: Value = serde_json::from_str(&text).unwrap();
    meta["properties"]["openrpc"]["enum"] = json!([pollux_rpc_router::discover::OPENRPC]);
    let meta = jsonschema::draft7::new(&meta).unwrap();
    let document = answer();
    let errors: Vec<String> = meta
        .iter_errors(&document)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{}", errors.join("\n"));
    // The judge is awake.
    let mut wrong = document.clone();
    wrong["methods"][0]["paramStructure"] = "by-luck".into();
    assert!(!meta.is_valid(&wrong));
}

#[test]
fn the_rules_that_a_schema_cannot_say_hold() {
    let document = answer();
    let methods = document["methods"].as_array().unwrap();
    let mut names = BTreeSet::new();
    for method in methods {
        let name = method["name"].as_str().unwrap();
        assert!(names.insert(name), "{name} comes twice");
        let mut optional = false;
        let mut params = BTreeSet::new();
        for param in method["params"].as_array().unwrap() {
            assert!(params.insert(param["name"].as_str().unwrap()), "{name}: {param}");
            optional |= param["required"] != true;
        }
        // Only by position must the required ones come first.
        assert!(!optional || method["paramStructure"] == "by-name", "{name}");
        assert_eq!(
            method["result"].is_null(),
            method["x-kind"] == "notification",
            "{name}"
        );
        for error in method["errors"].as_array().unwrap() {
            let path = error["$ref"].as_str().unwrap().strip_prefix('#').unwrap();
            assert!(
                document.pointer(path).is_some_and(|error| error["code"].is_i64()),
                "{name}: {path}"
            );
        }
    }
    let declared: BTreeSet<&str> = SERVICES
        .iter()
        .flat_map(|service| service.methods)
        .filter(|method| method.kind != Kind::Topic)
        .map(|method| method.name)
        .collect();
    assert_eq!(names, declared);
    assert!(names.contains("rpc.discover"));
}

#[test]
fn every_schema_is_one_and_refers_to_what_is_there() {
    let document = answer();
    for method in document["methods"].as_array().unwrap() {
        for schema in [&method["x-params"], &method["result"]["schema"]] {
            if !schema.is_null() {
                judge(&document, schema);
            }
        }
    }
    let hold = judge(&document, &json!({ "$ref": "#/components/schemas/Hold" }));
    let pool = "01890a5d-ac96-774b-bcce-b302099a8057";
    assert!(hold.is_valid(&json!({ "pool": pool, "drain_ms": 5 })));
    assert!(!hold.is_valid(&json!({ "pool": pool, "drain_ms": "5" })));
    assert!(!hold.is_valid(&json!({ "pool": pool })));
}
