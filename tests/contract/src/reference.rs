//! The contract on paper: one chapter per service, one section per method, the types behind.

use pollux_api::contract::{Declaration, Door, EVERYWHERE, Kind, Repeat, SERVICES, Service};
use pollux_api::error::Code;
use pollux_api::rank;
use pollux_rpc_router::discover::{document, plain};
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::fmt::Write;

const SCHEMAS: &str = "#/components/schemas/";

/// The whole reference, as Markdown.
pub fn reference() -> String {
    let document = document("", |_| false);
    let mut text = String::from(
        "# Reference of the contract\n\n\
         Made from the declarations in [src](src) by `POLLUX_BLESS=1 cargo test -p contract --test reference`;\n\
         a test compares. The same for programs: `rpc.discover`, an OpenRPC document.\n\n\
         * A service may call services of higher rank, and itself at the partner where a method says *peer*. Notifications\n\
         \x20 go anywhere.\n\
         * *Idempotent*: doing it twice is doing it once. *Once*: done once per action_id; a repetition gets the first\n\
         \x20 answer. *Each*: every repetition acts anew.\n\
         * *From afar*: the smallest role whose token may call it over the management address; a larger one may too. Where\n\
         \x20 nothing is said, nobody may.\n\
         * A member with a default, or that may be null, can be left out. Unknown members are ignored, except where a type\n\
         \x20 says that it refuses them.\n",
    );
    let _ = writeln!(text, "\n| service | rank | what it is |\n|---|---|---|");
    for service in SERVICES {
        let name = service.name;
        let _ = writeln!(
            text,
            "| [{name}](#service-{name}) | {} | {} |",
            place(service),
            plain(service.about)
        );
    }
    let _ = writeln!(
        text,
        "\n## Errors\n\n| code | name | what it says |\n|---|---|---|"
    );
    for code in Code::ALL {
        let everywhere = if EVERYWHERE.contains(code) {
            " *Any request.*"
        } else {
            ""
        };
        let _ = writeln!(
            text,
            "| {} | `{}` | {}{everywhere} |",
            code.number(),
            code.name(),
            plain(code.about())
        );
    }
    for service in SERVICES {
        chapter(&mut text, service, &document);
    }
    text.push_str("\n## Types\n");
    let schemas = document["components"]["schemas"]
        .as_object()
        .cloned()
        .unwrap_or_default();
    for (name, schema) in sorted(&schemas) {
        section(&mut text, name, schema);
    }
    text
}

fn place(service: &Service) -> String {
    match service.door {
        Door::Socket(socket) => format!("`{socket}`"),
        Door::Router if service.rank == rank::TOP => "top".to_owned(),
        Door::Router => service.rank.to_string(),
    }
}

fn chapter(text: &mut String, service: &Service, document: &Value) {
    let _ = writeln!(
        text,
        "\n## Service {}\n\n{}\n",
        service.name,
        plain(service.about)
    );
    let _ = match service.door {
        Door::Router if service.rank == rank::TOP => writeln!(text, "Answered by the router itself."),
        Door::Router => writeln!(text, "Rank {}.", service.rank),
        Door::Socket(socket) => writeln!(
            text,
            "On its own socket `{socket}`; no router carries these calls."
        ),
    };
    if !service.calls.is_empty() {
        let calls: Vec<String> = service.calls.iter().map(|name| format!("`{name}`")).collect();
        let _ = writeln!(text, "Calls and tells {}.", calls.join(", "));
    }
    for declaration in service.methods {
        let of_document = |list: &str| {
            let entries = document[list].as_array().into_iter().flatten();
            entries
                .into_iter()
                .find(|entry| entry["name"] == declaration.name)
        };
        let described = of_document("methods").or_else(|| of_document("x-topics"));
        method(text, declaration, described.unwrap_or(&Value::Null));
    }
}

fn method(text: &mut String, declaration: &Declaration, described: &Value) {
    let repeat = match declaration.repeat {
        Repeat::Idempotent => "idempotent",
        Repeat::Once => "once",
        Repeat::Each => "each",
    };
    let kind = match declaration.kind {
        Kind::Notification => "Notification.".to_owned(),
        Kind::Topic => "Topic.".to_owned(),
        Kind::Request if declaration.peer => format!("Request, {repeat}, peer."),
        Kind::Request => format!("Request, {repeat}."),
    };
    let _ = writeln!(
        text,
        "\n### `{}`\n\n{}\n\n{kind}",
        declaration.name,
        plain(declaration.about)
    );
    if let Some(role) = declaration.afar {
        let _ = writeln!(text, "From afar: {role}.");
    }
    if !declaration.errors.is_empty() {
        let errors: Vec<String> = declaration
            .errors
            .iter()
            .map(|code| format!("`{}`", code.name()))
            .collect();
        let _ = writeln!(text, "Errors of its own: {}.", errors.join(", "));
    }
    let shown = |schema: &Value| match schema["type"].as_str() {
        Some("null") => "none".to_owned(),
        _ => kind_of(schema),
    };
    let _ = match declaration.kind {
        Kind::Topic => writeln!(text, "\n* payload: {}", shown(&described["schema"])),
        _ => {
            let params = described.get("x-params").map_or("none".to_owned(), shown);
            writeln!(text, "\n* parameters: {params}")
        }
    };
    if declaration.kind == Kind::Request {
        let _ = writeln!(text, "* result: {}", shown(&described["result"]["schema"]));
    }
}

