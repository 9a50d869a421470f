//! The functions of `modeld_text.h`. Nothing unwinds out of them: a panic becomes `Kind::Failed`, or
//! `Kind::BrokenFile` while a file is read.

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Once;

use crate::chat_template::{ChatTemplate, Input};
use crate::failure::{Failure, Kind};
use crate::grammar::{Compiler, Form, Grammar, Position};
use crate::repository::Files;
use crate::tokenizer::Tokenizer;

#[repr(C)]
#[derive(Clone, Copy)]
pub struct View {
    data: *const u8,
    size: usize,
}

impl View {
    /// # Safety
    /// The caller lends `size` bytes at `data`; a null pointer goes with size 0.
    unsafe fn bytes<'a>(self) -> &'a [u8] {
        if self.size == 0 {
            return &[];
        }
        // SAFETY: promised by the caller.
        unsafe { std::slice::from_raw_parts(self.data, self.size) }
    }
}

/// An array that C owns until it hands it back.
#[repr(C)]
pub struct Owned<T> {
    data: *mut T,
    size: usize,
}

impl<T> Owned<T> {
    fn give(items: Vec<T>) -> Self {
        let items = Box::leak(items.into_boxed_slice());
        Self {
            data: items.as_mut_ptr(),
            size: items.len(),
        }
    }

    /// # Safety
    /// `self` came from `give` and was not taken back before, or its pointer is null.
    unsafe fn take_back(self) {
        if !self.data.is_null() {
            let items = std::ptr::slice_from_raw_parts_mut(self.data, self.size);
            // SAFETY: promised by the caller.
            drop(unsafe { Box::from_raw(items) });
        }
    }
}

static SILENCE: Once = Once::new();

/// Runs `body`, stores its result or its failure.
///
/// # Safety
/// `result` and `error` point to writable places.
unsafe fn answer<R>(
    result: *mut R,
    error: *mut Owned<u8>,
    on_panic: Kind,
    body: impl FnOnce() -> Result<R, Failure>,
) -> Kind {
    // The message goes back with the failure; nothing is printed.
    SILENCE.call_once(|| std::panic::set_hook(Box::new(|_| {})));
    let outcome = catch_unwind(AssertUnwindSafe(body))
        .unwrap_or_else(|panic| Err(Failure::new(on_panic, panic_message(&*panic))));
    // SAFETY: promised by the caller.
    unsafe {
        match outcome {
            Ok(value) => {
                result.write(value);
                Kind::Ok
            }
            Err(failure) => {
                error.write(Owned::give(failure.message.into_bytes()));
                failure.kind
            }
        }
    }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("unknown");
    format!("panic: {text}")
}

fn text(bytes: &[u8]) -> Result<&str, Failure> {
    std::str::from_utf8(bytes).map_err(|error| Failure::new(Kind::BadText, error.to_string()))
}

/// # Safety
/// As modeld_text.h says; so for all functions below.
#[no_mangle]
pub unsafe extern "C" fn modeld_text_free_bytes(bytes: Owned<u8>) {
    unsafe { bytes.take_back() }
}

/// # Safety
/// See above.
#[no_mangle]
pub unsafe extern "C" fn modeld_text_free_ids(ids: Owned<u32>) {
    unsafe { ids.take_back() }
}

#[repr(C)]
pub struct TokenizerFiles {
    tokenizer_json: View,
    sentencepiece: View,
    vocab_json: View,
    vocab_txt: View,
    merges: View,
    tokenizer_config: View,
    special_tokens_map: View,
    added_tokens: View,
    model_type: View,
}

