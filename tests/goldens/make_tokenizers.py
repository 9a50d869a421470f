#!/usr/bin/env python3
"""Makes tests/data/tokenizers: all kinds of tokenizer files, and what transformers makes of 10,000 strings.

    python tests/goldens/make_tokenizers.py [--show FAMILY BLOCK]

Made with transformers 5.23.0, tokenizers 0.23.2 and sentencepiece 0.2.3.

files/...      what tokenizers are made of, by SentencePiece's own trainer or out of tests/data/text
parts.json     what the strings are put together from; tests/engine/text/tokenizer_fuzz_test.cc does the same
families.json  [{name, files: {name in the repository: path below tests/data}, json: {name: content},
                 ids, ids_with_special, text: [a hash for each 100 strings]}]

--show prints the strings of one block with their ids, for when a hash differs.
"""

import json
import pathlib
import shutil
import sys
import tempfile

import make_text
import sentencepiece
from transformers import AutoTokenizer, PreTrainedTokenizerFast

DATA = pathlib.Path(__file__).resolve().parents[1] / "data"
ROOT = DATA / "tokenizers"
STRINGS = 10_000
BLOCK = 100
MASK = 2**64 - 1
RANGES = [
    (0x20, 0x7F),
    (0x00, 0x20),
    (0xA0, 0x2FF),
    (0x300, 0x36F),
    (0x400, 0x4FF),
    (0x5D0, 0x6FF),
    (0xE00, 0xE7F),
    (0x2000, 0x206F),
    (0x3040, 0x30FF),
    (0x4E00, 0x9FFF),
    (0xAC00, 0xD7A3),
    (0xFB00, 0xFFFE),
    (0x1F300, 0x1F6FF),
    (0x10000, 0x10FFFF),
]


class Random:
    """SplitMix64."""

    def __init__(self, seed):
        self.state = seed

    def below(self, bound):
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return (z ^ (z >> 31)) % bound


def strings(parts):
    random = Random(parts["seed"])
    corpus, pool, ranges = parts["corpus"], parts["pool"], parts["ranges"]
    for _ in range(STRINGS):
        text = ""
        for _ in range(random.below(13)):
            kind = random.below(10)
            if kind < 5:
                start = random.below(len(corpus))
                text += corpus[start : start + 1 + random.below(16)]
            elif kind < 8:
                text += pool[random.below(len(pool))]
            else:
                first, last = ranges[random.below(len(ranges))]
                text += chr(first + random.below(last - first))
        yield text


def fnv(chunks):
    value = 0xCBF29CE484222325
    for chunk in chunks:
        for byte in chunk:
            value = ((value ^ byte) * 0x100000001B3) & MASK
    return f"{value:016x}"


def id_bytes(ids):
    return b"".join(i.to_bytes(4, "little") for i in [*ids, 0xFFFFFFFF])


def train(name, **options):
    folder = ROOT / "files"
    folder.mkdir(parents=True, exist_ok=True)
    corpus = folder / "corpus.tmp"
    corpus.write_text("\n".join(make_text.CORPUS).replace("\t", " "), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus),
        model_prefix=str(folder / name),
        hard_vocab_limit=False,
        user_defined_symbols=["<sep>", "[X]"],
        num_threads=1,
        minloglevel=2,
        **options,
    )
    corpus.unlink()
    (folder / f"{name}.vocab").unlink()


