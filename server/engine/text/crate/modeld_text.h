/* The C ABI of the crate modeld-text: tokenizers, chat templates and grammars.
 *
 * No function throws, unwinds or keeps a pointer that it was given. Objects are immutable and may
 * be used by many threads at once, but for positions. All text is UTF-8 with its length, without a
 * terminating zero.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
  MODELD_TEXT_OK = 0,
  MODELD_TEXT_BROKEN_FILE = 1,  /* a repository's file is not what it should be */
  MODELD_TEXT_BAD_TEXT = 2,     /* the text is not UTF-8 */
  MODELD_TEXT_BAD_IDS = 3,      /* a token id that the tokenizer does not have */
  MODELD_TEXT_BAD_MESSAGES = 4, /* not a JSON array of objects */
  MODELD_TEXT_BAD_TOOLS = 5,    /* not a JSON array of objects */
  MODELD_TEXT_BAD_ARGS = 6,     /* not a JSON object */
  MODELD_TEXT_REFUSED = 7,      /* raise_exception, an error of the template, or a limit */
  MODELD_TEXT_FAILED = 8,       /* a defect in a crate */
  MODELD_TEXT_BAD_GRAMMAR = 9,  /* a grammar that is wrong, not supported or too large */
  MODELD_TEXT_UNSUPPORTED = 10, /* the tokenizer does not allow it */
  MODELD_TEXT_BUSY = 11         /* too much of this kind goes on */
} modeld_text_kind;

/* Text that the caller lends for the time of a call. */
typedef struct {
  const char* data;
  size_t size;
} modeld_text_view;

/* Text that the caller owns; back through modeld_text_free_bytes. {NULL, 0} is empty. */
typedef struct {
  char* data;
  size_t size;
} modeld_text_bytes;

/* Ids that the caller owns; back through modeld_text_free_ids. */
typedef struct {
  uint32_t* data;
  size_t size;
} modeld_text_ids;

void modeld_text_free_bytes(modeld_text_bytes bytes);
void modeld_text_free_ids(modeld_text_ids ids);

typedef struct modeld_text_tokenizer modeld_text_tokenizer;

/* Contents of a repository's files; an empty one stands for a file that is not there. */
typedef struct {
  modeld_text_view tokenizer_json;
  modeld_text_view sentencepiece; /* tokenizer.model or what else it is called */
  modeld_text_view vocab_json;
  modeld_text_view vocab_txt;
  modeld_text_view merges; /* merges.txt */
  modeld_text_view tokenizer_config;
  modeld_text_view special_tokens_map;
  modeld_text_view added_tokens;
  modeld_text_view model_type; /* of config.json, may be empty */
} modeld_text_tokenizer_files;

/* Here and below `error` is set when the kind is not OK. */
modeld_text_kind modeld_text_tokenizer_new(const modeld_text_tokenizer_files* files,
                                           modeld_text_tokenizer** tokenizer,
                                           modeld_text_bytes* error);
void modeld_text_tokenizer_free(modeld_text_tokenizer* tokenizer);

/* Without `parse_special`, the spelling of a special token in `text` is ordinary text. */
modeld_text_kind modeld_text_tokenizer_encode(const modeld_text_tokenizer* tokenizer,
                                              modeld_text_view text, bool add_special,
                                              bool parse_special, modeld_text_ids* ids,
                                              modeld_text_bytes* error);
modeld_text_kind modeld_text_tokenizer_decode(const modeld_text_tokenizer* tokenizer,
                                              const uint32_t* ids, size_t ids_size,
                                              bool skip_special, modeld_text_bytes* text,
                                              modeld_text_bytes* error);
/* The vocabulary's own spelling; false for an id without one. */
bool modeld_text_tokenizer_spelling(const modeld_text_tokenizer* tokenizer, uint32_t id,
                                    modeld_text_bytes* spelling);
/* -1 when there is none. */
int64_t modeld_text_tokenizer_id(const modeld_text_tokenizer* tokenizer, modeld_text_view spelling);
/* One above the highest id. */
size_t modeld_text_tokenizer_vocab_size(const modeld_text_tokenizer* tokenizer);
bool modeld_text_tokenizer_is_special(const modeld_text_tokenizer* tokenizer, uint32_t id);

typedef struct modeld_text_template modeld_text_template;

typedef struct {
  modeld_text_view messages;       /* JSON array of objects */
  modeld_text_view tools;          /* JSON array, or empty */
  modeld_text_view args;           /* JSON object, or empty */
  modeld_text_view special_tokens; /* JSON object: bos_token, eos_token, ... */
  bool add_generation_prompt;
  int64_t now_unix_s; /* what strftime_now tells, in the machine's time zone */
} modeld_text_render_input;

modeld_text_kind modeld_text_template_new(modeld_text_view source, modeld_text_template** result,
                                          modeld_text_bytes* error);
void modeld_text_template_free(modeld_text_template* result);
modeld_text_kind modeld_text_template_render(const modeld_text_template* source,
                                             const modeld_text_render_input* input,
                                             modeld_text_bytes* prompt, modeld_text_bytes* error);

/* Compiles grammars for the vocabulary of one tokenizer. */
typedef struct modeld_text_compiler modeld_text_compiler;

/* `end_ids`: tokens that end an answer; they and the special ones are never text. UNSUPPORTED for a
 * tokenizer whose tokens are no bytes. */
modeld_text_kind modeld_text_compiler_new(const modeld_text_tokenizer* tokenizer,
                                          const uint32_t* end_ids, size_t end_ids_size,
                                          modeld_text_compiler** compiler,
                                          modeld_text_bytes* error);
void modeld_text_compiler_free(modeld_text_compiler* compiler);

typedef enum {
  MODELD_TEXT_JSON_SCHEMA = 0, /* a JSON schema */
  MODELD_TEXT_JSON_OBJECT = 1, /* any JSON object; the source is not looked at */
  MODELD_TEXT_REGEX = 2,       /* what all of the answer matches, in the syntax of Rust */
  MODELD_TEXT_CHOICE = 3,      /* a JSON array of strings, one of which is the answer */
  MODELD_TEXT_LARK = 4         /* llguidance's variant of Lark */
} modeld_text_grammar_form;

typedef struct modeld_text_grammar modeld_text_grammar;

modeld_text_kind modeld_text_grammar_new(const modeld_text_compiler* compiler,
                                         modeld_text_grammar_form form, modeld_text_view source,
                                         modeld_text_grammar** grammar, modeld_text_bytes* error);
void modeld_text_grammar_free(modeld_text_grammar* grammar);

/* Where an answer stands in a grammar; belongs to one thread at a time. */
typedef struct modeld_text_position modeld_text_position;

modeld_text_kind modeld_text_position_new(const modeld_text_grammar* grammar,
                                          modeld_text_position** position,
                                          modeld_text_bytes* error);
void modeld_text_position_free(modeld_text_position* position);
/* Sets the bit of each token that may come next, 32 to a word; there are words for the whole
 * vocabulary. `can_stop`: whether what was accepted is a whole answer. BAD_GRAMMAR when this takes
 * more steps than a token is worth, or when no token can follow and it cannot stop. */
modeld_text_kind modeld_text_position_mask(modeld_text_position* position, uint32_t* words,
                                           size_t words_size, bool* can_stop,
                                           modeld_text_bytes* error);
/* Goes on with a token of the mask. `finished`: whether nothing can follow. */
modeld_text_kind modeld_text_position_accept(modeld_text_position* position, uint32_t id,
                                             bool* finished, modeld_text_bytes* error);

#ifdef __cplusplus
}
#endif
