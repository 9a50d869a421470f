//! Tokenizers of repositories without a tokenizer.json: the pipeline that transformers builds for the
//! class that tokenizer_config.json names, out of a SentencePiece model, vocab.json and merges.txt, or
//! vocab.txt. The result is the text of a tokenizer.json.

use std::collections::HashMap;

use serde_json::{json, Map, Value as Json};

use crate::failure::Failure;
use crate::repository::{broken, Config, Files};
use crate::sentencepiece::{SentencePiece, BPE, UNIGRAM};

/// Work on merges grows with the square of a piece's length; real pieces have some 30 characters.
const MERGE_WORK_MAX: usize = 500_000_000;
/// T5's sentinels, unless the configuration tells another number.
const EXTRA_IDS_MAX: u64 = 10_000;

const SPACE: &str = "▁";

/// What Qwen2Tokenizer splits text by.
const QWEN2_PATTERN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Bert,
    Gemma,
    Generic,
    Gpt2,
    Llama,
    MpNet,
    Qwen2,
    Roberta,
    T5,
    XlmRoberta,
}

fn class_of(name: &str) -> Option<Class> {
    Some(match name.strip_suffix("Fast").unwrap_or(name) {
        "BertTokenizer" | "DistilBertTokenizer" | "ElectraTokenizer" => Class::Bert,
        "GemmaTokenizer" => Class::Gemma,
        "GPT2Tokenizer" => Class::Gpt2,
        "LlamaTokenizer" => Class::Llama,
        "MPNetTokenizer" => Class::MpNet,
        "Qwen2Tokenizer" => Class::Qwen2,
        "RobertaTokenizer" => Class::Roberta,
        "T5Tokenizer" => Class::T5,
        "XLMRobertaTokenizer" => Class::XlmRoberta,
        "PreTrainedTokenizer" | "TokenizersBackend" => Class::Generic,
        _ => return None,
    })
}

/// The class that goes with a model type where the configuration names none, or one that does not count:
/// for some types transformers builds the generic one whatever the repository says.
fn class_of_model_type(model_type: &str) -> Option<Class> {
    Some(match model_type {
        "bert" | "nomic_bert" => Class::Bert,
        "gemma" | "gemma2" | "gemma3" | "gemma3_text" => Class::Gemma,
        "gpt2" | "starcoder2" => Class::Gpt2,
        "mpnet" => Class::MpNet,
        "qwen2" | "qwen2_moe" | "qwen3" | "qwen3_moe" | "qwen3_next" | "qwen3_vl" => Class::Qwen2,
        "roberta" => Class::Roberta,
        "t5" => Class::T5,
        "xlm-roberta" => Class::XlmRoberta,
        "glm4" | "glm4_moe" | "granite" | "granitemoehybrid" | "ministral3" | "mistral"
        | "mistral3" | "mixtral" | "modernbert" | "olmo2" | "olmo3" | "phi3" => Class::Generic,
        _ => return None,
    })
}

fn choose_class(config: &Config, files: &Files) -> Result<Class, Failure> {
    let by_type = class_of_model_type(files.model_type);
    let Some(name) = config.text("tokenizer_class") else {
        return Ok(by_type.unwrap_or(Class::Generic));
    };
    if by_type == Some(Class::Generic) {
        return Ok(Class::Generic);
    }
    match class_of(name) {
        Some(class) => Ok(class),
        None if !files.sentencepiece.is_empty() => Ok(Class::Generic),
        None => Err(broken(format!(
            "there is no tokenizer.json, and a tokenizer of the class {name} cannot be made from the other files"
        ))),
    }
}

/// What a class does not tell from the files.
pub struct Converted {
    pub tokenizer_json: Vec<u8>,
    /// The post-processor is the class's own, not made of bos_token and eos_token.
    pub has_post_processor: bool,
}

