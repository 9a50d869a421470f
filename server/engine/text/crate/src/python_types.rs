//! What templates expect of Python's strings, lists, mappings and numbers beyond minijinja-contrib.

use minijinja::value::{from_args, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State};
use minijinja_contrib::pycompat;

use crate::python_json::float_text;

/// Makes `env` know the methods, tests and the way of printing.
pub fn add_to(env: &mut Environment<'static>) {
    env.set_unknown_method_callback(call_method);
    env.set_formatter(print);
    env.add_test("callable", |value: &Value| value.kind() == ValueKind::Plain);
    env.add_test("iterable", |value: &Value| {
        value.is_undefined() || (!value.is_none() && value.try_iter().is_ok())
    });
    env.add_test("sequence", |value: &Value| {
        let kind = value.kind();
        value.is_undefined() || matches!(kind, ValueKind::Seq | ValueKind::String | ValueKind::Map)
    });
}

fn print(out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    if value.kind() != ValueKind::Number || value.is_integer() {
        return minijinja::escape_formatter(out, state, value);
    }
    let number = f64::try_from(value.clone())?;
    let text = if number.is_finite() {
        float_text(number)
    } else {
        number.to_string().to_lowercase() // "inf" and "nan", as str(float) has them
    };
    out.write_str(&text).map_err(Error::from)
}

fn call_method(
    state: &mut State,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    match pycompat::unknown_method_callback(state, value, method, args) {
        Err(error) if error.kind() == ErrorKind::UnknownMethod => {}
        result => return result,
    }
    match (value.kind(), method) {
        (ValueKind::String, _) => string_method(value.as_str().unwrap_or_default(), method, args),
        (ValueKind::Map, "copy") | (ValueKind::Seq, "copy") => {
            let () = from_args(args)?;
            Ok(value.clone())
        }
        (ValueKind::Seq, "index") => {
            let (wanted,): (&Value,) = from_args(args)?;
            value
                .try_iter()?
                .position(|item| item == *wanted)
                .map(Value::from)
                .ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "value is not in the list"))
        }
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

fn list<'a>(parts: impl IntoIterator<Item = &'a str>) -> Value {
    parts.into_iter().map(Value::from).collect()
}

fn string_method(text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    Ok(match method {
        "casefold" => {
            let () = from_args(args)?;
            Value::from(text.to_lowercase())
        }
        "index" => {
            let (part,): (&str,) = from_args(args)?;
            let at = text.find(part).ok_or_else(|| {
                Error::new(ErrorKind::InvalidOperation, "the text is not in the string")
            })?;
            Value::from(text[..at].chars().count())
        }
        "ljust" | "rjust" | "zfill" => return padded(text, method, args),
        "partition" => {
            let (separator,): (&str,) = from_args(args)?;
            match text.split_once(separator) {
                Some((before, after)) => list([before, separator, after]),
                None => list([text, "", ""]),
            }
        }
        "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            match text.rsplit_once(separator) {
                Some((before, after)) => list([before, separator, after]),
                None => list(["", "", text]),
            }
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Value::from(text.strip_prefix(prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Value::from(text.strip_suffix(suffix).unwrap_or(text))
        }
        "rsplit" => {
            let (separator, splits): (Option<&str>, Option<i64>) = from_args(args)?;
            let splits = usize::try_from(splits.unwrap_or(-1)).unwrap_or(usize::MAX - 1);
            rsplit(text, separator, splits)
        }
        _ => return Err(Error::from(ErrorKind::UnknownMethod)),
    })
}

fn padded(text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    const WIDTH_MAX: usize = 100_000; // enough for a prompt's columns
    let (width, fill): (usize, Option<&str>) = from_args(args)?;
    if width > WIDTH_MAX {
        return Err(Error::new(
            ErrorKind::InvalidOperation,
            "the width is too large",
        ));
    }
    if fill.is_some_and(|fill| fill.chars().count() != 1) {
        return Err(Error::new(
            ErrorKind::InvalidOperation,
            "the fill must be one character",
        ));
    }
    let missing = width.saturating_sub(text.chars().count());
    Ok(Value::from(match method {
        "ljust" => text.to_string() + &fill.unwrap_or(" ").repeat(missing),
        "rjust" => fill.unwrap_or(" ").repeat(missing) + text,
        _ => {
            let digits_at = usize::from(text.starts_with(['+', '-']));
            let (sign, digits) = text.split_at(digits_at);
            format!("{sign}{}{digits}", "0".repeat(missing))
        }
    }))
}

fn rsplit(text: &str, separator: Option<&str>, splits: usize) -> Value {
    let mut parts: Vec<&str> = match separator {
        Some(separator) => text.rsplitn(splits + 1, separator).collect(),
        None => {
            let mut parts = Vec::new();
            let mut rest = text.trim_end();
            while parts.len() < splits {
                let Some((before, word)) = rest.rsplit_once(char::is_whitespace) else {
                    break;
                };
                parts.push(word);
                rest = before.trim_end();
            }
            if !rest.is_empty() {
                parts.push(if parts.len() < splits {
                    rest.trim()
                } else {
                    rest
                });
            }
            parts.retain(|part| !part.is_empty());
            parts
        }
    };
    parts.reverse();
    list(parts)
}
