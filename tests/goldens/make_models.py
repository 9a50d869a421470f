#!/usr/bin/env python3
"""Makes the tiny repositories below tests/data/models and their goldens with transformers.

    python tests/goldens/make_models.py            all tiny repositories
    python tests/goldens/make_models.py tiny-qwen3 these only
    python tests/goldens/make_models.py --real DIR the golden of SmolLM2-135M-Instruct in DIR

Made with torch 2.15.0 and transformers 5.23.0. The repositories of this file are complete: weights,
config, generation config, tokenizer with a chat template; those of architectures.py, mixtures.py
and hybrids.py have weights and config. Their goldens lie beside them:

goldens.json         prompts (token ids), greedy (the 32 tokens that float32 chooses after each),
                     settled_row (logits of rows before it depend on how a prompt is cut),
                     bf16_mean and bf16_max (distance of transformers' own bfloat16 logits from the
                     float32 ones over all positions of prompt and greedy tokens; the largest one
                     of its two ways to compute attention)
goldens.safetensors  logits.<i>: float32 [prompt + greedy - 1, vocab], row t follows token t
"""

import argparse
import json
import pathlib
import shutil
import tempfile

import architectures
import hybrids
import mixtures
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer
from transformers.integrations.mxfp4 import convert_moe_packed_tensors
from transformers.utils import logging

ROOT = pathlib.Path(__file__).resolve().parents[1] / "data" / "models"
VOCAB = 320
GREEDY_TOKENS = 32
TINIEST = architectures.REPOSITORIES | mixtures.REPOSITORIES | hybrids.REPOSITORIES
PROMPT_LENGTHS = (1, 6, 19)
# A golden token must win by this share of the largest |logit|, so that no rounding decides it.
MARGIN = 2e-3
# And a chosen expert by this share of the spread of its router's logits: bfloat16 must not choose
# another one, or distances say nothing.
ROUTER_MARGIN = 2e-2
# The largest distance of the reference's bfloat16, over the mean one, is a bar for others only where
# it was not lucky and chose no other expert.
LARGEST_OVER_MEAN = (8, 20)

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


def embedding_multiplier(model):
    config = model.config.get_text_config()
    if config.model_type.startswith("gemma"):
        return config.hidden_size**0.5
    return getattr(config, "embedding_multiplier", 1.0)


def randomise(model, seed):
    """Weights large enough that the logits differ clearly."""
    generator = torch.Generator().manual_seed(seed)
    # A tied head with large embeddings or small layers would only repeat its input.
    tied = model.config.get_text_config().tie_word_embeddings
    embedding, layer = (0.2, 1.5) if tied else (0.5, 1.1)
    if tied:
        embedding /= embedding_multiplier(model)
    is_moe = any(type(module).__name__.lower().endswith("router") for module in model.modules())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith(".bias"):
                parameter.copy_(0.1 * noise)
            elif name.endswith("sinks"):
                parameter.copy_(noise)
            elif parameter.dim() == 1:  # a norm, whose weight starts at 1, or at 0 for Gemma
                parameter.copy_(parameter + 0.1 * noise)
            elif any(part in name for part in ("embed_tokens", "embed_in", "embed_out", "lm_head", "wte")):
                parameter.copy_(embedding * noise)
                if is_moe and "lm_head" not in name:
                    parameter[:, 0] = 2 * embedding
            elif name.endswith(
                ("mlp.gate.weight", "mlp.router.weight", "moe.router.weight", "router.proj.weight")
            ):
                # Mostly by the coordinate that all tokens share, so that few choices are close.
                noise[:, 0] *= 8
                parameter.copy_(noise * layer / parameter.shape[-1] ** 0.5)
            elif "wpe" in name:
                parameter.copy_(0.5 * embedding * noise)
            else:
                parameter.copy_(noise * layer / parameter.shape[-1] ** 0.5)
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.copy_(torch.randn(buffer.shape, generator=generator))
            elif name.endswith("layer_scalar"):
                buffer.copy_(1 + 0.1 * torch.randn(buffer.shape, generator=generator))


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


