"""Checkpoints in PyTorch's two formats, byte by byte and without PyTorch."""

import argparse
import io
import json
import pickle
import struct
import zipfile

import ml_dtypes
import numpy as np

MAGIC = 0x1950A86A20F9469CFC6C
KINDS = {
    np.dtype(np.float32): "Float", np.dtype(np.float16): "Half", np.dtype(np.int64): "Long",
    np.dtype(ml_dtypes.bfloat16): "BFloat16",
}  # fmt: skip


class Tensor:
    """A view of `storage`, a flat array; offset and strides count numbers."""

    def __init__(self, storage, size, stride, offset=0, count=None):
        self.storage, self.size, self.stride, self.offset = storage, size, stride, offset
        self.count = len(storage) if count is None else count  # what the file claims


class Call:
    """A pickle's call of the function that is named."""

    def __init__(self, module, name, *arguments):
        self.module, self.name, self.arguments = module, name, arguments


def legacy(value, *, little_endian=True) -> bytes:
    """As `torch.save` wrote before 1.6."""
    storages = {}
    content = _pickle(value, storages, legacy=True)
    machine = {"protocol_version": 1001, "little_endian": little_endian}
    pickles = [_plain(MAGIC), _plain(1001), _plain(machine), content, _plain([*storages])]
    raw = [struct.pack("<q", len(s)) + s.tobytes() for s in storages.values()]
    return b"".join(pickles + raw)


def zipped(value, *, byteorder=b"little", compression=zipfile.ZIP_STORED) -> bytes:
    """As `torch.save` writes since 1.6."""
    storages, file = {}, io.BytesIO()
    content = _pickle(value, storages, legacy=False)
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("any/data.pkl", content)
        archive.writestr("any/byteorder", byteorder)
        for key, storage in storages.items():
            archive.writestr(f"any/data/{key}", storage.tobytes())
    return file.getvalue()


def safetensors(arrays) -> bytes:
    names = {np.dtype(np.float32): "F32", np.dtype(np.float16): "F16", np.dtype(np.int64): "I64"}
    names[np.dtype(ml_dtypes.bfloat16)] = "BF16"
    header, raw = {}, b""
    for name, array in arrays.items():
        span = [len(raw), len(raw) + array.nbytes]
        header[name] = {
            "dtype": names[array.dtype], "shape": array.shape, "data_offsets": span,
        }  # fmt: skip
        raw += array.tobytes()
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + raw


def _plain(value) -> bytes:
    return pickle.dumps(value, protocol=2)


def _pickle(value, storages, *, legacy) -> bytes:
    def emit(value) -> bytes:
        match value:
            case np.ndarray():
                strides = [s // value.itemsize for s in value.copy().strides]
                return emit(Tensor(value.ravel(), value.shape, strides))
            case Tensor():
                known = [key for key, s in storages.items() if s is value.storage]
                key = known[0] if known else str(len(storages))
                storages[key] = value.storage
                kind = KINDS[value.storage.dtype]
                pid = [emit(part) for part in ("storage", key, "cpu", value.count)]
                pid.insert(1, f"ctorch\n{kind}Storage\n".encode())
                storage = b"(" + b"".join(pid) + (b"N" if legacy else b"") + b"tQ"
                rest = emit((value.offset, tuple(value.size), tuple(value.stride), False))[1:-1]
                hooks = b"ccollections\nOrderedDict\n)R"
                return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + rest + hooks + b"tR"
            case Call():
                name = f"c{value.module}\n{value.name}\n".encode()
                return name + emit(value.arguments) + b"R"
            case argparse.Namespace():
                return b"cargparse\nNamespace\n)\x81" + emit(vars(value)) + b"b"
            case dict():  # an OrderedDict with an attribute, as the states of modules are
                items = b"".join(emit(k) + emit(v) for k, v in value.items())
                attributes = b"}" + emit("_metadata") + b"}s"
                return b"ccollections\nOrderedDict\n)R(" + items + b"u" + attributes + b"b"
            case tuple():
                return b"(" + b"".join(map(emit, value)) + b"t"
        return _plain(value)[2:-1]  # without protocol and stop

    return b"\x80\x02" + emit(value) + b"."
