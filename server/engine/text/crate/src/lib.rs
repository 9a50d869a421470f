//! Tokenizers and chat templates for modeld, behind the C ABI that `modeld_text.h` declares.

mod abi;
mod chat_template;
mod conversion;
mod failure;
mod generation_tag;
mod python_json;
mod python_types;
mod repository;
mod sentencepiece;
mod tokenizer;
mod unsmuggled_model;
mod watched;
