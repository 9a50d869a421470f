//! A tokenizer's vocabulary as bytes: what grammars are matched against.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokenizers::{DecoderWrapper, PostProcessorWrapper, PreTokenizerWrapper};
use tokenizers::{NormalizerWrapper, TokenizerImpl};
use toktrie::{TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};

use crate::failure::{Failure, Kind};
use crate::unsmuggled_model::UnsmuggledModel;

pub type Pipeline = TokenizerImpl<
    UnsmuggledModel,
    NormalizerWrapper,
    PreTokenizerWrapper,
    PostProcessorWrapper,
    DecoderWrapper,
>;

/// How a decoder makes bytes of a token's spelling.
enum Spelling {
    /// Each character stands for one byte, as in GPT-2.
    ByteLevel(HashMap<char, u8>),
    /// Text in which some strings stand for others ("▁" for a space), and perhaps "<0xE6>" for a byte.
    Text {
        replaced: Vec<(String, String)>,
        byte_fallback: bool,
    },
}

/// GPT-2's table: bytes that print stand for themselves, the others for what follows U+0100.
fn byte_characters() -> HashMap<char, u8> {
    let prints = |byte: u8| matches!(byte, b'!'..=b'~') || (byte >= 0xa1 && byte != 0xad);
    let mut next = 0x100;
    (0..=u8::MAX)
        .map(|byte| {
            if prints(byte) {
                return (char::from(byte), byte);
            }
            let character = char::from_u32(next).unwrap_or_default();
            next += 1;
            (character, byte)
        })
        .collect()
}

impl Spelling {
    fn of(decoder: Option<&DecoderWrapper>) -> Result<Self, Failure> {
        let json = serde_json::to_value(decoder)
            .map_err(|error| Failure::new(Kind::Failed, error.to_string()))?;
        let steps = match json["decoders"].as_array() {
            Some(steps) => steps.clone(),
            None => vec![json],
        };
        let mut replaced = Vec::new();
        let mut byte_fallback = false;
        for step in &steps {
            match step["type"].as_str().unwrap_or("none") {
                "ByteLevel" => return Ok(Self::ByteLevel(byte_characters())),
                "Metaspace" => {
                    let mark = step["replacement"].as_str().unwrap_or("▁");
                    replaced.push((mark.to_string(), " ".to_string()));
                }
                "Replace" => {
                    let (Some(from), Some(to)) =
                        (step["pattern"]["String"].as_str(), step["content"].as_str())
                    else {
                        return Err(unsupported("Replace with a pattern"));
                    };
                    replaced.push((from.to_string(), to.to_string()));
                }
                "ByteFallback" => byte_fallback = true,
                // They act on the text as a whole, at its ends.
                "Fuse" | "Strip" => {}
                other => return Err(unsupported(other)),
            }
        }
        Ok(Self::Text {
            replaced,
            byte_fallback,
        })
    }

    fn bytes(&self, token: &str) -> Vec<u8> {
        match self {
            Self::ByteLevel(bytes) => token
                .chars()
                .map(|character| bytes.get(&character).copied())
                .collect::<Option<Vec<u8>>>()
                .unwrap_or_else(|| token.as_bytes().to_vec()),
            Self::Text {
                replaced,
                byte_fallback,
            } => {
                let hex = token
                    .strip_prefix("<0x")
                    .and_then(|rest| rest.strip_suffix('>'))
                    .filter(|digits| digits.len() == 2 && *byte_fallback);
                if let Some(byte) = hex.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
                    return vec![byte];
                }
                let mut text = token.to_string();
                for (from, to) in replaced {
                    text = text.replace(from.as_str(), to);
                }
                text.into_bytes()
            }
        }
    }
}

fn unsupported(decoder: &str) -> Failure {
    Failure::new(
        Kind::Unsupported,
        format!("structured answers need a tokenizer whose tokens are bytes; its decoder has the step {decoder}"),
    )
}

struct Environment {
    trie: TokTrie,
    pipeline: Arc<Pipeline>,
    /// Whether text that a grammar forces is tokenized as the model is used to see it.
    forces_tokens: bool,
}

impl TokenizerEnv for Environment {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    /// Always tokens whose bytes are `bytes`: a pipeline that normalizes is not asked again.
    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        let encode = |text: &str| {
            let encoding = self.pipeline.encode_fast(text, false).ok()?;
            let ids = encoding.get_ids().to_vec();
            (self.trie.decode_raw(&ids) == bytes).then_some(ids)
        };
        std::str::from_utf8(bytes)
            .ok()
            .and_then(encode)
            .unwrap_or_else(|| self.trie.greedy_tokenize(bytes))
    }

    fn tokenize_is_canonical(&self) -> bool {
        self.forces_tokens
    }
}

/// Immutable; shared by all grammars of a model.
pub struct Vocabulary {
    pub environment: TokEnv,
    pub size: usize,
}

impl Vocabulary {
    /// `special` and `end_ids` are never text. The end of an answer is a token of its own behind the
    /// last one, so that a mask says whether the grammar accepts whatever the model's ends are.
    pub fn new(
        pipeline: Arc<Pipeline>,
        special: &HashSet<u32>,
        size: usize,
        end_ids: &[u32],
    ) -> Result<Self, Failure> {
        let spelling = Spelling::of(pipeline.get_decoder())?;
        let mut words: Vec<Vec<u8>> = Vec::with_capacity(size + 1);
        for id in 0..u32::try_from(size).unwrap_or(u32::MAX) {
            let Some(token) = pipeline.id_to_token(id) else {
                words.push(Vec::new());
                continue;
            };
            if special.contains(&id) || end_ids.contains(&id) {
                let mut word = vec![TokTrie::SPECIAL_TOKEN_MARKER];
                word.extend_from_slice(token.as_bytes());
                words.push(word);
            } else {
                words.push(spelling.bytes(&token));
            }
        }
        words.push(b"\xff<|end of the answer|>".to_vec());
        let end = u32::try_from(size).unwrap_or(u32::MAX);
        let trie = TokTrie::from(&TokRxInfo::new(end + 1, end), &words);
        let forces_tokens = matches!(spelling, Spelling::ByteLevel(_));
        Ok(Self {
            environment: Arc::new(Environment {
                trie,
                pipeline,
                forces_tokens,
            }),
            size,
        })
    }
}
