#!/usr/bin/env python3
"""Makes the tiny repositories of encoders.py below tests/data/models, and the goldens of vectors.

    python tests/goldens/make_vectors.py             all tiny repositories and tests/data/poolings.json
    python tests/goldens/make_vectors.py tiny-bert   these only
    python tests/goldens/make_vectors.py --real DIR  the golden of all-MiniLM-L6-v2 in DIR

Made with torch 2.15.0, transformers 5.23.0 and sentence-transformers 6.2.0.

vectors.json         texts (token ids), bf16_mean and bf16_max as in make_models.py
vectors.safetensors  hidden.<i>: float32 [tokens, hidden], the last layer's output
sentences.json       where the repository has modules.json: texts and, for each prompt name, the vectors
                     of sentence-transformers in float32
"""

import argparse
import json
import pathlib
import random
import shutil

import encoders
import torch
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModel
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING
from transformers.utils import logging

ROOT = pathlib.Path(__file__).resolve().parents[1] / "data"
MODELS = ROOT / "models"
LENGTHS = (1, 6, 19, 40)
LONG_LENGTHS = (1, 6, 19, 150)
# As in make_models.py: a bar for others only where the reference was neither lucky nor unlucky.
LARGEST_OVER_MEAN = (4, 12)

CORPUS = [
    "The capital of France is Paris. The capital of Italy is Rome.",
    "One model is loaded once, and every request is answered by it.",
    "What is the name of the river that flows through the town?",
    "task: search result | query: title: none | text: the passage",
]
TEXTS = [
    "What is the capital of France?",
    "",
    "Rome",
    "the river that flows through the town is the name of the model, and every text of it is loaded once "
    "by the request that is answered with the capital of Italy and the capital of France",
    "na\u00efve \u4f60\u597d, 42 %!",
]


def write_json(path, value, indent=2):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=indent) + "\n")


def randomise(model, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("bias") and parameter.dim() == 1:
                parameter.copy_(0.1 * noise)
            elif parameter.dim() == 1:  # a norm, whose weight starts at 1, or at 0 for Gemma
                parameter.copy_(parameter + 0.1 * noise)
            elif "relative_attention_bias" in name:
                parameter.copy_(noise)
            elif "embed" in name:
                parameter.copy_(0.5 * noise)
            else:
                parameter.copy_(noise * 1.3 / parameter.shape[-1] ** 0.5)


def save_weights(model, folder, config, dtype, shards):
    """Under the names that published repositories have."""
    total = sum(value.numel() * dtype.itemsize for value in model.state_dict().values())
    model.to(dtype).save_pretrained(folder, max_shard_size=total if shards == 1 else total // shards + 1)
    (folder / "generation_config.json").unlink(missing_ok=True)
    files = list(folder.glob("*.safetensors"))
    assert (len(files) == 1) == (shards == 1), files
    write_json(folder / "config.json", config)


def word_piece():
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    ends = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=ends
    )
    # Published files have these; sentence-transformers sets its own.
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=8)
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    return tokenizer, dict(zip(names, special, strict=True))


def byte_level(template):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<bos>", "<eos>"]
    trainer = trainers.BpeTrainer(
        vocab_size=encoders.VOCAB,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    ends = [(token, tokenizer.token_to_id(token)) for token in special]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template, pair=template + " $B", special_tokens=ends
    )
    return tokenizer, dict(zip(("pad_token", "bos_token", "eos_token"), special, strict=True))


TOKENIZERS = {
    "tiny-bert": (word_piece, 512),
    "tiny-embedding-gemma": (lambda: byte_level("<bos> $A <eos>"), 2048),
    "tiny-qwen3-embedding": (lambda: byte_level("$A <eos>"), 32),
}


def write_sentence_files(folder, seed):
    files, _ = encoders.SENTENCES[folder.name]
    make_tokenizer, length = TOKENIZERS[folder.name]
    tokenizer, special = make_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": length,
            "clean_up_tokenization_spaces": False,
        }
        | special,
    )
    generator = torch.Generator().manual_seed(seed)
    for name, content in files.items():
        write_json(folder / name, content)
        if "in_features" not in content:
            continue
        shape = (content["out_features"], content["in_features"])
        tensors = {"linear.weight": torch.randn(shape, generator=generator) / shape[1] ** 0.5}
        if content["bias"]:
            tensors["linear.bias"] = 0.1 * torch.randn(shape[0], generator=generator)
        save_file(tensors, folder / name.replace("config.json", "model.safetensors"))


def sentence_goldens(folder):
    model = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
    cases = []
    for name in encoders.SENTENCES[folder.name][1]:
        vectors = model.encode(TEXTS, prompt_name=name or None, batch_size=2)
        cases.append({"prompt_name": name, "vectors": [[float(f"{x:.8g}") for x in row] for row in vectors]})
    write_json(folder / "sentences.json", {"texts": TEXTS, "cases": cases}, indent=None)


