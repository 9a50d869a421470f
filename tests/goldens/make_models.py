#!/usr/bin/env python3
"""Makes the tiny repositories below tests/data/models and their goldens with transformers.

    python tests/goldens/make_models.py            all tiny repositories
    python tests/goldens/make_models.py tiny-qwen3 these only
    python tests/goldens/make_models.py --real DIR the golden of SmolLM2-135M-Instruct in DIR

Made with torch 2.15.0 and transformers 5.23.0. Every repository is complete: weights, config,
generation config, tokenizer with a chat template. Its goldens lie beside it:

goldens.json         prompts (token ids), greedy (the 32 tokens that float32 chooses after each),
                     bf16_mean and bf16_max (distance of transformers' own bfloat16 logits from the
                     float32 ones over all positions of prompt and greedy tokens)
goldens.safetensors  logits.<i>: float32 [prompt + greedy - 1, vocab], row t follows token t
"""

import argparse
import json
import pathlib
import shutil

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

ROOT = pathlib.Path(__file__).resolve().parents[1] / "data" / "models"
VOCAB = 320
GREEDY_TOKENS = 32
PROMPT_LENGTHS = (1, 6, 19)
# A golden token must win by this share of the largest |logit|, so that no rounding decides it.
MARGIN = 2e-3

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] "
    "+ '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

# What the tokenizer learns its merges from.
CORPUS = [
    "The capital of France is Paris. The capital of Italy is Rome.",
    "One model is loaded once, and every request is answered by it.",
    "user assistant system and the answer to the question is in the text.",
    "What is the name of the river that flows through the town?",
]

COMMON = {
    "vocab_size": VOCAB,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "initializer_range": 0.02,
    "use_cache": True,
}
LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **COMMON}
QWEN2 = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", **COMMON}
QWEN3 = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", **COMMON}


def sizes(hidden, inter, layers, heads, kv_heads, context=2048):
    return {
        "hidden_size": hidden,
        "intermediate_size": inter,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": context,
    }


# name -> (config.json as published, dtype of the file, shards)
REPOSITORIES = {
    # The spelling of most published repositories: rope_theta, no head_dim.
    "tiny-llama": (
        LLAMA
        | sizes(64, 128, 2, 4, 2)
        | {"rope_theta": 10000.0, "tie_word_embeddings": False, "torch_dtype": "bfloat16"},
        torch.bfloat16,
        1,
    ),
    # Everything that Llama's configuration can switch on.
    "tiny-llama-bias": (
        LLAMA
        | sizes(64, 96, 2, 4, 1)
        | {
            "rope_theta": 500000.0,
            "rope_scaling": {
                "factor": 4.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
                "rope_type": "llama3",
            },
            "attention_bias": True,
            "mlp_bias": True,
            "tie_word_embeddings": True,
            "torch_dtype": "float16",
        },
        torch.float16,
        1,
    ),
    # float32 in the file, three layers, no grouping of heads, the old key of linear scaling.
    "tiny-llama-linear": (
        LLAMA
        | sizes(32, 64, 3, 4, 4)
        | {
            "rope_theta": 10000.0,
            "rope_scaling": {"type": "linear", "factor": 2.0},
            "tie_word_embeddings": True,
            "torch_dtype": "float32",
        },
        torch.float32,
        1,
    ),
    "tiny-llama-sharded": (
        LLAMA
        | sizes(48, 96, 3, 4, 2)
        | {
            "head_dim": 16,
            "rope_parameters": {"rope_theta": 20000.0, "rope_type": "default"},
            "tie_word_embeddings": False,
            "dtype": "bfloat16",
        },
        torch.bfloat16,
        3,
    ),
    "tiny-qwen2": (
        QWEN2
        | sizes(64, 128, 2, 4, 2)
        | {
            "rms_norm_eps": 1e-6,
            "rope_theta": 1000000.0,
            "max_window_layers": 2,
            "sliding_window": 1024,
            "use_sliding_window": False,
            "tie_word_embeddings": True,
            "torch_dtype": "bfloat16",
        },
        torch.bfloat16,
        1,
    ),
    # head_dim is not hidden / heads, and the new spelling of rope.
    "tiny-qwen3": (
        QWEN3
        | sizes(64, 96, 2, 4, 2)
        | {
            "head_dim": 32,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default"},
            "attention_bias": False,
            "tie_word_embeddings": True,
            "dtype": "bfloat16",
        },
        torch.bfloat16,
        1,
    ),
}


def write_json(path, value, indent=2):
    path.write_text(json.dumps(value, indent=indent) + "\n")


def write_tokenizer(folder):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    assert tokenizer.get_vocab_size() == VOCAB
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<|im_start|>",
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "clean_up_tokenization_spaces": False,
            "model_max_length": 2048,
            "chat_template": CHAT_TEMPLATE,
        },
    )


