//! The filter `tojson` as transformers defines it: Python's json.dumps, without HTML escapes.

use minijinja::value::{Kwargs, Rest, Value, ValueKind};
use minijinja::{Error, ErrorKind};

/// Python gives up at about a thousand; a template's own lists can be nested as deep as its fuel lasts.
const DEPTH_MAX: usize = 500;
/// A value can hold another many times over: its text is then longer than all that the template made.
const BYTES_MAX: usize = 32 << 20;
const INDENT_BYTES_MAX: usize = 100;

/// repr(float) of Python, but for the names of infinity and NaN, which are JSON's.
pub fn float_text(number: f64) -> String {
    if number.is_nan() {
        return "NaN".into();
    }
    if number.is_infinite() {
        return if number > 0.0 {
            "Infinity"
        } else {
            "-Infinity"
        }
        .into();
    }
    let magnitude = number.abs();
    if magnitude != 0.0 && !(1e-4..1e16).contains(&magnitude) {
        let text = format!("{number:e}");
        if let Some((digits, exponent)) = text.split_once('e') {
            let (sign, exponent) = match exponent.strip_prefix('-') {
                Some(exponent) => ('-', exponent),
                None => ('+', exponent),
            };
            return format!("{digits}e{sign}{exponent:0>2}");
        }
    }
    let text = number.to_string();
    if text.contains('.') {
        text
    } else {
        text + ".0"
    }
}

fn not_serializable(what: &str) -> Error {
    Error::new(
        ErrorKind::InvalidOperation,
        format!("{what} is not JSON serializable"),
    )
}

fn too_long() -> Error {
    Error::new(
        ErrorKind::InvalidOperation,
        format!("the JSON text is longer than {BYTES_MAX} bytes"),
    )
}

struct Writer {
    ascii_only: bool,
    sort_keys: bool,
    indent: Option<String>,
    item_separator: String,
    key_separator: String,
    out: String,
}

impl Writer {
    fn string(&mut self, text: &str) -> Result<(), Error> {
        if self.out.len() + text.len() > BYTES_MAX {
            return Err(too_long());
        }
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\x08' => self.out.push_str("\\b"),
                '\x0c' => self.out.push_str("\\f"),
                c if c < ' ' || (self.ascii_only && c > '~') => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        self.out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
        Ok(())
    }

    fn key(&mut self, key: &Value) -> Result<(), Error> {
        match key.kind() {
            ValueKind::String => self.string(key.as_str().unwrap_or_default())?,
            ValueKind::None | ValueKind::Bool | ValueKind::Number => {
                self.out.push('"');
                self.value(key, 0)?;
                self.out.push('"');
            }
            kind => return Err(not_serializable(&format!("a key that is a {kind}"))),
        }
        Ok(())
    }

    fn new_line(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.out.push('\n');
            self.out.push_str(&indent.repeat(depth));
        }
    }

    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > DEPTH_MAX {
            return Err(not_serializable("a value nested this deep"));
        }
        if self.out.len() > BYTES_MAX {
            return Err(too_long());
        }
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self
                .out
                .push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number if value.is_integer() => self.out.push_str(&value.to_string()),
            ValueKind::Number => self
                .out
                .push_str(&float_text(f64::try_from(value.clone())?)),
            ValueKind::String => return self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq => return self.array(value, depth),
            ValueKind::Map => return self.object(value, depth),
            kind => return Err(not_serializable(&format!("an object of type {kind}"))),
        }
        Ok(())
    }

    fn array(&mut self, array: &Value, depth: usize) -> Result<(), Error> {
        self.out.push('[');
        let mut empty = true;
        for item in array.try_iter()? {
            if !empty {
                self.out.push_str(&self.item_separator);
            }
            empty = false;
            self.new_line(depth + 1);
            self.value(&item, depth + 1)?;
        }
        if !empty {
            self.new_line(depth);
        }
        self.out.push(']');
        Ok(())
    }

    fn object(&mut self, object: &Value, depth: usize) -> Result<(), Error> {
        let mut keys: Vec<Value> = object.try_iter()?.collect();
        if self.sort_keys {
            keys.sort();
        }
        self.out.push('{');
        for (i, key) in keys.iter().enumerate() {
            if i > 0 {
                self.out.push_str(&self.item_separator);
            }
            self.new_line(depth + 1);
            self.key(key)?;
            self.out.push_str(&self.key_separator);
            self.value(&object.get_item(key)?, depth + 1)?;
        }
        if !keys.is_empty() {
            self.new_line(depth);
        }
        self.out.push('}');
        Ok(())
    }
}

/// `tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`
pub fn tojson(value: &Value, positional: Rest<Value>, named: Kwargs) -> Result<Value, Error> {
    let argument = |position: usize, name: &str| -> Result<Option<Value>, Error> {
        let given = match positional.get(position) {
            Some(given) => Some(given.clone()),
            None => named.get::<Option<Value>>(name)?,
        };
        Ok(given.filter(|given| !given.is_none() && !given.is_undefined()))
    };
    let ascii_only = argument(0, "ensure_ascii")?.is_some_and(|given| given.is_true());
    let indent = match argument(1, "indent")? {
        None => None,
        Some(given) => Some(match given.as_str() {
            Some(text) if text.len() > INDENT_BYTES_MAX => return Err(too_long()),
            Some(text) => text.to_string(),
            None => " ".repeat(i64::try_from(given)?.clamp(0, 100) as usize),
        }),
    };
    let item_separator = if indent.is_some() { "," } else { ", " };
    let mut separators = (item_separator.to_string(), ": ".to_string());
    if let Some(given) = argument(2, "separators")? {
        let at =
            |i: i64| -> Result<String, Error> { Ok(given.get_item(&Value::from(i))?.to_string()) };
        separators = (at(0)?, at(1)?);
    }
    let sort_keys = argument(3, "sort_keys")?.is_some_and(|given| given.is_true());
    named.assert_all_used()?;
    let mut writer = Writer {
        ascii_only,
        sort_keys,
        indent,
        item_separator: separators.0,
        key_separator: separators.1,
        out: String::new(),
    };
    writer.value(value, 0)?;
    Ok(Value::from(writer.out))
}