def greedy(model, prompt, is_clear=lambda margin: True):
    """The chosen tokens; None as soon as one wins by a margin, as a share of the largest logit, that
    is not clear."""
    tokens = list(prompt)
    for _ in range(GREEDY_TOKENS):
        logits = model(torch.tensor([tokens])).logits[0, -1]
        best = logits.topk(2).values
        if not is_clear(float((best[0] - best[1]) / logits.abs().max())):
            return None
        tokens.append(int(logits.argmax()))
    return tokens[len(prompt) :]


@torch.inference_mode()
def has_clear_winners(model, prompts):
    """Whether no choice of a token or an expert hangs on rounding."""
    router_margin = watch_routers(model)

    def is_clear(margin):
        return margin >= MARGIN and router_margin[0] >= ROUTER_MARGIN

    for prompt in prompts:
        tokens = greedy(model, prompt, is_clear)
        if tokens is None or len(set(tokens)) < 8:
            return False
    return True


def choice_margin(router, logits, count):
    """By how much the last chosen one was ahead, of groups and of experts."""

    def gap(scores, count):
        best = scores.sort(dim=-1, descending=True).values
        return 1.0 if count == best.shape[-1] else float((best[..., count - 1] - best[..., count]).min())

    bias = getattr(router, "e_score_correction_bias", None)
    scores = logits if bias is None else logits.sigmoid() + bias
    spread = float(scores.std())
    groups = getattr(router, "num_group", None) or 1
    if groups == 1:
        return gap(scores, count) / spread
    grouped = scores.unflatten(-1, (groups, -1))
    of_group = grouped.amax(-1) if bias is None else grouped.topk(2, -1).values.sum(-1)
    chosen = of_group.topk(router.topk_group, -1).indices
    hidden = torch.ones_like(of_group, dtype=torch.bool).scatter(-1, chosen, False)
    allowed = grouped.masked_fill(hidden.unsqueeze(-1), -10.0).flatten(-2)
    return min(gap(of_group, router.topk_group), gap(allowed, count)) / spread


def watch_routers(model):
    """The smallest margin by which an expert was chosen, as a share of the logits' spread, in a list."""
    margin = [1.0]

    def look(module, inputs, output):
        margin[0] = min(margin[0], choice_margin(module, output[0].float(), output[-1].shape[-1]))

    for module in model.modules():
        if type(module).__name__.lower().endswith("router"):
            module.register_forward_hook(look)
    return margin


def settled_row(config):
    """Longrope takes other frequencies, for all tokens, once a sequence outgrows the first context."""
    rope = getattr(config, "rope_parameters", None) or {}
    return rope["original_max_position_embeddings"] if rope.get("rope_type") == "longrope" else 0


def rounded_distance(folder, prompts, chosen, logits):
    """The mean distance of bfloat16 logits from `logits`, and the largest one of the reference's two ways
    to compute attention: which of them has an unlucky rounding is chance."""
    figures = []
    for attention in (None, "eager"):  # None: the default of the class
        model = (
            class_of(folder)
            .from_pretrained(folder, dtype=torch.bfloat16, attn_implementation=attention)
            .eval()
        )
        distances = []
        for index, (prompt, tokens) in enumerate(zip(prompts, chosen, strict=True)):
            rounded = model(torch.tensor([prompt + tokens[:-1]])).logits[0].float()
            distances.append((rounded - logits[f"logits.{index}"]).abs().flatten())
        distance = torch.cat(distances)
        figures.append((float(distance.mean()), float(distance.max())))
    return figures[0][0], max(figures[0][1], figures[1][1])