def make_files():
    train("bpe", model_type="bpe", vocab_size=560, byte_fallback=True, normalization_rule_name="identity")
    train(
        "gemma",
        model_type="bpe",
        vocab_size=560,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=False,
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        bos_piece="<bos>",
        eos_piece="<eos>",
        control_symbols=["<start_of_turn>"],
    )
    train("unigram", model_type="unigram", vocab_size=330, pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    train("fairseq", model_type="unigram", vocab_size=330, normalization_rule_name="nfkc_cf")
    folder = ROOT / "files"
    model = json.loads((DATA / "text/byte_level_bpe/tokenizer.json").read_text())["model"]
    vocab = dict(model["vocab"])
    for token in ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "<|endoftext|>"]:
        vocab[token] = len(vocab)
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    merges = [" ".join(merge) for merge in model["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
    vocab = json.loads((DATA / "text/wordpiece/tokenizer.json").read_text())["model"]["vocab"]
    words = [*sorted(vocab, key=vocab.get), "<s>", "</s>", "<pad>", "<mask>"]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")


def spm(model, name="tokenizer.model"):
    return {name: f"tokenizers/files/{model}.model"}


def added(content, **flags):
    defaults = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}
    return {"content": content, **defaults, **flags}


def named(content):
    return {name: value for name, value in added(content).items() if name != "special"}


def config(tokenizer_class, **values):
    return {"tokenizer_config.json": {"tokenizer_class": tokenizer_class, **values}}


BYTE_LEVEL = {"vocab.json": "tokenizers/files/vocab.json", "merges.txt": "tokenizers/files/merges.txt"}
WORDS = {"vocab.txt": "tokenizers/files/vocab.txt"}
TURNS = ["<|im_start|>", "<|im_end|>"]
MANY_ADDED = {
    "added_tokens_decoder": {
        "500": added("<tool_call>", special=False, normalized=True),
        "501": added("日本", lstrip=True, special=False),
        "502": added("<sep>", rstrip=True),
    },
    "eos_token": "<|im_end|>",
    "pad_token": "[PAD]",
    "image_token": "<0x41>",
    "extra_special_tokens": ["ﬁ"],
    "add_bos_token": True,
}
LEGACY = {
    "special_tokens_map.json": {
        "bos_token": named("<s>"),
        "eos_token": named("</s>"),
        "unk_token": named("<unk>"),
        "pad_token": "<pad>",
    },
    "added_tokens.json": {"<pad>": 600, "<tool_call>": 601},
}


def of_type(model_type):
    return {"config.json": {"model_type": model_type}}


# Name, files, JSON files.
FAMILIES = [
    ("json_byte_level_bpe", {"tokenizer.json": "text/byte_level_bpe/tokenizer.json"}, {}),
    ("json_sentencepiece_bpe", {"tokenizer.json": "text/sentencepiece_bpe/tokenizer.json"}, {}),
    ("json_metaspace_bpe", {"tokenizer.json": "text/metaspace_bpe/tokenizer.json"}, {}),
    ("json_wordpiece", {"tokenizer.json": "text/wordpiece/tokenizer.json"}, {}),
    ("json_unigram", {"tokenizer.json": "text/unigram/tokenizer.json"}, {}),
    (
        "json_with_added_tokens",
        {"tokenizer.json": "text/byte_level_bpe/tokenizer.json"},
        config("PreTrainedTokenizerFast", **MANY_ADDED),
    ),
    ("llama", spm("bpe"), config("LlamaTokenizer", add_bos_token=True, bos_token="<s>", eos_token="</s>")),
    (
        "llama_legacy",
        spm("bpe"),
        config("LlamaTokenizerFast", legacy=True, add_bos_token=True, add_eos_token=True) | LEGACY,
    ),
    ("llama_without_prefix", spm("bpe"), config("LlamaTokenizer", add_prefix_space=False)),
    ("mistral", spm("bpe"), config("LlamaTokenizer", add_bos_token=True) | of_type("mistral")),
    ("gemma", spm("gemma"), config("GemmaTokenizer", add_bos_token=True)),
    ("generic_unigram", spm("unigram"), config("PreTrainedTokenizerFast")),
    ("t5", spm("unigram", "spiece.model"), config("T5Tokenizer", extra_ids=10)),
    ("xlm_roberta", spm("fairseq", "sentencepiece.bpe.model"), config("XLMRobertaTokenizer")),
    ("gpt2", BYTE_LEVEL, config("GPT2Tokenizer")),
    ("gpt2_with_prefix", BYTE_LEVEL, config("GPT2Tokenizer", add_prefix_space=True, add_bos_token=True)),
    (
        "qwen2",
        BYTE_LEVEL,
        config("Qwen2Tokenizer", additional_special_tokens=TURNS, eos_token="<|im_end|>"),
    ),
    ("qwen3_by_type", BYTE_LEVEL, of_type("qwen3")),
    ("roberta", BYTE_LEVEL, config("RobertaTokenizer")),
    ("bert", WORDS, config("BertTokenizer")),
    ("bert_cased", WORDS, config("BertTokenizer", do_lower_case=False, tokenize_chinese_chars=False)),
    ("mpnet", WORDS, config("MPNetTokenizer", unk_token="[UNK]")),
]


def load(name, files, contents):
    with tempfile.TemporaryDirectory() as folder:
        for target, source in files.items():
            shutil.copy(DATA / source, pathlib.Path(folder) / target)
        for target, content in contents.items():
            (pathlib.Path(folder) / target).write_text(json.dumps(content))
        if name.startswith("json_"):
            return PreTrainedTokenizerFast.from_pretrained(folder)
        return AutoTokenizer.from_pretrained(folder)


def golden(family, texts):
    name, files, contents = family
    tokenizer = load(name, files, contents)
    result = {"name": name, "files": files, "json": contents, "ids": [], "ids_with_special": [], "text": []}
    for begin in range(0, STRINGS, BLOCK):
        block = texts[begin : begin + BLOCK]
        plain = [tokenizer.encode(text, add_special_tokens=False) for text in block]
        whole = [tokenizer.encode(text) for text in block]
        result["ids"].append(fnv(map(id_bytes, plain)))
        result["ids_with_special"].append(fnv(map(id_bytes, whole)))
        result["text"].append(
            fnv(tokenizer.decode(ids, clean_up_tokenization_spaces=False).encode() + b"\xff" for ids in plain)
        )
    print(name, type(tokenizer).__name__, len(tokenizer), tokenizer.encode("Hi 日 x"))
    return result


def show(parts, name, block):
    family = next(family for family in FAMILIES if family[0] == name)
    tokenizer = load(*family)
    for text in list(strings(parts))[block * BLOCK : (block + 1) * BLOCK]:
        ids = tokenizer.encode(text, add_special_tokens=False)
        print(json.dumps([text, ids, tokenizer.convert_ids_to_tokens(ids)], ensure_ascii=False))


def main():
    more = ["<sep>", "[X]", "<pad>", "<mask>", "<extra_id_0>", "<start_of_turn>", "[PAD]"]
    parts = {
        "seed": 20261124,
        "corpus": "".join(make_text.CORPUS[:5]),
        "pool": make_text.POOL + more,
        "ranges": RANGES,
    }
    if len(sys.argv) == 4:
        show(parts, sys.argv[2], int(sys.argv[3]))
        return
    make_files()
    (ROOT / "parts.json").write_text(json.dumps(parts, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    texts = list(strings(parts))
    goldens = [golden(family, texts) for family in FAMILIES]
    lines = ",\n".join(json.dumps(golden, ensure_ascii=False) for golden in goldens)
    (ROOT / "families.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
