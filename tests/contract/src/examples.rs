//! Messages from schemas: small enough to read, and together with every member present, every variant of every
//! alternative and `null` wherever it may stand.
//!
//! The same schema always gives the same messages: numbers are counted, not drawn.

use serde_json::{Map, Value, json};

const SCHEMAS: &str = "#/components/schemas/";

/// Makes messages for one document.
#[derive(Debug)]
pub struct Examples<'a> {
    schemas: &'a Map<String, Value>,
    /// Key of maps, whose type no schema says.
    key: &'a str,
    count: u64,
}

impl<'a> Examples<'a> {
    /// For types that stand under `schemas`; `key` is used in maps.
    pub fn new(schemas: &'a Map<String, Value>, key: &'a str) -> Self {
        Self {
            schemas,
            key,
            count: 0,
        }
    }

    /// Messages of this schema, at least one.
    pub fn of(&mut self, schema: &Value) -> Vec<Value> {
        if !schema["const"].is_null() {
            return vec![schema["const"].clone()];
        }
        if let Some(values) = schema["enum"].as_array() {
            return values.clone();
        }
        // An object may have members of its own beside those of what it refers to.
        let mut parts = Vec::new();
        if let Some(properties) = schema["properties"].as_object() {
            parts.push(self.objects(properties));
        }
        if let Some(name) = schema["$ref"]
            .as_str()
            .and_then(|name| name.strip_prefix(SCHEMAS))
        {
            let referred = self.schemas.get(name).cloned().unwrap_or_default();
            parts.push(self.of(&referred));
        }
        for all in schema["allOf"].as_array().into_iter().flatten() {
            parts.push(self.of(all));
        }
        for one in [&schema["oneOf"], &schema["anyOf"]] {
            if let Some(alternatives) = one.as_array() {
                parts.push(
                    alternatives
                        .iter()
                        .flat_map(|alternative| self.of(alternative))
                        .collect(),
                );
            }
        }
        if let Some(first) = parts.first() {
            let count = parts.iter().map(Vec::len).max().unwrap_or(first.len());
            return (0..count).map(|i| merged(&parts, i)).collect();
        }
        match &schema["type"] {
            Value::String(kind) => self.plain(kind, schema),
            Value::Array(kinds) => {
                let kinds: Vec<&str> = kinds.iter().filter_map(Value::as_str).collect();
                kinds.iter().flat_map(|kind| self.plain(kind, schema)).collect()
            }
            _ => vec![json!({ "any": "value" })],
        }
    }

    fn objects(&mut self, properties: &Map<String, Value>) -> Vec<Value> {
        let members: Vec<(&String, Vec<Value>)> = properties
            .iter()
            .map(|(name, schema)| (name, self.of(schema)))
            .collect();
        let count = members.iter().map(|(_, values)| values.len()).max().unwrap_or(1);
        let nth = |i: usize| {
            members
                .iter()
                .map(move |(name, values)| ((*name).clone(), values[i % values.len()].clone()))
        };
        (0..count).map(|i| Value::Object(nth(i).collect())).collect()
    }

    fn plain(&mut self, kind: &str, schema: &Value) -> Vec<Value> {
        self.count += 1;
        let n = self.count;
        match kind {
            "null" => vec![Value::Null],
            "boolean" => vec![true.into(), false.into()],
            "integer" if schema["minimum"].is_null() => vec![json!(-i64::try_from(n).unwrap_or(1))],
            "integer" => vec![(n % 100).into()],
            "number" => vec![0.5.into()],
            "string" => vec![self.text(schema)],
            "array" => vec![self.list(schema)],
            "object" => match &schema["additionalProperties"] {
                values @ Value::Object(_) => {
                    let values = values.clone();
                    let value = self.of(&values).swap_remove(0);
                    vec![json!({ self.key: value })]
                }
                _ => vec![json!({})],
            },
            _ => vec![json!({ "any": "value" })],
        }
    }

    fn text(&self, schema: &Value) -> Value {
        let n = self.count;
        if schema["format"] == "uuid" {
            return format!("01890a5d-ac96-774b-bcce-{n:012x}").into();
        }
        let digits = schema["pattern"].as_str().and_then(|pattern| {
            pattern
                .split_once('{')?
                .1
                .split_once('}')?
                .0
                .parse::<usize>()
                .ok()
        });
        match digits {
            Some(digits) => format!("{n:0digits$x}").into(),
            None => format!("example {n}").into(),
        }
    }

    fn list(&mut self, schema: &Value) -> Value {
        let mut items = match &schema["items"] {
            Value::Array(each) => each.iter().map(|item| self.of(item).swap_remove(0)).collect(),
            item => self.of(&item.clone()),
        };
        let (least, most) = (&schema["minItems"], &schema["maxItems"]);
        while least.as_u64().is_some_and(|least| (items.len() as u64) < least) {
            items.push(items[0].clone());
        }
        if let Some(most) = most.as_u64().and_then(|most| usize::try_from(most).ok()) {
            items.truncate(most);
        }
        Value::Array(items)
    }
}

/// The members of the `i`th value of each part, in one object; what is no object stands alone.
fn merged(parts: &[Vec<Value>], i: usize) -> Value {
    let mut whole = Map::new();
    for part in parts {
        match &part[i % part.len()] {
            Value::Object(members) => whole.extend(members.clone()),
            other => return other.clone(),
        }
    }
    Value::Object(whole)
}