/// One type: what it is, and its members or values.
fn section(text: &mut String, name: &str, schema: &Value) {
    let _ = writeln!(text, "\n### {name}\n");
    if let Some(about) = schema["description"].as_str() {
        let _ = writeln!(text, "{about}");
    }
    let Some(object) = schema.as_object() else { return };
    if object.contains_key("properties") && !object.contains_key("oneOf") {
        text.push('\n');
        members(text, schema, "");
    } else if let Some(variants) = schema["oneOf"].as_array().or_else(|| schema["anyOf"].as_array()) {
        text.push_str("\nOne of\n\n");
        variants.iter().for_each(|variant| alternative(text, variant));
    } else {
        let _ = writeln!(text, "\n* {}", kind_of(schema));
    }
    if schema["additionalProperties"] == false {
        text.push_str("\nUnknown members are refused.\n");
    }
}

fn alternative(text: &mut String, variant: &Value) {
    let about = variant["description"].as_str().unwrap_or_default();
    if let Some(values) = variant["enum"].as_array() {
        // Several plain words without a comment of their own share one entry.
        let words: Vec<String> = values.iter().map(|value| format!("`{value}`")).collect();
        let _ = writeln!(text, "* {}{}", words.join(", "), colon(about));
        return;
    }
    if !variant["const"].is_null() {
        let _ = writeln!(text, "* `{}`{}", variant["const"], colon(about));
        return;
    }
    let _ = writeln!(text, "* {}{}", kind_of(variant), colon(about));
    if variant["properties"].is_object() {
        members(text, variant, "  ");
    }
}

fn colon(about: &str) -> String {
    if about.is_empty() {
        String::new()
    } else {
        format!(": {about}")
    }
}

fn members(text: &mut String, schema: &Value, indent: &str) {
    let required: BTreeSet<&str> = schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let properties = schema["properties"].as_object().cloned().unwrap_or_default();
    for (name, property) in sorted(&properties) {
        let about = property["description"].as_str().unwrap_or_default();
        let left_out = match (required.contains(name.as_str()), &property["default"]) {
            (true, _) => String::new(),
            (false, Value::Null) => ", may be left out".to_owned(),
            (false, default) => format!(", default `{default}`"),
        };
        let unit = property["x-unit"]
            .as_str()
            .map_or(String::new(), |unit| format!(", {unit}"));
        let _ = writeln!(
            text,
            "{indent}* `{name}` ({}{unit}{left_out}){}",
            kind_of(property),
            colon(about)
        );
    }
}

/// In which order members stand must not depend on how the JSON library was built.
fn sorted(members: &Map<String, Value>) -> Vec<(&String, &Value)> {
    let mut sorted: Vec<_> = members.iter().collect();
    sorted.sort_unstable_by_key(|(name, _)| *name);
    sorted
}

/// A schema in a few words, types of the contract linked.
fn kind_of(schema: &Value) -> String {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = reference.strip_prefix(SCHEMAS).unwrap_or(reference);
        return format!("[{name}](#{})", name.to_lowercase().replace('.', ""));
    }
    for several in ["anyOf", "oneOf", "allOf"] {
        if let Some(parts) = schema[several].as_array() {
            return parts.iter().map(kind_of).collect::<Vec<_>>().join(" or ");
        }
    }
    if !schema["const"].is_null() {
        return format!("`{}`", schema["const"]);
    }
    if let Some(values) = schema["enum"].as_array() {
        return values
            .iter()
            .map(|value| format!("`{value}`"))
            .collect::<Vec<_>>()
            .join(" or ");
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
        _ => return "any value".to_owned(),
    };
    let one = |kind: &&str| match *kind {
        "array" => match &schema["items"] {
            Value::Array(items) => {
                format!("[{}]", items.iter().map(kind_of).collect::<Vec<_>>().join(", "))
            }
            items => format!("list of {}", kind_of(items)),
        },
        "object" if schema["properties"].is_null() && schema["additionalProperties"].is_object() => {
            format!("map to {}", kind_of(&schema["additionalProperties"]))
        }
        "string" if schema["format"] == "uuid" => "UUID".to_owned(),
        "integer" => schema["format"].as_str().unwrap_or("integer").to_owned(),
        other => other.to_owned(),
    };
    types.iter().map(one).collect::<Vec<_>>().join(" or ")
}