@torch.inference_mode()
def goldens(folder, source, prompts):
    model = class_of(source).from_pretrained(source, dtype=torch.float32).eval()
    chosen, logits = [], {}
    for index, prompt in enumerate(prompts):
        tokens = greedy(model, prompt)
        fed = torch.tensor([prompt + tokens[:-1]])
        chosen.append(tokens)
        logits[f"logits.{index}"] = model(fed).logits[0].contiguous()
    mean, largest = rounded_distance(source, prompts, chosen, logits)
    share = largest / mean
    if not LARGEST_OVER_MEAN[0] <= share <= LARGEST_OVER_MEAN[1]:
        return None
    save_file(logits, folder / "goldens.safetensors")
    write_json(
        folder / "goldens.json",
        {
            "prompts": prompts,
            "greedy": chosen,
            "settled_row": settled_row(model.config),
            "bf16_mean": mean,
            "bf16_max": largest,
        },
        indent=None,
    )
    return mean, largest


def make(name):
    complete = name in REPOSITORIES
    config, dtype, shards = REPOSITORIES[name] if complete else TINIEST[name]
    folder = ROOT / name
    generator = torch.Generator().manual_seed(7)
    vocab = config.get("text_config", config)["vocab_size"]
    prompts = [torch.randint(3, vocab, (length,), generator=generator).tolist() for length in PROMPT_LENGTHS]
    for seed in range(4000):
        dense = {key: value for key, value in config.items() if key != "quantization_config"}
        images = "vision_config" in config
        torch.manual_seed(seed)  # some parameters keep what their class draws
        made = AutoModelForImageTextToText if images else AutoModelForCausalLM
        model = made.from_config(AutoConfig.for_model(**dense)).eval()
        randomise(model, seed)
        packed = pack_experts(model, seed) if dense != config else {}
        if not has_clear_winners(model.to(dtype).to(torch.float32), prompts):
            continue
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_json(folder / "config.json", config)
        if complete:
            write_json(
                folder / "generation_config.json",
                {"bos_token_id": 1, "eos_token_id": [2, 0], "pad_token_id": 0, "do_sample": False},
            )
            write_tokenizer(folder)
        if complete:
            save_weights(model, folder, dtype, shards)
        else:
            save_published(model, folder, dtype, shards)
            write_json(folder / "config.json", config)
        with tempfile.TemporaryDirectory() as temporary:
            source = folder
            if packed:
                source = pathlib.Path(temporary) / "dense"
                shutil.copytree(folder, source)
                write_json(source / "config.json", dense)
                replace_experts(folder / "model.safetensors", packed)
            distance = goldens(folder, source, prompts)
        if distance is not None:
            print(name, "seed", seed, "bf16 mean and max", *distance)
            return
    raise SystemExit(f"{name}: no seed gives clear winners")


def class_of(folder):
    config = json.loads((folder / "config.json").read_text())
    return AutoModelForImageTextToText if "vision_config" in config else AutoModelForCausalLM


def pack_experts(model, seed):
    """Gives the experts weights that four bits and a scale hold; returns these by the dense name."""
    generator = torch.Generator().manual_seed(seed)
    packed = {}
    for name, parameter in model.named_parameters():
        if not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            continue
        experts, columns, rows = parameter.shape
        shape = (experts, rows, columns // 32, 16)
        blocks = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
        scales = torch.randint(122, 125, shape[:-1], generator=generator, dtype=torch.uint8)
        with torch.no_grad():
            parameter.copy_(convert_moe_packed_tensors(blocks, scales, dtype=torch.float32))
        packed[name] = (blocks, scales)
    return packed


def replace_experts(path, packed):
    tensors = load_file(path)
    for name, (blocks, scales) in packed.items():
        del tensors[name]
        tensors[f"{name}_blocks"], tensors[f"{name}_scales"] = blocks, scales
    save_file(tensors, path, metadata={"format": "pt"})


def save_published(model, folder, dtype, shards):
    """Under the names that published repositories have, which are not always those in memory."""
    total = sum(value.numel() * dtype.itemsize for value in model.state_dict().values())
    model.to(dtype).save_pretrained(folder, max_shard_size=total if shards == 1 else total // shards + 1)
    (folder / "generation_config.json").unlink(missing_ok=True)
    files = list(folder.glob("*.safetensors"))
    assert (len(files) == 1) == (shards == 1), files


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
        for name in arguments.names or REPOSITORIES | TINIEST:
            make(name)


if __name__ == "__main__":
    main()