/// # Safety
/// See above.
#[no_mangle]
pub unsafe extern "C" fn modeld_text_tokenizer_new(
    files: &TokenizerFiles,
    tokenizer: *mut *mut Tokenizer,
    error: *mut Owned<u8>,
) -> Kind {
    unsafe {
        answer(tokenizer, error, Kind::BrokenFile, || {
            let model_type = std::str::from_utf8(files.model_type.bytes()).unwrap_or_default();
            let files = Files {
                tokenizer_json: files.tokenizer_json.bytes(),
                sentencepiece: files.sentencepiece.bytes(),
                vocab_json: files.vocab_json.bytes(),
                vocab_txt: files.vocab_txt.bytes(),
                merges: files.merges.bytes(),
                tokenizer_config: files.tokenizer_config.bytes(),
                special_tokens_map: files.special_tokens_map.bytes(),
                added_tokens: files.added_tokens.bytes(),
                model_type,
            };
            Ok(Box::into_raw(Box::new(Tokenizer::new(&files)?)))
        })
    }
}

/// # Safety
/// See above.
#[no_mangle]
pub unsafe extern "C" fn modeld_text_tokenizer_free(tokenizer: *mut Tokenizer) {
    drop(unsafe { Box::from_raw(tokenizer) });
}

/// # Safety
/// See above.
#[no_mangle]
pub unsafe extern "C" fn modeld_text_tokenizer_encode(
    tokenizer: &Tokenizer,
    view: View,
    add_special: bool,
    parse_special: bool,
    ids: *mut Owned<u32>,
    error: *mut Owned<u8>,
) -> Kind {
    unsafe {
        answer(ids, error, Kind::Failed, || {
            let text = text(view.bytes())?;
            tokenizer
                .encode(text, add_special, parse_special)
                .map(Owned::give)
        })
    }
}

/// # Safety
/// See above.
#[no_mangle]
pub unsafe extern "C" fn modeld_text_tokenizer_decode(
    tokenizer: &Tokenizer,
    ids: *const u32,
    ids_size: usize,
    skip_special: bool,
    out: *mut Owned<u8>,
    error: *mut Owned<u8>,
) -> Kind {
    unsafe {
        answer(out, error, Kind::Failed, || {
            let ids = if ids_size == 0 {
                &[]
            } else {
                std::slice::from_raw_parts(ids, ids_size)
            };
            let text = tokenizer.decode(ids, skip_special)?;
            Ok(Owned::give(text.into_bytes()))
        })
    }
}

/// # Safety
/// See above.
#[no_mangle]
pub unsafe extern "C" fn modeld_text_tokenizer_spelling(
    tokenizer: &Tokenizer,
    id: u32,
    spelling: *mut Owned<u8>,
) -> bool {
    match tokenizer.spelling(id) {
        Some(text) => {
            unsafe { spelling.write(Owned::give(text.into_bytes())) };
            true
        }
        None => false,
    }
}

/// # Safety
/// See above.
#[no_mangle]
pub unsafe extern "C" fn modeld_text_tokenizer_id(tokenizer: &Tokenizer, spelling: View) -> i64 {
    std::str::from_utf8(unsafe { spelling.bytes() })
        .ok()
        .and_then(|spelling| tokenizer.id(spelling))
        .map_or(-1, i64::from)
}

/// # Safety
/// See above.
#[no_mangle]
pub unsafe extern "C" fn modeld_text_tokenizer_vocab_size(tokenizer: &Tokenizer) -> usize {
    tokenizer.vocab_size()
}

/// # Safety
/// See above.
#[no_mangle]
pub unsafe extern "C" fn modeld_text_tokenizer_is_special(tokenizer: &Tokenizer, id: u32) -> bool {
    tokenizer.is_special(id)
}

#[repr(C)]
pub struct RenderInput {
    messages: View,
    tools: View,
    args: View,
    special_tokens: View,
    add_generation_prompt: bool,
    now_unix_s: i64,
}

/// # Safety
/// See above.
#[no_mangle]
pub unsafe extern "C" fn modeld_text_template_new(
    source: View,
    result: *mut *mut ChatTemplate,
    error: *mut Owned<u8>,
) -> Kind {
    unsafe {
        answer(result, error, Kind::BrokenFile, || {
            let source = std::str::from_utf8(source.bytes())
                .map_err(|error| Failure::new(Kind::BrokenFile, error.to_string()))?;
            Ok(Box::into_raw(Box::new(ChatTemplate::new(source)?)))
        })
    }
}

