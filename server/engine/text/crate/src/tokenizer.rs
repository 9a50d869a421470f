//! A repository's tokenizer.json, ready for text from the model's template and for text from users.

use std::collections::{HashMap, HashSet};

use tokenizers::{
    DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, TokenizerImpl,
};

use crate::failure::{Failure, Kind};
use crate::unsmuggled_model::UnsmuggledModel;

type Pipeline = TokenizerImpl<
    UnsmuggledModel,
    NormalizerWrapper,
    PreTokenizerWrapper,
    PostProcessorWrapper,
    DecoderWrapper,
>;

pub struct Tokenizer {
    /// Finds special tokens in text.
    trusting: Pipeline,
    /// Takes them for ordinary text; shares the vocabulary.
    wary: Pipeline,
    special: HashSet<u32>,
    vocab_size: usize,
}

impl Tokenizer {
    pub fn new(json: &[u8]) -> Result<Self, Failure> {
        let broken = |message: String| Failure::new(Kind::BrokenFile, message);
        let mut trusting: Pipeline =
            serde_json::from_slice(json).map_err(|error| broken(error.to_string()))?;
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
        let ids = special.keys().copied().collect();
        let mut wary = trusting.clone();
        wary.set_encode_special_tokens(true);
        let mut model = wary.get_model().clone();
        model.forbid(special);
        wary.with_model(model);
        Ok(Self {
            trusting,
            wary,
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