def randomise(model, seed):
    """Weights large enough that the logits differ clearly."""
    generator = torch.Generator().manual_seed(seed)
    # A tied head with large embeddings or small layers would only repeat its input.
    embedding, layer = (0.2, 1.5) if model.config.tie_word_embeddings else (0.5, 1.1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("norm.weight"):
                parameter.copy_(1 + 0.1 * noise)
            elif name.endswith(".bias"):
                parameter.copy_(0.1 * noise)
            elif "embed_tokens" in name or "lm_head" in name:
                parameter.copy_(embedding * noise)
            else:
                parameter.copy_(noise * layer / parameter.shape[1] ** 0.5)


def save_weights(model, folder, dtype, shards):
    tied = model.config.tie_word_embeddings
    tensors = {
        name: value.detach().to(dtype).contiguous()
        for name, value in model.state_dict().items()
        if not (tied and name == "lm_head.weight")
    }
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names = sorted(tensors)
    weight_map = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = {name: tensors[name] for name in names[shard::shards]}
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(part, file))
    total = sum(value.numel() * value.element_size() for value in tensors.values())
    write_json(
        folder / "model.safetensors.index.json",
        {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))},
    )


def greedy(model, prompt, count):
    """The chosen tokens and the smallest margin by which one won, as a share of the largest logit."""
    tokens = list(prompt)
    margin = 1.0
    for _ in range(count):
        logits = model(torch.tensor([tokens])).logits[0, -1]
        best = logits.topk(2).values
        margin = min(margin, float((best[0] - best[1]) / logits.abs().max()))
        tokens.append(int(logits.argmax()))
    return tokens[len(prompt) :], margin


@torch.inference_mode()
def goldens(folder, prompts):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    rounded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    chosen, logits, distances = [], {}, []
    for index, prompt in enumerate(prompts):
        tokens, margin = greedy(model, prompt, GREEDY_TOKENS)
        if margin < MARGIN or len(set(tokens)) < 8:
            return None
        fed = torch.tensor([prompt + tokens[:-1]])
        chosen.append(tokens)
        logits[f"logits.{index}"] = model(fed).logits[0].contiguous()
        distances.append((rounded(fed).logits[0].float() - logits[f"logits.{index}"]).abs().flatten())
    distance = torch.cat(distances)
    save_file(logits, folder / "goldens.safetensors")
    write_json(
        folder / "goldens.json",
        {
            "prompts": prompts,
            "greedy": chosen,
            "bf16_mean": float(distance.mean()),
            "bf16_max": float(distance.max()),
        },
        indent=None,
    )
    return distance


def make(name):
    config, dtype, shards = REPOSITORIES[name]
    folder = ROOT / name
    generator = torch.Generator().manual_seed(7)
    prompts = [torch.randint(3, VOCAB, (length,), generator=generator).tolist() for length in PROMPT_LENGTHS]
    for seed in range(200):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_json(folder / "config.json", config)
        write_json(
            folder / "generation_config.json",
            {"bos_token_id": 1, "eos_token_id": [2, 0], "pad_token_id": 0, "do_sample": False},
        )
        write_tokenizer(folder)
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
        randomise(model, seed)
        save_weights(model, folder, dtype, shards)
        distance = goldens(folder, prompts)
        if distance is not None:
            print(name, "seed", seed, "bf16 mean", float(distance.mean()), "max", float(distance.max()))
            return
    raise SystemExit(f"{name}: no seed gives clear winners")


REAL_CHATS = [
    "What is the capital of France?",
    "Write a short poem about the sea.",
    "Explain in two sentences why the sky is blue.",
    "List three fruits and their colours.",
    "Translate 'good morning' into Spanish and German.",
]
REAL_TOKENS = 64
REAL_TOP = 32


@torch.inference_mode()
def make_real(source):
    tokenizer = AutoTokenizer.from_pretrained(source)
    exact = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    rounded = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16).eval()
    chats, every, listed = [], [], []
    for question in REAL_CHATS:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
        )
        prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
        tokens = exact.generate(
            torch.tensor([prompt]),
            do_sample=False,
            min_new_tokens=0,
            max_new_tokens=REAL_TOKENS,
            eos_token_id=-1,
            pad_token_id=0,
        )[0, len(prompt) :].tolist()
        fed = torch.tensor([prompt + tokens[:-1]])
        rows = exact(fed).logits[0, len(prompt) - 1 :]
        distance = (rounded(fed).logits[0, len(prompt) - 1 :].float() - rows).abs()
        top = rows.topk(REAL_TOP)
        every.append(distance.flatten())
        listed.append(distance.gather(1, top.indices).flatten())
        chats.append(
            {
                "question": question,
                "prompt": prompt,
                "greedy": tokens,
                "largest": [round(float(x), 5) for x in rows.abs().max(dim=1).values],
                "top_ids": top.indices.tolist(),
                "top_logits": [[round(float(x), 5) for x in row] for row in top.values],
            }
        )
    every, listed = torch.cat(every), torch.cat(listed)
    write_json(
        ROOT / "smollm2-135m-instruct.golden.json",
        {
            "source": "HuggingFaceTB/SmolLM2-135M-Instruct",
            "bf16_mean": float(every.mean()),
            "bf16_max": float(every.max()),
            "bf16_top_mean": float(listed.mean()),
            "bf16_top_max": float(listed.max()),
            "chats": chats,
        },
        indent=None,
    )
    print("real: bf16 mean", float(every.mean()), "max", float(every.max()))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument("--real", type=pathlib.Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    if arguments.real:
        make_real(arguments.real)
    else:
        for name in arguments.names or REPOSITORIES:
            make(name)


if __name__ == "__main__":
    main()
