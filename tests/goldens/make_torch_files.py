#!/usr/bin/env python3
"""Makes tests/data/torch_files: what torch.save writes, honest and not, and what is in it.

    python tests/goldens/make_torch_files.py

Made with torch 2.15.0.

<name>.bin        honest files; goldens.json has {name: {tensor: {dtype, shape, hex}}}, elements row by row
refused/*.bin     files that must not load; what each is told is in tests/engine/weights/torch_file_test.cc
sharded/          tests/data/models/tiny-llama-bias again, as two files with their index
fp8.json          all numbers of E4M3, and matrices times their scales: {shape, block, scale, result} in hex
"""

import collections
import json
import pathlib
import pickle
import zipfile

import torch
from safetensors.torch import load_file

DATA = pathlib.Path(__file__).resolve().parents[1] / "data"
ROOT = DATA / "torch_files"
NAMES = {
    torch.bfloat16: "BF16",
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.int32: "I32",
    torch.int64: "I64",
    torch.int16: "I16",
}


class Tiny(torch.nn.Module):
    """Its state_dict has the attribute _metadata."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(3, 2)
        self.second = torch.nn.LayerNorm(2)


class RunsSomething:
    def __reduce__(self):
        return (print, ("this must never be printed",))


def honest():
    whole = torch.arange(24, dtype=torch.float32).reshape(4, 6) / 7
    types = {f"of.{name}": torch.arange(5).to(dtype) for dtype, name in NAMES.items()}
    views = {
        "whole": whole,
        "the_same": whole,
        "rows": whole[1:3],
        "columns": whole[:, 2:5],
        "transposed": whole.t(),
        "every_second": whole.to(torch.bfloat16)[::2, ::3],
        "permuted": torch.arange(24, dtype=torch.int16).reshape(2, 3, 4).permute(2, 0, 1),
        "number": torch.tensor(2.5),
        "empty": torch.empty(0, 3),
        "parameter": torch.nn.Parameter(torch.ones(2, dtype=torch.float16)),
    }
    torch.manual_seed(0)
    return {"types": types, "views": views, "module": Tiny().state_dict()}


def stored(tensor):
    raw = tensor.detach().contiguous().reshape(-1).view(torch.uint8) if tensor.numel() else torch.empty(0)
    return {
        "dtype": NAMES[tensor.dtype],
        "shape": list(tensor.shape),
        "hex": bytes(raw.tolist() if tensor.numel() else []).hex(),
    }


def repacked(source, target, **replaced):
    """Copies an archive with other bytes for some entries, named without their folder."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for entry in old.namelist():
            new.writestr(entry, replaced.get(entry.split("/", 1)[1].replace(".", "_"), old.read(entry)))


def make_refused(folder):
    folder.mkdir(exist_ok=True)
    one = {"a": torch.ones(2, 2)}
    values = {
        "runs_something": {"a": RunsSomething()},
        "list": {"a": [torch.ones(2)]},
        "list_at_the_top": [torch.ones(2)],
        "float": {"a": 0.5},
        "number": {"a": 5},
        "bytes": {"a": b"xyz"},
        "set": {"a": {1, 2}},
        "nested": {"state_dict": one},
        "key_is_no_text": {5: torch.ones(2)},
        "module": torch.nn.Linear(2, 2),
        "sparse": {"a": torch.eye(3).to_sparse()},
        "complex": {"a": torch.ones(2, dtype=torch.complex64)},
        "float8": {"a": torch.ones(2).to(torch.float8_e4m3fn)},
        "quantized_dtype": {"a": torch.float32},
        "repeated": {"a": torch.ones(1).expand(1000, 1000)},
        "object": {"a": collections.Counter("aab")},
    }
    for name, value in values.items():
        torch.save(value, folder / f"{name}.bin")
    torch.save(one, folder / "legacy.bin", _use_new_zipfile_serialization=False)
    honest_file = folder / "honest.tmp"
    torch.save(one, honest_file)
    with zipfile.ZipFile(honest_file) as archive:
        [pickle_name] = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        honest_pickle = archive.read(pickle_name)
    repacked(honest_file, folder / "big_endian.bin", byteorder=b"big")
    repacked(honest_file, folder / "short_storage.bin", **{"data/0": b"\0" * 12})
    repacked(honest_file, folder / "cut_pickle.bin", data_pkl=honest_pickle[:-8])
    repacked(honest_file, folder / "plain_pickle.bin", data_pkl=pickle.dumps({"a": 1.5}, protocol=0))
    with zipfile.ZipFile(folder / "compressed.bin", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", honest_pickle * 20)
    with zipfile.ZipFile(folder / "other_zip.bin", "w") as archive:
        archive.writestr("readme.txt", "nothing of torch's")
    honest_file.unlink()


def make_sharded(folder):
    folder.mkdir(exist_ok=True)
    source = DATA / "models/tiny-llama-bias"
    tensors = load_file(source / "model.safetensors")
    names = sorted(tensors)
    shards = {
        "pytorch_model-00001-of-00002.bin": names[: len(names) // 2],
        "pytorch_model-00002-of-00002.bin": names[len(names) // 2 :],
    }
    for shard, members in shards.items():
        torch.save({name: tensors[name] for name in members}, folder / shard)
    index = {
        "metadata": {"total_size": sum(t.nbytes for t in tensors.values())},
        "weight_map": {name: shard for shard, members in shards.items() for name in members},
    }
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index, indent=1) + "\n")
    (folder / "config.json").write_text((source / "config.json").read_text())


def hex_of(tensor):
    return bytes(tensor.contiguous().reshape(-1).view(torch.uint8).tolist()).hex()


def make_fp8():
    every = torch.arange(256, dtype=torch.int32).to(torch.uint8).view(torch.float8_e4m3fn)
    cases = []
    for shape, block, scale_shape, dtype in [
        ([5, 7], [2, 3], [3, 3], torch.float32),
        ([2, 5, 7], [2, 3], [2, 3, 3], torch.bfloat16),
        ([5, 7], None, [], torch.float32),
        ([5, 7], None, [5, 1], torch.float16),
    ]:
        torch.manual_seed(len(cases))
        weight = (torch.randn(shape) * 20).to(torch.float8_e4m3fn)
        scale = torch.rand(scale_shape).to(dtype)
        wide = scale.float()
        if block:
            wide = wide.repeat_interleave(block[0], -2).repeat_interleave(block[1], -1)
            wide = wide[..., : shape[-2], : shape[-1]]
        cases.append(
            {
                "shape": shape,
                "block": block or [0, 0],
                "weight": hex_of(weight),
                "scale_shape": scale_shape,
                "scale_dtype": NAMES[dtype],
                "scale": hex_of(scale),
                "result": hex_of(weight.float() * wide),
            }
        )
    (ROOT / "fp8.json").write_text(
        json.dumps({"every": hex_of(every.float()), "cases": cases}, indent=1) + "\n"
    )


def main():
    ROOT.mkdir(parents=True, exist_ok=True)
    files = honest()
    for name, tensors in files.items():
        torch.save(tensors, ROOT / f"{name}.bin")
    torch.save(files["views"], ROOT / "protocol4.bin", pickle_protocol=4)
    files["protocol4"] = files["views"]
    goldens = {
        file: {name: stored(tensor) for name, tensor in tensors.items()} for file, tensors in files.items()
    }
    (ROOT / "goldens.json").write_text(json.dumps(goldens, indent=1) + "\n")
    make_refused(ROOT / "refused")
    make_sharded(ROOT / "sharded")
    make_fp8()


if __name__ == "__main__":
    main()
