#!/usr/bin/env python3
"""Makes tests/data/text: tiny tokenizers and prompts, with what transformers makes of them.

    python tests/goldens/make_text.py

Made with transformers 5.23.0, tokenizers 0.23.2 and Jinja2 3.1.6. The templates below
tests/data/text/templates are written by hand.

<tokenizer>/tokenizer.json   one per kind of model
<tokenizer>/goldens.json     [{text, ids, ids_with_special, text_of_ids, text_without_special}]
prompts.json                 inputs (messages, tools, args) by name, and {template, input, prompt or error}
"""

import datetime
import json
import pathlib
import random

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

ROOT = pathlib.Path(__file__).resolve().parents[1] / "data" / "text"
NOW = 1793783107  # 2026-11-04 09:05:07 UTC
STRINGS = 100
CORPUS = [
    "The quick brown fox jumps over the lazy dog, and doesn't stop. It's 3.14 or 1,234,567!",
    "Über größere Straßen führt der Weg nach Genève und Zürich; naïve café résumé.",
    "日本語の文章と中文字符 한국어 문장 שלום עולם ไทย мир и дружба 🙂🎉👍🏽",
    "def main(argv):\n    return [x ** 2 for x in range(10)]\n\n\tprint('hello world')\n",
    '<html><body class="x">a &amp; b</body></html> {"key": [1, 2, null, true]}',
] * 4
POOL = [
    "<s>",
    "</s>",
    "<unk>",
    "<|im_start|>",
    "<|im_end|>",
    "<tool_call>",
    "[CLS]",
    "[SEP]",
    "▁",
    "▁▁",
    " ",
    "  ",
    "\n",
    "\n\n",
    "\t",
    "\r\n",
    "ﬁ",
    "①",
    "Ａｂ",
    "é",
    "e\u0301",
    "日本語",
    "中文字",
    "한국어",
    "🙂",
    "👩‍👩‍👧",
    "\u200b",
    "\u00a0",
    "\u3000",
    "\ufeff",
    "\x01",
    "\x7f",
    "ß",
    "ﷺ",
    "½",
    "\u0130",
    "\U0001f1e9\U0001f1ea",
    "1234567890",
    "3.14",
    "don't",
    "I'LL",
    "__init__",
    "🧑🏽‍🚀",
    "\ufffd",
    "\ufffd\ufffd",
    "\U0010ffff",
    "\x00",
    "שלום",
    "ไทย",
    "<0x41>",
    "##ing",
    ".",
    "n't",
]
FIXED = [
    "",
    " ",
    "a",
    " a",
    "\ufffd",
    "a\ufffd",
    "\ufffd" * 9,
    "x\ufffd\ufffdy",
    "🙂" * 6,
    "<|im_end|>",
    "<|im_start|>user\nhi<|im_end|>",
    "</s>",
    "a </s> b",
    "<s><s>",
    "e\u0301e\u0301",
    " \n \n ",
]


def strings(seed):
    rng = random.Random(seed)
    text = "".join(CORPUS[:5])
    result = list(FIXED)
    while len(result) < STRINGS:
        kind = rng.random()
        if kind < 0.4:
            start = rng.randrange(len(text) - 60)
            result.append(text[start : start + rng.randint(1, 60)])
        elif kind < 0.8:
            result.append(
                "".join(
                    rng.choice(POOL) if rng.random() < 0.6 else rng.choice(text)
                    for _ in range(rng.randint(1, 12))
                )
            )
        else:
            blocks = [
                (32, 127),
                (0xA0, 0x2FF),
                (0x400, 0x4FF),
                (0x3040, 0x30FF),
                (0x4E00, 0x9FFF),
                (0x1F300, 0x1F6FF),
            ]
            result.append("".join(chr(rng.randrange(*rng.choice(blocks))) for _ in range(rng.randint(1, 20))))
    return result


def byte_level_bpe():
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tok.decoder = decoders.ByteLevel()
    tok.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=500,
            special_tokens=["<|im_start|>", "<|im_end|>"],
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    tok.add_tokens([AddedToken("<tool_call>", normalized=False)])
    return tok, "<|im_start|>", "<|im_end|>"


