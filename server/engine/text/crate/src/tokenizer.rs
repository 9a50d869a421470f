//! A repository's tokenizer, ready for text from the model's template and for text from users.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde_json::json;
use tokenizers::PostProcessorWrapper;

use crate::conversion;
use crate::failure::{Failure, Kind};
use crate::repository::{broken, Config, Files};
use crate::vocabulary::{Pipeline, Vocabulary};

/// Eight times the largest known vocabulary. Ids are walked through from 0 on.
const VOCAB_SIZE_MAX: usize = 2 << 20;

pub struct Tokenizer {
    /// Finds special tokens in text.
    trusting: Pipeline,
    /// Takes them for ordinary text; shares the vocabulary.
    wary: Arc<Pipeline>,
    special: HashSet<u32>,
    vocab_size: usize,
}

/// As transformers makes it: tokenizer.json, or what stands for it, and the tokens that the other files
/// add.
fn read_pipeline(files: &Files) -> Result<Pipeline, Failure> {
    let mut config = Config::read(files)?;
    let parse = |json: &[u8]| -> Result<Pipeline, Failure> {
        serde_json::from_slice(json).map_err(|error| broken(format!("tokenizer.json: {error}")))
    };
    if !files.tokenizer_json.is_empty() {
        let mut pipeline = parse(files.tokenizer_json)?;
        add_tokens(&mut pipeline, &config)?;
        return Ok(pipeline);
    }
    let converted = conversion::convert(files, &mut config)?;
    let mut pipeline = parse(&converted.tokenizer_json)?;
    add_tokens(&mut pipeline, &config)?;
    if !converted.has_post_processor {
        let around = bos_and_eos(&pipeline, &config)?;
        pipeline.with_post_processor(Some(around));
    }
    Ok(pipeline)
}

fn add_tokens(pipeline: &mut Pipeline, config: &Config) -> Result<(), Failure> {
    let added = pipeline.get_added_vocabulary().get_vocab();
    let tokens = config.tokens_to_add(|content| added.contains_key(content));
    pipeline
        .add_tokens(tokens)
        .map(|_| ())
        .map_err(|error| broken(error.to_string()))
}

/// The template that add_bos_token and add_eos_token ask for.
fn bos_and_eos(pipeline: &Pipeline, config: &Config) -> Result<PostProcessorWrapper, Failure> {
    let wanted = |flag: &str, name: &str| {
        let token = config.named(name)?;
        config.flag(flag).unwrap_or(false).then_some(token)
    };
    let bos = wanted("add_bos_token", "bos_token");
    let eos = wanted("add_eos_token", "eos_token");
    let mut single = vec![json!({"Sequence": {"id": "A", "type_id": 0}})];
    let mut special = serde_json::Map::new();
    for (token, at) in [(&bos, 0), (&eos, single.len() + usize::from(bos.is_some()))] {
        let Some(token) = token else { continue };
        let id = pipeline.token_to_id(token);
        let id = id.ok_or_else(|| broken(format!("\"{token}\" is not in the vocabulary")))?;
        single.insert(at, json!({"SpecialToken": {"id": token, "type_id": 0}}));
        special.insert(
            token.clone(),
            json!({"id": token, "ids": [id], "tokens": [token]}),
        );
    }
    // Nothing encodes pairs.
    let mut pair = single.clone();
    pair.push(json!({"Sequence": {"id": "B", "type_id": 1}}));
    serde_json::from_value(json!({
        "type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special,
    }))
    .map_err(|error| broken(error.to_string()))
}

impl Tokenizer {
    pub fn new(files: &Files) -> Result<Self, Failure> {
        Self::from_pipeline(read_pipeline(files)?)
    }

    fn from_pipeline(mut trusting: Pipeline) -> Result<Self, Failure> {
        // They belong to whoever trained the model; what a request may hold is decided elsewhere.
        trusting
            .with_truncation(None)
            .map_err(|error| broken(error.to_string()))?;
        trusting.with_padding(None);

        let special: HashMap<u32, String> = trusting
            .get_added_tokens_decoder()
            .into_iter()
            .filter(|(_, token)| token.special)
            .map(|(id, token)| (id, token.content))
            .collect();
        let vocab_size = trusting
            .get_vocab(true)
            .into_values()
            .max()
            .map_or(0, |id| id as usize + 1);
        if vocab_size > VOCAB_SIZE_MAX {
            return Err(broken(format!(
                "a token has the id {}; at most {VOCAB_SIZE_MAX} are supported",
                vocab_size - 1
            )));
        }
        let ids = special.keys().copied().collect();
        let mut wary = trusting.clone();
        wary.set_encode_special_tokens(true);
        let mut model = wary.get_model().clone();
        model.forbid(special);
        wary.with_model(model);
        Ok(Self {
            trusting,
            wary: Arc::new(wary),
            special: ids,
            vocab_size,
        })
    }

    pub fn encode(
        &self,
        text: &str,
        add_special: bool,
        parse_special: bool,
    ) -> Result<Vec<u32>, Failure> {
        let pipeline = if parse_special {
            &self.trusting
        } else {
            &self.wary
        };
        pipeline
            .encode_fast(text, add_special)
            .map(|encoding| encoding.get_ids().to_vec())
            .map_err(|error| Failure::new(Kind::Failed, error.to_string()))
    }

    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, Failure> {
        if let Some(id) = ids.iter().find(|&&id| self.spelling(id).is_none()) {
            let message = format!(
                "no token has the id {id}; the vocabulary ends at {}",
                self.vocab_size.saturating_sub(1)
            );
            return Err(Failure::new(Kind::BadIds, message));
        }
        self.trusting
            .decode(ids, skip_special)
            .map_err(|error| Failure::new(Kind::Failed, error.to_string()))
    }

    /// `end_ids`: tokens that end an answer, whether they are special or not.
    pub fn vocabulary(&self, end_ids: &[u32]) -> Result<Vocabulary, Failure> {
        Vocabulary::new(
            Arc::clone(&self.wary),
            &self.special,
            self.vocab_size,
            end_ids,
        )
    }

    pub fn spelling(&self, id: u32) -> Option<String> {
        self.trusting.id_to_token(id)
    }

    pub fn id(&self, spelling: &str) -> Option<u32> {
        self.trusting.token_to_id(spelling)
    }

    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    pub fn is_special(&self, id: u32) -> bool {
        self.special.contains(&id)
    }
}
