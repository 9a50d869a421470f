//! Tokenizers, chat templates and grammars for modeld, behind the C ABI that `modeld_text.h` declares.

mod abi;
mod chat_template;
mod conversion;
mod failure;
mod generation_tag;
mod grammar;
mod python_json;
mod python_types;
mod repository;
mod schema_bounds;
mod schema_place;
mod sentencepiece;
mod tokenizer;
mod unsmuggled_model;
mod vocabulary;
mod watched;
