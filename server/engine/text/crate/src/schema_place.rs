//! Finds the part of a JSON schema that a compiler refuses.
//!
//! The compiler says what it does not like, not where. So its parts are compiled by themselves, from the
//! outside in, and the innermost that is refused is the place.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use serde_json::{json, Value};

const TIME_MAX: Duration = Duration::from_secs(1);
const NAME: &str = "modeld:schema";

/// Keywords whose value is a schema or a list of schemas.
const HOLDING_SCHEMAS: [&str; 7] = [
    "additionalItems",
    "additionalProperties",
    "allOf",
    "anyOf",
    "items",
    "oneOf",
    "prefixItems",
];
/// Keywords whose value is an object of schemas.
const HOLDING_NAMED_SCHEMAS: [&str; 2] = ["properties", "patternProperties"];

fn step(pointer: &str, key: &str) -> String {
    format!("{pointer}/{}", key.replace('~', "~0").replace('/', "~1"))
}

fn parts(schema: &Value, pointer: &str) -> Vec<String> {
    let mut found = Vec::new();
    for key in HOLDING_NAMED_SCHEMAS {
        for name in schema[key]
            .as_object()
            .into_iter()
            .flat_map(|map| map.keys())
        {
            found.push(step(&step(pointer, key), name));
        }
    }
    for key in HOLDING_SCHEMAS {
        match schema.get(key) {
            Some(Value::Array(items)) => {
                found.extend((0..items.len()).map(|i| format!("{pointer}/{key}/{i}")));
            }
            Some(Value::Object(_)) => found.push(step(pointer, key)),
            _ => {}
        }
    }
    // What is referred to is looked at where it stands.
    if let Some(target) = schema["$ref"].as_str().and_then(|to| to.strip_prefix('#')) {
        found.push(target.to_string());
    }
    found
}

/// The whole schema under a name of its own, so that its references find what they mean.
fn probe(schema: &Value, pointer: &str) -> Value {
    let mut whole = schema.clone();
    let id = whole["$id"].as_str().unwrap_or(NAME).to_string();
    whole["$id"] = json!(id);
    let fragment: String = pointer
        .bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'~' | b'-' | b'_' | b'.' => {
                char::from(byte).to_string()
            }
            byte => format!("%{byte:02X}"),
        })
        .collect();
    let mut probe = json!({"$ref": format!("{id}#{fragment}"), "$defs": {"whole": whole}});
    if let Some(draft) = schema.get("$schema") {
        probe["$schema"] = draft.clone();
    }
    probe
}

/// "at POINTER: what is wrong"; `message` is what was wrong with all of `schema`.
pub fn explain(
    schema: &Value,
    message: String,
    compiles: impl Fn(Value) -> Result<(), String>,
) -> String {
    let until = Instant::now() + TIME_MAX;
    let mut place = String::new();
    let mut message = message;
    let mut seen = HashSet::from([place.clone()]);
    'inward: while let Some(here) = schema.pointer(&place) {
        for part in parts(here, &place) {
            if !seen.insert(part.clone()) || Instant::now() > until {
                continue;
            }
            if schema.pointer(&part).is_none() {
                continue;
            }
            if let Err(inner) = compiles(probe(schema, &part)) {
                place = part;
                message = inner;
                continue 'inward;
            }
        }
        break;
    }
    format!("at \"{place}\": {message}")
}