def sentencepiece_bpe():
    tok = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tok.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tok.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tok.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=560,
            show_progress=False,
            limit_alphabet=60,
            special_tokens=["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)],
        ),
    )
    data = json.loads(tok.to_str())
    # The bytes are ordinary pieces.
    data["added_tokens"] = data["added_tokens"][:3]
    tok = Tokenizer.from_str(json.dumps(data))
    tok.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return tok, "<s>", "</s>"


def metaspace_bpe():
    tok, bos, eos = sentencepiece_bpe()
    tok.normalizer = None
    tok.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
    return tok, bos, eos


def wordpiece():
    tok = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tok.normalizer = normalizers.BertNormalizer(lowercase=True)
    tok.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tok.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    tok.train_from_iterator(
        CORPUS,
        trainers.WordPieceTrainer(
            vocab_size=400, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], show_progress=False
        ),
    )
    tok.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return tok, "[CLS]", "[SEP]"


def unigram():
    tok = Tokenizer(models.Unigram())
    tok.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("  ", " ")])
    tok.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="always", split=True)
    tok.decoder = decoders.Metaspace("▁", prepend_scheme="always", split=True)
    tok.train_from_iterator(
        CORPUS,
        trainers.UnigramTrainer(
            vocab_size=300, special_tokens=["<s>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
        ),
    )
    tok.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return tok, "<s>", "</s>"


def make_tokenizer(name, make, seed):
    tok, bos, eos = make()
    folder = ROOT / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(
        json.dumps(json.loads(tok.to_str()), ensure_ascii=False), encoding="utf-8"
    )
    # One of the forms that repositories have: an object.
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "add_bos_token": True,
                "bos_token": {"content": bos, "lstrip": False},
                "eos_token": eos,
                "pad_token": None,
            },
            indent=1,
        )
        + "\n"
    )
    fast = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    goldens = []
    for text in strings(seed):
        ids = fast.encode(text, add_special_tokens=True)
        goldens.append(
            {
                "text": text,
                "ids": fast.encode(text, add_special_tokens=False),
                "ids_with_special": ids,
                "text_of_ids": fast.decode(ids, clean_up_tokenization_spaces=False),
                "text_without_special": fast.decode(
                    ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
                ),
            }
        )
    (folder / "goldens.json").write_text(
        "[\n"
        + ",\n".join(json.dumps(golden, ensure_ascii=False, separators=(",", ":")) for golden in goldens)
        + "\n]\n",
        encoding="utf-8",
    )


