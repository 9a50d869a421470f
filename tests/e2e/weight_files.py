"""Weight files as tests want them: safetensors of zeros, and what torch.save would write."""

import io
import json
import pickle
import struct
import sys
import types
import zipfile


def write_zeros(path, shapes):
    """A safetensors file of F32 tensors that are all 0. The size of its header with the 8 bytes before."""
    header, end = {}, 0
    for name, shape in shapes.items():
        count = 1
        for length in shape:
            count *= length
        header[name] = {
            "dtype": "F32",
            "shape": shape,
            "data_offsets": [end, end + 4 * count],
        }
        end += 4 * count
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return 8 + len(text)


def read_safetensors(path):
    """Name -> (dtype, shape, bytes)."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    tensors = json.loads(data[8 : 8 + length])
    tensors.pop("__metadata__", None)
    body = data[8 + length :]
    return {n: (t["dtype"], t["shape"], body[slice(*t["data_offsets"])]) for n, t in tensors.items()}


STORAGES = {
    "F32": ("FloatStorage", 4),
    "BF16": ("BFloat16Storage", 2),
    "F16": ("HalfStorage", 2),
}


def write_torch(path, tensors):
    """What torch.save makes of a dictionary of tensors; torch itself is not there."""
    utils, torch = types.ModuleType("torch._utils"), types.ModuleType("torch")

    def rebuild(*_):
        raise AssertionError("only its name is written")

    rebuild.__module__, rebuild.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = rebuild
    for name, _ in STORAGES.values():
        setattr(torch, name, type(name, (), {"__module__": "torch"}))

    class Storage:
        def __init__(self, key, dtype, elements):
            self.id = (
                "storage",
                getattr(torch, STORAGES[dtype][0]),
                key,
                "cpu",
                elements,
            )

    class Tensor:
        def __init__(self, storage, shape):
            strides = [1]
            for length in reversed(shape[1:]):
                strides.insert(0, strides[0] * length)
            self.arguments = (
                storage,
                0,
                tuple(shape),
                tuple(strides[: len(shape)]),
                False,
                {},
            )

        def __reduce__(self):
            return rebuild, self.arguments

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return value.id if isinstance(value, Storage) else None

    state = {}
    for key, (name, (dtype, shape, data)) in enumerate(tensors.items()):
        state[name] = Tensor(Storage(str(key), dtype, len(data) // STORAGES[dtype][1]), shape)
    out = io.BytesIO()
    known = {name: sys.modules.get(name) for name in ("torch", "torch._utils")}
    sys.modules |= {"torch": torch, "torch._utils": utils}
    try:
        Pickler(out, protocol=2).dump(state)
    finally:
        for name, module in known.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", out.getvalue())
        archive.writestr("archive/byteorder", "little")
        for key, (_, _, data) in enumerate(tensors.values()):
            archive.writestr(f"archive/data/{key}", data)
        archive.writestr("archive/version", "3\n")
