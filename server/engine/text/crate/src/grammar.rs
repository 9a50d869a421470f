//! Grammars that bound what a model may answer, and where an answer stands in one.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use llguidance::api::{GrammarWithLexer, TopLevelGrammar};
use llguidance::{Matcher, ParserFactory};
use serde_json::{json, Value};

use crate::failure::{Failure, Kind};
use crate::vocabulary::Vocabulary;
use crate::{schema_bounds, schema_place, watched};

#[derive(Clone, Copy)]
pub enum Form {
    JsonSchema,
    JsonObject,
    Regex,
    Choice,
    Lark,
}

impl Form {
    /// The values of `modeld_text_grammar_form` in `modeld_text.h`.
    pub fn of(value: u32) -> Result<Self, Failure> {
        match value {
            0 => Ok(Self::JsonSchema),
            1 => Ok(Self::JsonObject),
            2 => Ok(Self::Regex),
            3 => Ok(Self::Choice),
            4 => Ok(Self::Lark),
            _ => Err(Failure::new(
                Kind::Failed,
                format!("no form of grammar: {value}"),
            )),
        }
    }
}

/// Between two tokens of JSON: a space, or a line feed and an indent. Without a bound a small model may
/// go on with spaces for ever.
const JSON_SPACE: &str = r"\x20|\n\x20{0,40}|\n\t{0,20}";

/// Compilations that were given up and still hold a processor or memory. While there are so many nothing
/// is compiled: that is better than a process that dies of them.
const LEFT_BEHIND_MAX: usize = 2;
static LEFT_BEHIND: AtomicUsize = AtomicUsize::new(0);

/// Keeps LEFT_BEHIND right, whichever comes first: that a compilation is given up, or that it ends.
#[derive(Default)]
struct Parting(AtomicBool);

impl Parting {
    fn give_up(&self) {
        LEFT_BEHIND.fetch_add(1, Ordering::Relaxed);
        self.end();
    }

    fn end(&self) {
        if self.0.swap(true, Ordering::AcqRel) {
            LEFT_BEHIND.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Ends with a compilation, by a panic too.
struct Running(Arc<Parting>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.end();
    }
}

const MESSAGE_BYTES_MAX: usize = 500;

/// What compiles grammars for one vocabulary.
pub struct Compiler {
    factory: Arc<ParserFactory>,
    vocabulary_size: usize,
}

fn bad(message: impl Into<String>) -> Failure {
    Failure::new(Kind::BadGrammar, message)
}

/// What a caller can act on: llguidance goes on with its state, repeats the grammar, and advises options
/// that a caller does not have.
fn readable(message: &str) -> String {
    if message.starts_with("NoExtensionBias") {
        return "no answer satisfies it".into();
    }
    let cut = ["\n<", ". Enable"]
        .iter()
        .filter_map(|mark| message.find(mark))
        .min()
        .unwrap_or(message.len());
    let message = message[..cut].trim_end();
    match message
        .char_indices()
        .find(|(at, _)| *at >= MESSAGE_BYTES_MAX)
    {
        Some((at, _)) => format!("{} ...", &message[..at]),
        None => message.to_string(),
    }
}

fn parse_schema(text: &[u8]) -> Result<Value, Failure> {
    match serde_json::from_slice(text).map_err(|error| bad(error.to_string()))? {
        Value::Bool(true) => Ok(json!({})),
        Value::Bool(false) => Err(bad("at \"\": nothing satisfies the schema false")),
        schema @ Value::Object(_) => Ok(schema),
        _ => Err(bad("at \"\": a schema is an object or a boolean")),
    }
}

fn schema_grammar(mut schema: Value) -> TopLevelGrammar {
    // Options of llguidance are ours: one of them lets it skip what it does not support.
    schema["x-guidance"] = json!({"whitespace_pattern": JSON_SPACE});
    TopLevelGrammar::from_grammar(GrammarWithLexer::from_json_schema(schema))
}

/// Every character as itself.
fn escaped(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            c if c.is_alphanumeric() => c.to_string(),
            c => format!("\\x{{{:X}}}", u32::from(c)),
        })
        .collect()
}

fn choice_grammar(text: &[u8]) -> Result<TopLevelGrammar, Failure> {
    let choices: Vec<String> =
        serde_json::from_slice(text).map_err(|error| bad(error.to_string()))?;
    let alternatives: Vec<String> = choices.iter().map(|choice| escaped(choice)).collect();
    Ok(TopLevelGrammar::from_regex(&alternatives.join("|")))
}

fn utf8(text: &[u8]) -> Result<&str, Failure> {
    std::str::from_utf8(text).map_err(|error| bad(error.to_string()))
}

fn build(factory: &ParserFactory, grammar: TopLevelGrammar) -> Result<Matcher, String> {
    let matcher = Matcher::new(factory.create_parser(grammar));
    match matcher.get_error() {
        Some(error) => Err(readable(&error)),
        None => Ok(matcher),
    }
}

