//! Bounds of numbers that llguidance would not keep.
//!
//! Between an exclusive bound that is an integer and another bound less than one away, its regular
//! expression takes the integer itself: 99 for {"exclusiveMinimum": 99, "maximum": 99.75}. Where schemas
//! of a document are merged, any two of its bounds may meet.

use serde_json::Value;

#[derive(Default)]
struct Bounds {
    /// Exclusive integers, with the place and whether it is a lower one.
    exclusive: Vec<(f64, String, bool)>,
    all: Vec<f64>,
    /// Whether schemas are merged with others somewhere.
    merges: bool,
}

const REFERRING: [&str; 3] = ["$ref", "anyOf", "oneOf"];
const BOUNDS: [&str; 4] = ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"];

impl Bounds {
    fn collect(&mut self, value: &Value, place: &str) {
        match value {
            Value::Array(items) => {
                for (i, item) in items.iter().enumerate() {
                    self.collect(item, &format!("{place}/{i}"));
                }
            }
            Value::Object(map) => {
                let count =
                    |keys: &[&str]| keys.iter().filter(|key| map.contains_key(**key)).count();
                let referring = count(&REFERRING);
                self.merges |= map.contains_key("allOf")
                    || referring > 1
                    || (referring == 1 && count(&BOUNDS) > 0);
                self.collect_own(value, place);
                for (key, inner) in map {
                    let key = key.replace('~', "~0").replace('/', "~1");
                    self.collect(inner, &format!("{place}/{key}"));
                }
            }
            _ => {}
        }
    }

    fn collect_own(&mut self, schema: &Value, place: &str) {
        for (inclusive, exclusive, is_lower) in [
            ("minimum", "exclusiveMinimum", true),
            ("maximum", "exclusiveMaximum", false),
        ] {
            let bound = schema[inclusive].as_f64();
            // A boolean, in draft 4, says what the other keyword means.
            let strict = match &schema[exclusive] {
                Value::Bool(true) => bound,
                other => other.as_f64(),
            };
            self.all.extend(bound.into_iter().chain(strict));
            let strict = strict.filter(|at| at.fract() == 0.0 && schema["type"] != "integer");
            if let Some(at) = strict {
                self.exclusive.push((at, place.to_string(), is_lower));
            }
        }
    }
}

impl Bounds {
    fn find_unkept(&self) -> Option<&str> {
        let unkept = self.exclusive.iter().find(|(at, _, is_lower)| {
            self.all.iter().any(|other| {
                let distance = if *is_lower { other - at } else { at - other };
                distance > 0.0 && distance < 1.0
            })
        });
        unkept.map(|(_, place, _)| place.as_str())
    }
}

fn find_in_parts(schema: &Value, place: &str) -> Option<String> {
    let mut own = Bounds::default();
    own.collect_own(schema, place);
    if let Some(found) = own.find_unkept() {
        return Some(found.to_string());
    }
    match schema {
        Value::Array(items) => items
            .iter()
            .enumerate()
            .find_map(|(i, item)| find_in_parts(item, &format!("{place}/{i}"))),
        Value::Object(map) => map.iter().find_map(|(key, inner)| {
            let key = key.replace('~', "~0").replace('/', "~1");
            find_in_parts(inner, &format!("{place}/{key}"))
        }),
        _ => None,
    }
}

/// The place of an exclusive bound that would not be kept.
pub fn find_unkept(schema: &Value) -> Option<String> {
    let mut whole = Bounds::default();
    whole.collect(schema, "");
    if whole.merges {
        return whole.find_unkept().map(str::to_string);
    }
    find_in_parts(schema, "")
}