@torch.inference_mode()
def goldens(folder, texts):
    def outputs(dtype, attention):
        model = AutoModel.from_pretrained(folder, dtype=dtype, attn_implementation=attention).eval()
        return [model(input_ids=torch.tensor([text])).last_hidden_state[0].float() for text in texts]

    exact = outputs(torch.float32, None)
    figures = []
    for attention in (None, "eager"):
        pairs = zip(outputs(torch.bfloat16, attention), exact, strict=True)
        distance = torch.cat([(rounded - whole).abs().flatten() for rounded, whole in pairs])
        figures.append((float(distance.mean()), float(distance.max())))
    mean, largest = figures[0][0], max(figures[0][1], figures[1][1])
    if not LARGEST_OVER_MEAN[0] <= largest / mean <= LARGEST_OVER_MEAN[1]:
        return None
    hidden = {f"hidden.{index}": rows.contiguous() for index, rows in enumerate(exact)}
    save_file(hidden, folder / "vectors.safetensors")
    write_json(
        folder / "vectors.json",
        {"texts": texts, "bf16_mean": mean, "bf16_max": largest},
        indent=None,
    )
    return mean, largest


def make(name):
    config, dtype, shards = encoders.REPOSITORIES[name]
    folder = MODELS / name
    generator = torch.Generator().manual_seed(11)
    lengths = LONG_LENGTHS if config["max_position_embeddings"] > 160 else LENGTHS
    texts = [torch.randint(4, 200, (length,), generator=generator).tolist() for length in lengths]
    if config["pad_token_id"] > 0:
        # A padding token within a text: it takes no position.
        texts[2][5] = config["pad_token_id"]
    for seed in range(200):
        read = AutoConfig.for_model(**config)
        masked = "MaskedLM" in config["architectures"][0]
        made = MODEL_FOR_MASKED_LM_MAPPING[type(read)](read) if masked else AutoModel.from_config(read)
        randomise(made.eval(), seed)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        save_weights(made, folder, config, dtype, shards)
        distance = goldens(folder, texts)
        if distance is None:
            continue
        if name in encoders.SENTENCES:
            write_sentence_files(folder, seed)
            sentence_goldens(folder)
        print(name, "seed", seed, "bf16 mean and max", *distance)
        return
    raise SystemExit(f"{name}: no seed will do")


def make_poolings():
    """Every way to pool, with and without a prompt, by sentence-transformers' own module."""
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randn((7, 4), generator=generator)
    cases = []
    for mode in (*Pooling.POOLING_MODES, ["max", "cls"]):
        for prompt in (0, 3, 7):
            if prompt == 7 and mode in ("cls", "max", ["max", "cls"]):
                continue  # the reference looks at the prompt then, or has no largest component
            module = Pooling(4, pooling_mode=mode, include_prompt=prompt == 0)
            features = {
                "token_embeddings": tokens.unsqueeze(0),
                "attention_mask": torch.ones((1, 7), dtype=torch.long),
                "prompt_length": prompt,
            }
            vector = module(features)["sentence_embedding"][0].tolist()
            cases.append({"pooling_mode": mode, "prompt_tokens": prompt, "vector": vector})
    write_json(ROOT / "poolings.json", {"tokens": tokens.tolist(), "cases": cases}, indent=None)


WORDS = """the a of and model river town capital bank bridge light engine winter music orange doctor letter
market cloud window server garden coffee mountain history science question answer small large quick slow red
blue carries builds finds writes opens closes keeps loses Paris Berlin Tokyo Nairobi because although when
where never always nearly twice""".split()
ODDITIES = [
    "",
    " ",
    "?",
    "na\u00efve \u00fcber stra\u00dfe \u00e5ngstr\u00f6m",
    "\u4f60\u597d\u4e16\u754c",
    "\u3053\u3093\u306b\u3061\u306f",
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440",
    "\u0645\u0631\u062d\u0628\u0627",
    "emoji \U0001f600 \U0001f680!",
    "e = mc^2; f(x) = x**2 + 1",
    "https://example.org/a?b=c&d=%20",
    "tab\tand\nnew line",
    "UPPER lower MiXeD",
    "x" * 150,
    "1234567890 12,345.67",
    "[SEP] is a token",
    "don't can't won't",
    "a\u0301 combining",
    "\u200bzero width",
    "(((((nested)))))",
]


def real_sentences():
    """500 texts: odd ones, short and long ones, and some of more than the 256 tokens that are read."""
    chance = random.Random(5)
    sentences = list(ODDITIES)
    while len(sentences) < 500:
        long = len(sentences) % 50 == 0
        words = [chance.choice(WORDS) for _ in range(400 if long else chance.randint(2, 60))]
        for _ in range(len(words) // 9):
            words[chance.randrange(len(words))] += chance.choice(",;:!")
        sentences.append((" ".join(words) + chance.choice(".?!")).capitalize())
    return sentences


def make_real(source):
    """The vectors as float16: that changes their directions by less than 1e-7."""
    sentences = real_sentences()
    model = SentenceTransformer(str(source), device="cpu", model_kwargs={"dtype": torch.float32})
    vectors = torch.from_numpy(model.encode(sentences)).to(torch.float16)
    save_file({"vectors": vectors}, MODELS / "all-minilm-l6-v2.golden.safetensors")
    write_json(MODELS / "all-minilm-l6-v2.golden.json", {"sentences": sentences}, indent=None)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument("--real", type=pathlib.Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    if arguments.real:
        make_real(arguments.real)
        return
    for name in arguments.names or encoders.REPOSITORIES:
        make(name)
    if not arguments.names:
        make_poolings()


if __name__ == "__main__":
    main()