def inputs():
    system = {"role": "system", "content": " You are a <helpful> & 'terse' assistant. "}
    user = {"role": "user", "content": 'What\'s 2 + 2? Über "quotes"\n- a\n- b 日本 🙂'}
    answer = {"role": "assistant", "content": "It is **4**.\n"}
    more = {"role": "user", "content": "  And 3+3?  "}
    tools = [
        {
            "type": "function",
            "function": {
                "name": "get_weather",
                "description": 'The weather, e.g. <Zürich> & "Genève"',
                "parameters": {
                    "type": "object",
                    "required": ["city"],
                    "properties": {
                        "city": {"type": "string", "description": "The city's name"},
                        "unit": {"type": "string", "enum": ["c", "f"], "default": "c"},
                        "days": {"type": "integer", "minimum": 1},
                    },
                },
            },
        },
        {
            "type": "function",
            "function": {
                "name": "search",
                "parameters": {
                    "type": "object",
                    "properties": {
                        "q": {"type": "string"},
                        "limit": {"type": "number", "default": 1.5},
                        "tags": {"type": "array", "items": {"type": "string"}},
                    },
                    "required": ["q", "limit"],
                },
                "return": {"type": "object"},
            },
        },
    ]
    arguments = {"city": "Zürich", "days": 3, "x": 1.0, "ok": True, "n": None, "l": ["a", 1]}

    def call(arguments, content, name="get_weather", call_id="abcdefghi"):
        return {
            "role": "assistant",
            "content": content,
            "tool_calls": [
                {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
            ],
        }

    result = {"role": "tool", "tool_call_id": "abcdefghi", "name": "get_weather", "content": '{"temp": 21.5}'}
    two = call({"city": "A"}, "")
    two["tool_calls"] += call({"q": "x", "limit": 2}, "", "search", "aaaaaaaa2")["tool_calls"]
    conversations = {
        "user": ([user], None),
        "system": ([system, user], None),
        "turns": ([system, user, answer, more], None),
        "no_system_turns": ([user, answer, more], None),
        "ends_with_answer": ([user, answer], None),
        "two_users": ([user, more], None),
        "tools": ([system, user], tools),
        "empty_tools": ([user], []),
        "call": ([system, user, call(arguments, ""), result], tools),
        "call_null_content": ([user, call(arguments, None), result], tools),
        "call_text": ([user, call(json.dumps(arguments), "Let me see."), result, answer, more], tools),
        "two_calls": ([system, user, two, result, dict(result, tool_call_id="aaaaaaaa2")], tools),
        "reasoning": ([user, dict(answer, reasoning_content="2+2\n=4"), more], None),
        "thinking": ([user, dict(answer, thinking="hm"), more], None),
        "reasoning_alias": ([user, dict(answer, reasoning="hm", thinking=None)], None),
        "think_in_content": ([user, {"role": "assistant", "content": "<think>\nhm\n</think>\n\n4"}], None),
        "parts": (
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "Hello "},
                        {"type": "image"},
                        {"type": "text", "text": " parts"},
                    ],
                }
            ],
            None,
        ),
        "null_content": ([{"role": "user", "content": None, "name": "n"}], None),
        "markup": ([{"role": "user", "content": "<|im_end|>{{ 1 }}{% if %}</s>&lt;\x01\u2028"}], None),
    }
    result = {}
    for name, (messages, tools) in conversations.items():
        for generation in (False, True):
            for thinking in (None, False, True) if generation else (None,):
                args = {} if thinking is None else {"enable_thinking": thinking}
                key = f"{name}/{'generate' if generation else 'stop'}/{thinking}"
                result[key] = {
                    "messages": messages,
                    "tools": tools,
                    "args": args,
                    "add_generation_prompt": generation,
                }
    return result


class FrozenDatetime(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(NOW, datetime.UTC)


def make_prompts():
    chat_template_utils.datetime = FrozenDatetime
    fast = PreTrainedTokenizerFast(
        tokenizer_object=byte_level_bpe()[0], bos_token="<|im_start|>", eos_token="<|im_end|>"
    )
    cases = inputs()
    rows = []
    for path in sorted((ROOT / "templates").glob("*.jinja")):
        # As transformers reads the file: with universal line ends.
        source = path.read_text(encoding="utf-8")
        for name, case in cases.items():
            row = {"template": path.stem, "input": name}
            try:
                row["prompt"] = fast.apply_chat_template(
                    case["messages"],
                    tools=case["tools"],
                    chat_template=source,
                    tokenize=False,
                    add_generation_prompt=case["add_generation_prompt"],
                    **case["args"],
                )
            except Exception as error:  # whatever it is, the template refused
                row["error"] = f"{type(error).__name__}: {error}"
            rows.append(row)
    lines = [f'{{"now_unix_s": {NOW},\n"inputs": {{']
    lines.append(
        ",\n".join(
            f"{json.dumps(name)}: {json.dumps(case, ensure_ascii=False)}" for name, case in cases.items()
        )
    )
    lines.append('},\n"prompts": [')
    lines.append(",\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    lines.append("]}")
    (ROOT / "prompts.json").write_text("\n".join(lines) + "\n", encoding="utf-8")
    refused = sum("error" in row for row in rows)
    print(f"{len(rows)} prompts, {refused} of them refused")
    for error in sorted({(row["template"], row["error"]) for row in rows if "error" in row}):
        print("  ", *error)


def main():
    makers = [byte_level_bpe, sentencepiece_bpe, metaspace_bpe, wordpiece, unigram]
    for seed, make in enumerate(makers):
        make_tokenizer(make.__name__, make, seed)
    make_prompts()


if __name__ == "__main__":
    main()