/// Names in `config` the class's special tokens that the files do not name.
pub fn convert(files: &Files, config: &mut Config) -> Result<Converted, Failure> {
    let class = choose_class(config, files)?;
    set_default_tokens(class, config);
    let (mut parts, added) = match class {
        Class::Bert | Class::MpNet => (word_piece(files, config)?, Vec::new()),
        Class::Gpt2 | Class::Qwen2 | Class::Roberta => {
            (byte_level(class, files, config)?, Vec::new())
        }
        Class::Gemma | Class::Generic | Class::Llama | Class::T5 | Class::XlmRoberta => {
            sentencepiece(class, files, config)?
        }
    };
    let post_processor = post_processor(class, config, &parts["model"])?;
    let has_post_processor = !post_processor.is_null();
    parts.insert("post_processor".into(), post_processor);
    parts.insert("version".into(), json!("1.0"));
    parts.insert("truncation".into(), Json::Null);
    parts.insert("padding".into(), Json::Null);
    parts.insert("added_tokens".into(), Json::Array(added));
    let tokenizer_json =
        serde_json::to_vec(&Json::Object(parts)).map_err(|error| broken(error.to_string()))?;
    Ok(Converted {
        tokenizer_json,
        has_post_processor,
    })
}

fn set_default_tokens(class: Class, config: &mut Config) {
    let tokens: &[(&str, &str)] = match class {
        Class::Bert => &[
            ("unk_token", "[UNK]"),
            ("sep_token", "[SEP]"),
            ("pad_token", "[PAD]"),
            ("cls_token", "[CLS]"),
            ("mask_token", "[MASK]"),
        ],
        Class::Gemma => &[
            ("unk_token", "<unk>"),
            ("bos_token", "<bos>"),
            ("eos_token", "<eos>"),
            ("pad_token", "<pad>"),
            ("mask_token", "<mask>"),
        ],
        Class::Generic => &[],
        Class::Gpt2 => &[
            ("unk_token", "<|endoftext|>"),
            ("bos_token", "<|endoftext|>"),
            ("eos_token", "<|endoftext|>"),
        ],
        Class::Llama => &[
            ("unk_token", "<unk>"),
            ("bos_token", "<s>"),
            ("eos_token", "</s>"),
        ],
        Class::Qwen2 => &[
            ("unk_token", "<|endoftext|>"),
            ("eos_token", "<|endoftext|>"),
            ("pad_token", "<|endoftext|>"),
        ],
        Class::T5 => &[
            ("eos_token", "</s>"),
            ("unk_token", "<unk>"),
            ("pad_token", "<pad>"),
        ],
        Class::MpNet | Class::Roberta | Class::XlmRoberta => &[
            ("bos_token", "<s>"),
            ("eos_token", "</s>"),
            ("sep_token", "</s>"),
            ("cls_token", "<s>"),
            (
                "unk_token",
                if class == Class::MpNet {
                    "[UNK]"
                } else {
                    "<unk>"
                },
            ),
            ("pad_token", "<pad>"),
            ("mask_token", "<mask>"),
        ],
    };
    for (name, content) in tokens {
        config.set_default(name, content);
    }
}

/// The normalizer, pre-tokenizer, decoder and model of a tokenizer.json.
type Parts = Map<String, Json>;

fn parts(normalizer: Json, pre_tokenizer: Json, decoder: Json, model: Json) -> Parts {
    let mut parts = Map::new();
    parts.insert("normalizer".into(), normalizer);
    parts.insert("pre_tokenizer".into(), pre_tokenizer);
    parts.insert("decoder".into(), decoder);
    parts.insert("model".into(), model);
    parts
}

fn word_piece(files: &Files, config: &Config) -> Result<Parts, Failure> {
    let text = utf8(files.vocab_txt, "vocab.txt")?;
    let mut vocab = Map::new();
    for (id, line) in text.lines().enumerate() {
        vocab.insert(line.trim_end().to_string(), json!(id));
    }
    let normalizer = json!({
        "type": "BertNormalizer",
        "clean_text": true,
        "handle_chinese_chars": config.flag("tokenize_chinese_chars").unwrap_or(true),
        "strip_accents": config.flag("strip_accents"),
        "lowercase": config.flag("do_lower_case").unwrap_or(true),
    });
    let decoder = json!({"type": "WordPiece", "prefix": "##", "cleanup": true});
    let model = json!({
        "type": "WordPiece",
        "unk_token": config.named("unk_token"),
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
        "vocab": vocab,
    });
    Ok(parts(
        normalizer,
        json!({"type": "BertPreTokenizer"}),
        decoder,
        model,
    ))
}

fn utf8<'a>(bytes: &'a [u8], file: &str) -> Result<&'a str, Failure> {
    if bytes.is_empty() {
        return Err(broken(format!(
            "there is neither a tokenizer.json nor a {file}"
        )));
    }
    std::str::from_utf8(bytes).map_err(|_| broken(format!("{file} is not UTF-8")))
}