/// # Safety
/// See above.
#[no_mangle]
pub unsafe extern "C" fn modeld_text_template_free(template: *mut ChatTemplate) {
    drop(unsafe { Box::from_raw(template) });
}

/// # Safety
/// See above.
#[no_mangle]
pub unsafe extern "C" fn modeld_text_template_render(
    template: &ChatTemplate,
    input: &RenderInput,
    prompt: *mut Owned<u8>,
    error: *mut Owned<u8>,
) -> Kind {
    unsafe {
        answer(prompt, error, Kind::Failed, || {
            let input = Input {
                messages: input.messages.bytes().to_vec(),
                tools: input.tools.bytes().to_vec(),
                args: input.args.bytes().to_vec(),
                special_tokens: input.special_tokens.bytes().to_vec(),
                add_generation_prompt: input.add_generation_prompt,
                now_unix_s: input.now_unix_s,
            };
            template.render(input).map(Owned::give)
        })
    }
}

/// # Safety
/// See above.
#[no_mangle]
pub unsafe extern "C" fn modeld_text_compiler_new(
    tokenizer: &Tokenizer,
    end_ids: *const u32,
    end_ids_size: usize,
    compiler: *mut *mut Compiler,
    error: *mut Owned<u8>,
) -> Kind {
    unsafe {
        answer(compiler, error, Kind::Failed, || {
            let end_ids = if end_ids_size == 0 {
                &[]
            } else {
                std::slice::from_raw_parts(end_ids, end_ids_size)
            };
            let vocabulary = tokenizer.vocabulary(end_ids)?;
            Ok(Box::into_raw(Box::new(Compiler::new(&vocabulary)?)))
        })
    }
}

/// # Safety
/// See above.
#[no_mangle]
pub unsafe extern "C" fn modeld_text_compiler_free(compiler: *mut Compiler) {
    drop(unsafe { Box::from_raw(compiler) });
}

/// # Safety
/// See above.
#[no_mangle]
pub unsafe extern "C" fn modeld_text_grammar_new(
    compiler: &Compiler,
    form: u32,
    source: View,
    grammar: *mut *mut Grammar,
    error: *mut Owned<u8>,
) -> Kind {
    unsafe {
        answer(grammar, error, Kind::BadGrammar, || {
            let compiled = compiler.compile(Form::of(form)?, source.bytes())?;
            Ok(Box::into_raw(Box::new(compiled)))
        })
    }
}

/// # Safety
/// See above.
#[no_mangle]
pub unsafe extern "C" fn modeld_text_grammar_free(grammar: *mut Grammar) {
    drop(unsafe { Box::from_raw(grammar) });
}

/// # Safety
/// See above.
#[no_mangle]
pub unsafe extern "C" fn modeld_text_position_new(
    grammar: &Grammar,
    position: *mut *mut Position,
    error: *mut Owned<u8>,
) -> Kind {
    unsafe {
        answer(position, error, Kind::Failed, || {
            Ok(Box::into_raw(Box::new(grammar.start())))
        })
    }
}

/// # Safety
/// See above.
#[no_mangle]
pub unsafe extern "C" fn modeld_text_position_free(position: *mut Position) {
    drop(unsafe { Box::from_raw(position) });
}

/// # Safety
/// See above; `words` are `words_size` writable ones.
#[no_mangle]
pub unsafe extern "C" fn modeld_text_position_mask(
    position: &mut Position,
    words: *mut u32,
    words_size: usize,
    can_stop: *mut bool,
    error: *mut Owned<u8>,
) -> Kind {
    unsafe {
        answer(can_stop, error, Kind::BadGrammar, || {
            position.mask(std::slice::from_raw_parts_mut(words, words_size))?;
            position.can_stop()
        })
    }
}

/// # Safety
/// See above.
#[no_mangle]
pub unsafe extern "C" fn modeld_text_position_accept(
    position: &mut Position,
    id: u32,
    finished: *mut bool,
    error: *mut Owned<u8>,
) -> Kind {
    unsafe {
        answer(finished, error, Kind::BadGrammar, || {
            position.accept(id)?;
            Ok(position.is_finished())
        })
    }
}