fn build_schema(factory: &ParserFactory, schema: Value) -> Result<Matcher, Failure> {
    if let Some(place) = schema_bounds::find_unkept(&schema) {
        let what = "an exclusive bound less than 1 from another one is not supported";
        return Err(bad(format!("at \"{place}\": {what}")));
    }
    build(factory, schema_grammar(schema.clone())).map_err(|message| {
        let compiles = |probe: Value| build(factory, schema_grammar(probe)).map(|_| ());
        bad(schema_place::explain(&schema, message, compiles))
    })
}

/// With its first mask, which finds out what cannot even begin.
fn compile_text(factory: &ParserFactory, form: Form, text: &[u8]) -> Result<Matcher, Failure> {
    let any_object = json!({"type": "object"});
    let lark = |text: &str| TopLevelGrammar::from_lark(text.to_string());
    let mut matcher = match form {
        Form::JsonSchema => build_schema(factory, parse_schema(text)?)?,
        Form::JsonObject => build(factory, schema_grammar(any_object)).map_err(bad)?,
        Form::Regex => build(factory, TopLevelGrammar::from_regex(utf8(text)?)).map_err(bad)?,
        Form::Choice => build(factory, choice_grammar(text)?).map_err(bad)?,
        Form::Lark => build(factory, lark(utf8(text)?)).map_err(bad)?,
    };
    match matcher.compute_mask_or_eos() {
        Ok(_) => Ok(matcher),
        Err(error) => Err(bad(format!("at \"\": {}", readable(&error.to_string())))),
    }
}

impl Compiler {
    pub fn new(vocabulary: &Vocabulary) -> Result<Self, Failure> {
        let mut factory = ParserFactory::new_simple(&vocabulary.environment)
            .map_err(|error| Failure::new(Kind::Failed, error.to_string()))?;
        factory.quiet();
        factory.limits_mut().verbose_errors = false;
        Ok(Self {
            factory: Arc::new(factory),
            vocabulary_size: vocabulary.size,
        })
    }

    /// `Kind::BadGrammar` says what is wrong and where.
    pub fn compile(&self, form: Form, text: &[u8]) -> Result<Grammar, Failure> {
        if LEFT_BEHIND.load(Ordering::Relaxed) >= LEFT_BEHIND_MAX {
            let message = "other grammars still hold what it takes to compile one";
            return Err(Failure::new(Kind::Busy, message));
        }
        let factory = Arc::clone(&self.factory);
        let text = text.to_vec();
        let parting = Arc::new(Parting::default());
        let running = Running(Arc::clone(&parting));
        let compiled = watched::run("grammar", move || {
            let _running = running;
            compile_text(&factory, form, &text)
        });
        let matcher = compiled.map_err(|failure| {
            if failure.kind != Kind::Exhausted {
                return failure;
            }
            parting.give_up();
            bad(format!("it takes {} to compile", failure.message))
        })?;
        Ok(Grammar {
            start: Mutex::new(matcher),
            vocabulary_size: self.vocabulary_size,
        })
    }
}

/// A compiled grammar; immutable.
pub struct Grammar {
    start: Mutex<Matcher>,
    vocabulary_size: usize,
}

impl Grammar {
    pub fn start(&self) -> Position {
        let start = self.start.lock().unwrap_or_else(PoisonError::into_inner);
        Position {
            matcher: start.clone(),
            vocabulary_size: self.vocabulary_size,
        }
    }
}

/// Where one answer stands. Belongs to one thread at a time.
#[derive(Clone)]
pub struct Position {
    matcher: Matcher,
    vocabulary_size: usize,
}

impl Position {
    /// Sets the bits of the tokens that may come next, 32 a word; `words` must reach to the vocabulary's
    /// end, and what lies behind that is cleared.
    pub fn mask(&mut self, words: &mut [u32]) -> Result<(), Failure> {
        words.fill(0);
        if self.matcher.is_stopped() && !self.matcher.is_error() {
            return Ok(());
        }
        let mask = self
            .matcher
            .compute_mask()
            .map_err(|error| bad(readable(&error.to_string())))?;
        let size = self.vocabulary_size;
        for (word, bits) in words.iter_mut().zip(mask.as_slice()) {
            *word = *bits;
        }
        // The end of the answer stands behind the last token.
        if let Some(last) = words.get_mut(size / 32) {
            *last &= (1 << (size % 32)) - 1;
        }
        if let Some(behind) = words.get_mut(size / 32 + 1..) {
            behind.fill(0);
        }
        Ok(())
    }

    pub fn accept(&mut self, id: u32) -> Result<(), Failure> {
        self.matcher
            .consume_token(id)
            .map_err(|error| bad(readable(&error.to_string())))
    }

    /// Whether what was accepted is a whole answer.
    pub fn can_stop(&mut self) -> Result<bool, Failure> {
        if self.is_finished() {
            return Ok(true);
        }
        self.matcher
            .is_accepting()
            .map_err(|error| bad(readable(&error.to_string())))
    }

    /// Whether nothing can follow.
    pub fn is_finished(&self) -> bool {
        self.matcher.is_stopped() && !self.matcher.is_error()
    }
}