fn byte_level(class: Class, files: &Files, config: &Config) -> Result<Parts, Failure> {
    let vocab: Json = serde_json::from_str(utf8(files.vocab_json, "vocab.json")?)
        .map_err(|error| broken(format!("vocab.json is not JSON: {error}")))?;
    let mut merges = Vec::new();
    for line in utf8(files.merges, "merges.txt")?.lines() {
        if line.starts_with("#version") {
            continue;
        }
        let Some((left, right)) = line
            .split_once(' ')
            .filter(|(_, right)| !right.contains(' '))
        else {
            return Err(broken(format!(
                "merges.txt: line \"{line}\" is no pair of tokens"
            )));
        };
        merges.push(json!([left, right]));
    }
    let add_prefix_space = config.flag("add_prefix_space").unwrap_or(false);
    let byte_level = |use_regex: bool| {
        json!({
            "type": "ByteLevel",
            "add_prefix_space": add_prefix_space,
            "trim_offsets": true,
            "use_regex": use_regex,
        })
    };
    let (normalizer, pre_tokenizer) = if class == Class::Qwen2 {
        let split = json!({
            "type": "Split",
            "pattern": {"Regex": QWEN2_PATTERN},
            "behavior": "Isolated",
            "invert": false,
        });
        let sequence = json!({"type": "Sequence", "pretokenizers": [split, byte_level(false)]});
        (json!({"type": "NFC"}), sequence)
    } else {
        (Json::Null, byte_level(true))
    };
    let decoder = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    let model = json!({
        "type": "BPE",
        "dropout": null,
        "unk_token": null,
        "continuing_subword_prefix": "",
        "end_of_word_suffix": "",
        "fuse_unk": false,
        "byte_fallback": false,
        "ignore_merges": false,
        "vocab": vocab,
        "merges": merges,
    });
    Ok(parts(normalizer, pre_tokenizer, decoder, model))
}

fn metaspace(scheme: &str, split: bool) -> Json {
    json!({"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": split})
}

fn replace(from: &str, to: &str) -> Json {
    json!({"type": "Replace", "pattern": {"String": from}, "content": to})
}

/// The parts and the added tokens of a SentencePiece model.
fn sentencepiece(
    class: Class,
    files: &Files,
    config: &mut Config,
) -> Result<(Parts, Vec<Json>), Failure> {
    if files.sentencepiece.is_empty() {
        return Err(broken(
            "there is no tokenizer.json and no file that one can be made from",
        ));
    }
    let spm = SentencePiece::read(files.sentencepiece)?;
    let is_bpe = match class {
        Class::Gemma | Class::Llama => true,
        Class::T5 | Class::XlmRoberta => false,
        _ => spm.model_type != UNIGRAM,
    };
    if spm.model_type != if is_bpe { BPE } else { UNIGRAM } {
        return Err(broken(format!(
            "the SentencePiece model is of type {}, which does not go with its class ({class:?})",
            spm.model_type
        )));
    }
    if class == Class::Generic {
        config.set_default("unk_token", &spm.unk_piece);
        for (name, piece) in [("bos_token", &spm.bos_piece), ("eos_token", &spm.eos_piece)] {
            if let Some(piece) = piece {
                config.set_default(name, piece);
            }
        }
    }
    let mut vocab = pieces_of(class, &spm);
    let mut added = Vec::new();
    if !config.has_extra() {
        let mut add = |content: &str, special: bool| {
            let id = vocab.iter().rposition(|(text, _)| text == content);
            added.push(json!({
                "id": id, "content": content, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": special,
            }));
        };
        for piece in spm.pieces.iter().filter(|piece| piece.is_added()) {
            add(&piece.text, piece.is_special());
        }
    }
    if class == Class::T5 {
        let count = EXTRA_IDS_MAX.min(config.number("extra_ids").unwrap_or(100));
        for i in (0..count).rev() {
            vocab.push((format!("<extra_id_{i}>"), 0.0));
        }
        for i in 0..count {
            added.push(json!({
                "id": vocab.len() as u64 - 1 - i, "content": format!("<extra_id_{i}>"),
                "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
                "special": true,
            }));
        }
    }
    let model = if is_bpe {
        bpe_model(class, &spm, &vocab)?
    } else {
        unigram_model(class, &spm, &vocab)
    };
    let (normalizer, pre_tokenizer, decoder) = around(class, &spm, config);
    Ok((parts(normalizer, pre_tokenizer, decoder, model), added))
}

