//! A tokenizer's model that never turns ordinary text into a special token.
//!
//! Switching off the search for added tokens is not enough: a Unigram or WordLevel model has "</s>" in
//! its own vocabulary and finds it there.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Deserializer};
use tokenizers::models::{ModelWrapper, TrainerWrapper};
use tokenizers::{Model, Result, Token};

/// Shares the vocabulary with its clones.
#[derive(Clone)]
pub struct UnsmuggledModel {
    model: Arc<ModelWrapper>,
    /// Spellings by id that text must not yield; empty means that everything goes.
    forbidden: Arc<HashMap<u32, String>>,
}

impl UnsmuggledModel {
    pub fn forbid(&mut self, spellings: HashMap<u32, String>) {
        self.forbidden = Arc::new(spellings);
    }

    /// Whether the token stands for its own spelling; `<unk>` for an unknown character does not.
    fn is_smuggled(&self, token: &Token, sequence: &str) -> bool {
        let spelling = self.forbidden.get(&token.id).map(String::as_str);
        spelling.is_some() && spelling == sequence.get(token.offsets.0..token.offsets.1)
    }

    /// Cuts every special token behind its first character and tokenizes the parts.
    fn tokenize_cut(&self, sequence: &str, start: usize, out: &mut Vec<Token>) -> Result<()> {
        let tokens = self.model.tokenize(sequence)?;
        let mut cuts: Vec<usize> = tokens
            .iter()
            .filter(|token| self.is_smuggled(token, sequence))
            .filter_map(|token| {
                let first = sequence[token.offsets.0..].chars().next()?;
                Some(token.offsets.0 + first.len_utf8())
            })
            .filter(|&cut| cut < sequence.len())
            .collect();
        if cuts.is_empty() {
            out.extend(tokens.into_iter().map(|mut token| {
                token.offsets = (token.offsets.0 + start, token.offsets.1 + start);
                token
            }));
            return Ok(());
        }
        cuts.push(sequence.len());
        let mut from = 0;
        for cut in cuts {
            self.tokenize_cut(&sequence[from..cut], start + from, out)?;
            from = cut;
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for UnsmuggledModel {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        Ok(Self {
            model: Arc::new(ModelWrapper::deserialize(deserializer)?),
            forbidden: Arc::default(),
        })
    }
}

impl Model for UnsmuggledModel {
    type Trainer = TrainerWrapper;

    fn tokenize(&self, sequence: &str) -> Result<Vec<Token>> {
        if self.forbidden.is_empty() {
            return self.model.tokenize(sequence);
        }
        let mut tokens = Vec::new();
        self.tokenize_cut(sequence, 0, &mut tokens)?;
        Ok(tokens)
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        self.model.token_to_id(token)
    }

    fn id_to_token(&self, id: u32) -> Option<String> {
        self.model.id_to_token(id)
    }

    fn get_vocab(&self) -> HashMap<String, u32> {
        self.model.get_vocab()
    }

    fn get_vocab_size(&self) -> usize {
        self.model.get_vocab_size()
    }

    fn save(&self, folder: &Path, prefix: Option<&str>) -> Result<Vec<PathBuf>> {
        self.model.save(folder, prefix)
    }

    fn get_trainer(&self) -> TrainerWrapper {
        self.model.get_trainer()
    }
}
