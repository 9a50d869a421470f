//! The files of a repository that a tokenizer is made of, and what the JSON ones say of special tokens.

use std::collections::HashSet;

use serde_json::{Map, Value as Json};
use tokenizers::AddedToken;

use crate::failure::{Failure, Kind};

/// Contents; an empty one stands for a file that is not there.
pub struct Files<'a> {
    pub tokenizer_json: &'a [u8],
    pub sentencepiece: &'a [u8],
    /// vocab.json
    pub vocab_json: &'a [u8],
    /// vocab.txt
    pub vocab_txt: &'a [u8],
    pub merges: &'a [u8],
    pub tokenizer_config: &'a [u8],
    pub special_tokens_map: &'a [u8],
    pub added_tokens: &'a [u8],
    /// "model_type" of config.json; may be empty.
    pub model_type: &'a str,
}

/// Special tokens with a name of their own, in transformers' order.
const NAMED: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];
const EXTRA: [&str; 2] = ["extra_special_tokens", "additional_special_tokens"];

pub fn broken(message: impl Into<String>) -> Failure {
    Failure::new(Kind::BrokenFile, message)
}

fn object(json: &[u8], file: &str) -> Result<Map<String, Json>, Failure> {
    if json.is_empty() {
        return Ok(Map::new());
    }
    serde_json::from_slice(json)
        .map_err(|error| broken(format!("{file} is not a JSON object: {error}")))
}

/// A token as the JSON files have it: a string, or an object with a "content".
fn token_of(value: &Json, is_special: bool) -> Option<AddedToken> {
    if let Some(content) = value.as_str() {
        return Some(AddedToken::from(content, is_special));
    }
    let flag = |name: &str, default: bool| value[name].as_bool().unwrap_or(default);
    let special = flag("special", false);
    Some(AddedToken {
        content: value["content"].as_str()?.to_string(),
        single_word: flag("single_word", false),
        lstrip: flag("lstrip", false),
        rstrip: flag("rstrip", false),
        normalized: flag("normalized", !special),
        special: special || is_special,
    })
}

/// tokenizer_config.json with what special_tokens_map.json and added_tokens.json add to it where it is
/// of the older form, without added_tokens_decoder.
pub struct Config {
    values: Map<String, Json>,
    /// By id.
    added: Vec<AddedToken>,
}

impl Config {
    pub fn read(files: &Files) -> Result<Self, Failure> {
        let mut values = object(files.tokenizer_config, "tokenizer_config.json")?;
        let mut added: Vec<(u64, AddedToken)> = Vec::new();
        if let Some(decoder) = values.get("added_tokens_decoder").and_then(Json::as_object) {
            for (id, token) in decoder {
                let wrong = || broken(format!("tokenizer_config.json: added token {id} is broken"));
                let number = id.parse().map_err(|_| wrong())?;
                added.push((number, token_of(token, false).ok_or_else(wrong)?));
            }
        } else {
            values.extend(object(files.special_tokens_map, "special_tokens_map.json")?);
            let config = Self {
                values: values.clone(),
                added: Vec::new(),
            };
            let special: Vec<String> = config
                .special()
                .into_iter()
                .map(|(_, t)| t.content)
                .collect();
            for (content, id) in object(files.added_tokens, "added_tokens.json")? {
                let id = id.as_u64().ok_or_else(|| {
                    broken(format!(
                        "added_tokens.json: \"{content}\" has no natural number"
                    ))
                })?;
                let is_special = special.contains(&content);
                added.push((id, AddedToken::from(content, is_special)));
            }
        }
        added.sort_by_key(|(id, _)| *id);
        let added = added.into_iter().map(|(_, token)| token).collect();
        Ok(Self { values, added })
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        self.values.get(name).and_then(Json::as_str)
    }

    pub fn flag(&self, name: &str) -> Option<bool> {
        self.values.get(name).and_then(Json::as_bool)
    }

    pub fn number(&self, name: &str) -> Option<u64> {
        self.values.get(name).and_then(Json::as_u64)
    }

    pub fn has_extra(&self) -> bool {
        EXTRA.iter().any(|name| self.values.contains_key(*name))
    }

    /// Sets a named token unless the files name one; null counts as named.
    pub fn set_default(&mut self, name: &str, content: &str) {
        self.values
            .entry(name)
            .or_insert_with(|| Json::String(content.into()));
    }

    /// The text of a named token.
    pub fn named(&self, name: &str) -> Option<String> {
        let token = token_of(self.values.get(name)?, true)?;
        (!token.content.is_empty()).then_some(token.content)
    }

    /// Tokens with a name, then other special ones.
    fn special(&self) -> Vec<(String, AddedToken)> {
        let model_specific = self.values.keys().filter(|key| {
            key.ends_with("_token")
                && !NAMED.contains(&key.as_str())
                && self.values[*key].is_string()
        });
        let names = NAMED.iter().map(|name| name.to_string());
        let mut tokens: Vec<(String, AddedToken)> = names
            .chain(model_specific.cloned())
            .filter_map(|name| Some((name.clone(), token_of(self.values.get(&name)?, true)?)))
            .collect();
        let extra = EXTRA
            .iter()
            .filter_map(|name| self.values.get(*name))
            .find(|value| !value.is_null());
        let extra: Vec<&Json> = match extra {
            Some(Json::Array(list)) => list.iter().collect(),
            Some(Json::Object(named)) => named.values().collect(),
            _ => Vec::new(),
        };
        tokens.extend(
            extra
                .into_iter()
                .filter_map(|value| Some((String::new(), token_of(value, true)?))),
        );
        tokens
    }

    /// All that go into the vocabulary besides what the model has, in the order in which they get ids.
    pub fn tokens_to_add(&self, already: impl Fn(&str) -> bool) -> Vec<AddedToken> {
        let special = self.special();
        let named: HashSet<&str> = special
            .iter()
            .filter(|(name, _)| !name.is_empty())
            .map(|(_, token)| token.content.as_str())
            .collect();
        let mut tokens = self.added.clone();
        for token in &mut tokens {
            token.special = token.special || named.contains(token.content.as_str());
        }
        for (_, token) in special.clone() {
            if !already(&token.content) && tokens.iter().all(|t| t.content != token.content) {
                tokens.push(token);
            }
        }
        tokens
    }
}