/// Tokens and their scores, by id.
fn pieces_of(class: Class, spm: &SentencePiece) -> Vec<(String, f32)> {
    let pieces = spm
        .pieces
        .iter()
        .map(|piece| (piece.text.clone(), piece.score));
    if class != Class::XlmRoberta {
        return pieces.collect();
    }
    // fairseq's order of the special tokens.
    let first = ["<s>", "<pad>", "</s>", "<unk>"].map(|text| (text.to_string(), 0.0));
    let mut all: Vec<(String, f32)> = first.into_iter().chain(pieces.skip(3)).collect();
    all.push(("<mask>".into(), 0.0));
    all
}

fn unigram_model(class: Class, spm: &SentencePiece, vocab: &[(String, f32)]) -> Json {
    let unk_id = match class {
        Class::T5 => 2,
        Class::XlmRoberta => 3,
        _ => spm.unk_id,
    };
    let vocab: Vec<Json> = vocab
        .iter()
        .map(|(text, score)| json!([text, f64::from(*score)]))
        .collect();
    json!({
        "type": "Unigram",
        "unk_id": unk_id,
        "byte_fallback": class == Class::Generic && spm.byte_fallback,
        "vocab": vocab,
    })
}

fn bpe_model(class: Class, spm: &SentencePiece, vocab: &[(String, f32)]) -> Result<Json, Failure> {
    let mut ids = Map::new();
    for (id, (text, _)) in vocab.iter().enumerate() {
        ids.insert(text.clone(), json!(id));
    }
    let unk_token = match class {
        Class::Llama => Json::Null,
        _ => json!(spm.unk_piece),
    };
    Ok(json!({
        "type": "BPE",
        "dropout": null,
        "unk_token": unk_token,
        "continuing_subword_prefix": null,
        "end_of_word_suffix": null,
        "fuse_unk": true,
        "byte_fallback": class != Class::Generic || spm.byte_fallback,
        "ignore_merges": false,
        "vocab": ids,
        "merges": merges_of(vocab)?,
    }))
}

/// Every way to make a piece of two others; earlier pieces first, then shorter left halves.
fn merges_of(vocab: &[(String, f32)]) -> Result<Vec<Json>, Failure> {
    let work: usize = vocab
        .iter()
        .map(|(text, _)| text.len().saturating_pow(2))
        .sum();
    if work > MERGE_WORK_MAX {
        return Err(broken(
            "the SentencePiece model has pieces that are too long",
        ));
    }
    let ids: HashMap<&str, usize> = vocab
        .iter()
        .enumerate()
        .map(|(id, (text, _))| (text.as_str(), id))
        .collect();
    let mut merges = Vec::new();
    for (text, id) in &ids {
        for (chars, (cut, _)) in text.char_indices().enumerate().skip(1) {
            let (left, right) = text.split_at(cut);
            if ids.contains_key(left) && ids.contains_key(right) {
                merges.push((*id, chars, left, right));
            }
        }
    }
    merges.sort_unstable();
    Ok(merges
        .into_iter()
        .map(|(_, _, left, right)| json!([left, right]))
        .collect())
}

