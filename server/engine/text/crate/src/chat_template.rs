//! A chat template, rendered as transformers' apply_chat_template does it.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use jiff::tz::TimeZone;
use jiff::Timestamp;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value};
use minijinja::{AutoEscape, Environment, Error, ErrorKind};
use serde_json::{Map, Value as Json};

use crate::failure::{Failure, Kind};
use crate::{generation_tag, python_json, python_types, watched};

/// Steps of one render. A conversation of a thousand messages takes some 100,000.
const STEPS_MAX: u64 = 10_000_000;
/// Bytes of one prompt: a million tokens with room to spare.
const OUTPUT_BYTES_MAX: usize = 32 << 20;

const NAME: &str = "chat template";

pub struct ChatTemplate {
    env: Arc<Environment<'static>>,
    /// It went beyond what `watched` allows: work that was left behind may still go on.
    is_exhausted: AtomicBool,
}

/// JSON texts; `tools` and `args` may be empty.
pub struct Input {
    pub messages: Vec<u8>,
    pub tools: Vec<u8>,
    pub args: Vec<u8>,
    pub special_tokens: Vec<u8>,
    pub add_generation_prompt: bool,
    pub now_unix_s: i64,
}

/// What a template said to raise_exception.
#[derive(Debug)]
struct Raised(String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

fn raise_exception(message: &Value) -> Result<Value, Error> {
    let message = message.to_string();
    Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
}

fn strftime(unix_s: i64, format: &str) -> Result<String, Error> {
    let invalid = |error: jiff::Error| Error::new(ErrorKind::InvalidOperation, error.to_string());
    let now = Timestamp::from_second(unix_s).map_err(invalid)?;
    jiff::fmt::strtime::format(format, &now.to_zoned(TimeZone::system())).map_err(invalid)
}

/// Collects the prompt up to the limit.
#[derive(Default)]
struct Prompt {
    bytes: Vec<u8>,
    is_full: bool,
}

impl io::Write for Prompt {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + part.len() > OUTPUT_BYTES_MAX {
            self.is_full = true;
            return Err(io::Error::other("the prompt is too long"));
        }
        self.bytes.extend_from_slice(part);
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn objects(json: &[u8], kind: Kind) -> Result<Vec<Map<String, Json>>, Failure> {
    serde_json::from_slice(json)
        .map_err(|error| Failure::new(kind, format!("not a JSON array of objects: {error}")))
}

fn object(json: &[u8], kind: Kind) -> Result<Map<String, Json>, Failure> {
    if json.is_empty() {
        return Ok(Map::new());
    }
    serde_json::from_slice(json)
        .map_err(|error| Failure::new(kind, format!("not a JSON object: {error}")))
}

/// Drops null members, which templates take for given ones, and lets the three names of a message's
/// reasoning stand for each other: as transformers does both.
fn normalized(mut message: Map<String, Json>) -> Map<String, Json> {
    message.retain(|_, value| !value.is_null());
    let reasoning = ["reasoning_content", "thinking", "reasoning"]
        .iter()
        .find_map(|name| message.get(*name))
        .cloned();
    let Some(reasoning) = reasoning else {
        return message;
    };
    let mut aliased = Map::new();
    aliased.insert("thinking".into(), reasoning.clone());
    aliased.extend(message);
    aliased.insert("reasoning_content".into(), reasoning);
    aliased
}

impl ChatTemplate {
    pub fn new(source: &str) -> Result<Self, Failure> {
        let broken = |error: Error| Failure::new(Kind::BrokenFile, format!("{error:#}"));
        let mut env = Environment::new();
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()
            .map_err(broken)?;
        env.set_syntax(syntax);
        env.set_auto_escape_callback(|_| AutoEscape::None);
        env.set_fuel(Some(STEPS_MAX));
        env.remove_global("debug"); // shows minijinja's own state
        env.add_filter("tojson", python_json::tojson);
        env.add_function("raise_exception", raise_exception);
        python_types::add_to(&mut env);
        // Jinja counts every kind of line end as "\n".
        let source = source.replace("\r\n", "\n").replace('\r', "\n");
        let parsed = watched::run("chat-template", move || {
            env.add_template_owned(NAME, generation_tag::replace(&source))
                .map_err(broken)?;
            Ok(env)
        });
        let env = parsed.map_err(|failure| match failure.kind {
            Kind::Exhausted => Failure::new(
                Kind::BrokenFile,
                format!("to parse it takes {}", failure.message),
            ),
            _ => failure,
        })?;
        Ok(Self {
            env: Arc::new(env),
            is_exhausted: AtomicBool::new(false),
        })
    }

    pub fn render(&self, input: Input) -> Result<Vec<u8>, Failure> {
        if self.is_exhausted.load(Ordering::Relaxed) {
            return Err(Failure::new(
                Kind::Refused,
                "it once took more memory or processor time than is allowed",
            ));
        }
        let env = Arc::clone(&self.env);
        let rendered = watched::run("chat-template", move || render_here(&env, context(&input)?));
        rendered.map_err(|failure| {
            if failure.kind != Kind::Exhausted {
                return failure;
            }
            self.is_exhausted.store(true, Ordering::Relaxed);
            Failure::new(
                Kind::Refused,
                format!("to render it takes {}", failure.message),
            )
        })
    }
}

fn context(input: &Input) -> Result<Value, Failure> {
    let messages = objects(&input.messages, Kind::BadMessages)?;
    if messages.is_empty() {
        return Err(Failure::new(Kind::BadMessages, "there is no message"));
    }
    let messages: Vec<_> = messages.into_iter().map(normalized).collect();
    let tools = if input.tools.is_empty() {
        None
    } else {
        Some(objects(&input.tools, Kind::BadTools)?)
    };
    let args = object(&input.args, Kind::BadArgs)?;
    if let Some(name) = ["messages", "tools", "add_generation_prompt"]
        .iter()
        .find(|name| args.contains_key(**name))
    {
        let message = format!("\"{name}\" is set by the request itself");
        return Err(Failure::new(Kind::BadArgs, message));
    }
    let now_unix_s = input.now_unix_s;
    let strftime_now = Value::from_function(move |format: &str| strftime(now_unix_s, format));
    let mut context = BTreeMap::from([
        ("strftime_now".to_string(), strftime_now),
        ("documents".to_string(), Value::from(())),
    ]);
    let special_tokens = object(&input.special_tokens, Kind::BrokenFile)?;
    for (name, value) in special_tokens.into_iter().chain(args) {
        context.insert(name, Value::from(Serde(value)));
    }
    context.insert("messages".into(), Value::from(Serde(messages)));
    context.insert("tools".into(), Value::from(Serde(tools)));
    context.insert(
        "add_generation_prompt".into(),
        Value::from(input.add_generation_prompt),
    );
    Ok(Value::from(context))
}

fn render_here(env: &Environment, context: Value) -> Result<Vec<u8>, Failure> {
    let mut prompt = Prompt::default();
    let result = env.get_template(NAME).and_then(|template| {
        template
            .render_captured_to(context, &mut prompt)
            .map(|_| ())
    });
    match result {
        Ok(()) => Ok(prompt.bytes),
        Err(_) if prompt.is_full => Err(Failure::new(
            Kind::Refused,
            format!("the prompt is longer than {OUTPUT_BYTES_MAX} bytes"),
        )),
        Err(error) if error.kind() == ErrorKind::OutOfFuel => Err(Failure::new(
            Kind::Refused,
            format!("the chat template takes more than {STEPS_MAX} steps"),
        )),
        Err(error) => Err(Failure::new(Kind::Refused, reason(&error))),
    }
}

/// The words of raise_exception, wherever in the chain of errors they are; else the error itself.
fn reason(error: &Error) -> String {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(Raised(message)) = error.downcast_ref::<Raised>() {
            return message.clone();
        }
        cause = error.source();
    }
    format!("{error}")
}