/// Normalizer, pre-tokenizer and decoder.
fn around(class: Class, spm: &SentencePiece, config: &Config) -> (Json, Json, Json) {
    let charsmap = if spm.charsmap.is_empty() {
        Json::Null
    } else {
        json!({"type": "Precompiled", "precompiled_charsmap": base64::encode(&spm.charsmap)})
    };
    let spaces = replace(SPACE, " ");
    let bytes = json!({"type": "ByteFallback"});
    let fuse = json!({"type": "Fuse"});
    let sequence = |decoders: Vec<Json>| json!({"type": "Sequence", "decoders": decoders});
    match class {
        Class::Llama => {
            let add_prefix_space = config.flag("add_prefix_space").unwrap_or(true);
            let scheme = match (add_prefix_space, config.flag("legacy").unwrap_or(false)) {
                (false, _) => "never",
                (true, true) => "always",
                (true, false) => "first",
            };
            let mut decoders = vec![spaces, bytes, fuse];
            if add_prefix_space {
                decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
            }
            (Json::Null, metaspace(scheme, false), sequence(decoders))
        }
        Class::Gemma => {
            let split = json!({
                "type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false,
            });
            (
                replace(" ", SPACE),
                split,
                sequence(vec![spaces, bytes, fuse]),
            )
        }
        Class::T5 | Class::XlmRoberta => {
            let scheme = match config.flag("add_prefix_space") {
                Some(false) if class == Class::XlmRoberta => "never",
                _ => "always",
            };
            let pre_tokenizers = [json!({"type": "WhitespaceSplit"}), metaspace(scheme, true)];
            (
                charsmap,
                json!({"type": "Sequence", "pretokenizers": pre_tokenizers}),
                metaspace(scheme, true),
            )
        }
        _ => {
            let normalizers: Vec<Json> = [charsmap, replace(" ", SPACE)]
                .into_iter()
                .filter(|normalizer| !normalizer.is_null())
                .collect();
            let decoders = if spm.byte_fallback {
                vec![spaces, bytes, fuse]
            } else {
                vec![spaces]
            };
            let normalizer = json!({"type": "Sequence", "normalizers": normalizers});
            (normalizer, Json::Null, sequence(decoders))
        }
    }
}

/// The id of a token in a model's vocabulary.
fn id_in(model: &Json, token: &str) -> Option<u64> {
    match &model["vocab"] {
        Json::Object(vocab) => vocab.get(token)?.as_u64(),
        Json::Array(vocab) => vocab
            .iter()
            .rposition(|entry| entry[0].as_str() == Some(token))
            .map(|id| id as u64),
        _ => None,
    }
}

/// Of classes that have one of their own; null for the others.
fn post_processor(class: Class, config: &Config, model: &Json) -> Result<Json, Failure> {
    let token = |name: &str, default_id: Option<u64>| -> Result<(String, u64), Failure> {
        let text = config.named(name).unwrap_or_default();
        let id = id_in(model, &text).or(default_id);
        let id = id.ok_or_else(|| broken(format!("{name} \"{text}\" is not in the vocabulary")))?;
        Ok((text, id))
    };
    let template = |single: &[&(String, u64)]| -> Json {
        let special: Map<String, Json> = single
            .iter()
            .filter(|(text, _)| text != "$A")
            .map(|(text, id)| {
                (
                    text.clone(),
                    json!({"id": text, "ids": [id], "tokens": [text]}),
                )
            })
            .collect();
        let items: Vec<Json> = single
            .iter()
            .map(|(text, _)| {
                if text == "$A" {
                    json!({"Sequence": {"id": "A", "type_id": 0}})
                } else {
                    json!({"SpecialToken": {"id": text, "type_id": 0}})
                }
            })
            .collect();
        // Nothing encodes pairs.
        let mut pair = items.clone();
        pair.push(json!({"Sequence": {"id": "B", "type_id": 1}}));
        json!({"type": "TemplateProcessing", "single": items, "pair": pair, "special_tokens": special})
    };
    let text = ("$A".to_string(), 0);
    Ok(match class {
        Class::Bert => {
            let cls = token("cls_token", Some(2))?;
            let sep = token("sep_token", Some(3))?;
            template(&[&cls, &text, &sep])
        }
        Class::T5 => template(&[&text, &("</s>".into(), token("eos_token", None)?.1)]),
        Class::XlmRoberta => {
            let bos = token("bos_token", None)?;
            let eos = token("eos_token", None)?;
            template(&[&bos, &text, &eos])
        }
        Class::MpNet | Class::Roberta => {
            let is_mpnet = class == Class::MpNet;
            let cls = token("cls_token", is_mpnet.then_some(0))?;
            let sep = token("sep_token", is_mpnet.then_some(2))?;
            json!({
                "type": "RobertaProcessing",
                "sep": [sep.0, sep.1],
                "cls": [cls.0, cls.1],
                "trim_offsets": config.flag("trim_offsets").unwrap_or(true),
                "add_prefix_space": !is_mpnet && config.flag("add_prefix_space").unwrap_or(false),
            })
        }
        Class::Gemma | Class::Generic | Class::Gpt2 | Class::Llama | Class::Qwen2 => Json::Null,
    })
}
