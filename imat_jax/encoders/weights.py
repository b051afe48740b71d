"""Pretrained weights from files, without PyTorch and without running anything that is in them.

Reads safetensors, PyTorch's `.pt`, `.pth` and `.bin` in both of its formats (a zip archive since
1.6; before, pickles followed by raw storages) and directories of Hugging Face. The pickles inside
may name tensors, plain containers and settings, and nothing else; sizes are compared with the file
before room is made for them.
"""

from __future__ import annotations

import functools
import io
import json
import math
import os
import pathlib
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import ml_dtypes
import numpy as np

from imat_jax.data.builder import sha256
from imat_jax.data.corpus import DataError
from imat_jax.data.unpickle import Refused, Unpickler

DIRECTORY = ("model.safetensors", "pytorch_model.bin")  # or in pieces, with FILE.index.json
MAGIC = 0x1950A86A20F9469CFC6C  # of PyTorch's format before 1.6
DTYPES = {
    "Double": np.float64, "Float": np.float32, "Half": np.float16, "BFloat16": ml_dtypes.bfloat16,
    "Long": np.int64, "Int": np.int32, "Short": np.int16, "Char": np.int8, "Byte": np.uint8,
    "Bool": np.bool_,
}  # fmt: skip

Storage = Callable[[str, np.dtype, int], np.ndarray]  # (key, dtype, numbers) -> flat array


def load(path: str | os.PathLike) -> Any:
    """What was saved at `path`, tensors as NumPy arrays.

    Of safetensors and of a Hugging Face directory that is {name: array}; of PyTorch's formats
    whatever object was saved, such as {"args": {…}, "model": {name: array}}; an
    `argparse.Namespace` comes as a dict.

    Raises:
      DataError: no such file, truncated, big-endian, or it wants to run or import something.
    """
    found = files(path)
    if len(found) == 1:
        return _load_file(found[0])
    return {name: array for piece in found for name, array in named(piece).items()}


def named(path: str | os.PathLike) -> Mapping[str, Any]:
    """`load`, where it must be a mapping of names.

    Raises:
      DataError: as `load`, or it is something else.
    """
    saved = load(path)
    if not isinstance(saved, Mapping):
        raise DataError(f"{path}: holds a {type(saved).__name__}, not weights by name")
    return saved


def files(path: str | os.PathLike) -> list[pathlib.Path]:
    """The files that hold the weights: `path` itself, or those of a Hugging Face directory.

    Raises:
      DataError: there are none.
    """
    path = pathlib.Path(path)
    if path.is_file():
        return [path]
    for name in DIRECTORY:
        if (path / name).is_file():
            return [path / name]
        index = path / f"{name}.index.json"
        if index.is_file():
            return _pieces(index)
    if path.is_dir():
        raise DataError(f"{path}: neither {' nor '.join(DIRECTORY)} is there")
    raise DataError(f"{path}: no such file or folder")


def checkpoint(path: str | os.PathLike) -> str:
    """Name and SHA-256 of the weights, as datasets record them: `FILENAME sha256:HEX`."""
    return ", ".join(f"{file.name} sha256:{sha256(file)}" for file in files(path))


def _pieces(index: pathlib.Path) -> list[pathlib.Path]:
    try:
        names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise DataError(f"{index}: not an index of weights: {error!r}") from error
    for name in names:
        if pathlib.PurePath(name).name != name:
            raise DataError(f"{index}: names {name!r}, which is not in its folder")
        if not (index.parent / name).is_file():
            raise DataError(f"{index}: {name} is not there; copy all pieces into {index.parent}")
    return [index.parent / name for name in names]


def _load_file(path: pathlib.Path) -> Any:
    if path.suffix == ".safetensors":
        return _safetensors(path)
    with path.open("rb") as file:
        is_zip = file.read(4) == b"PK\x03\x04"
    return _zip(path) if is_zip else _legacy(path)


def _safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    import safetensors.numpy

    try:
        return safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise DataError(f"{path}: not a readable safetensors file: {error}") from error


def _zip(path: pathlib.Path) -> Any:
    """PyTorch's format since 1.6: ROOT/data.pkl, and the bytes of each storage in ROOT/data/KEY."""
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.partition("/")[2]: info for info in archive.infolist()}

            def read(name: str) -> bytes:
                info = members[name]
                if info.compress_type != zipfile.ZIP_STORED or info.file_size > size:
                    raise DataError(f"{path}: {name} unpacks to {info.file_size:,} bytes")
                return archive.read(info)

            @functools.cache  # tensors may share a storage
            def storage(key: str, dtype: np.dtype, count: int) -> np.ndarray:
                if members[f"data/{key}"].file_size != count * dtype.itemsize:
                    raise pickle.UnpicklingError(f"storage {key} does not hold {count} {dtype}")
                return np.frombuffer(read(f"data/{key}"), dtype)

            if "byteorder" in members and read("byteorder") != b"little":
                raise DataError(f"{path}: saved on a big-endian machine; save it again on another")
            saved = read("data.pkl")
            return _Checkpoint(io.BytesIO(saved), len(saved), path, storage).load()
    except KeyError as error:
        raise DataError(f"{path}: not a checkpoint of PyTorch: {error} is missing") from error
    except (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: not a readable checkpoint; is it complete? {error}") from error


def _legacy(path: pathlib.Path) -> Any:
    """PyTorch's format before 1.6: five pickles, then each storage as its length and its bytes."""
    size = path.stat().st_size
    arrays: dict[str, np.ndarray] = {}

    def storage(key: str, dtype: np.dtype, count: int) -> np.ndarray:
        if key not in arrays:
            if count * dtype.itemsize + sum(a.nbytes for a in arrays.values()) > size:
                raise pickle.UnpicklingError(f"{count} {dtype} in a file of {size:,} bytes")
            arrays[key] = np.empty(count, dtype)  # filled when its bytes come, after the pickles
        if (arrays[key].dtype, arrays[key].size) != (dtype, count):
            raise pickle.UnpicklingError(f"storage {key} in two sizes")
        return arrays[key]

    with path.open("rb") as file:

        def read() -> Any:
            return _Checkpoint(file, size, path, storage).load()

        if read() != MAGIC:
            raise DataError(f"{path}: a pickle, but not a checkpoint of PyTorch")
        version, machine, saved, keys = read(), read(), read(), read()
        if (version, machine.get("little_endian")) != (1001, True):
            raise DataError(f"{path}: format {version}, {machine}; save it again with PyTorch")
        if sorted(keys) != sorted(arrays):
            raise DataError(f"{path}: its tensors and its list of storages differ")
        for key in keys:
            header = file.read(8)
            complete = len(header) == 8 and struct.unpack("<q", header)[0] == arrays[key].size
            if not complete or file.readinto(arrays[key].view(np.uint8)) != arrays[key].nbytes:
                raise DataError(f"{path}: ends within its tensors; download or copy it again")
    return saved


class _Namespace(dict):
    """Stands for `argparse.Namespace`."""

    def __setstate__(self, state: dict) -> None:
        self.update(state)


class _Checkpoint(Unpickler):
    """What `torch.save` writes: data, tensors in storages, settings."""

    dispatch: ClassVar = dict(Unpickler.dispatch)

    def __init__(self, file, size: int, path: pathlib.Path, storage: Storage):
        super().__init__(file, size, path, lazy=False)
        self._storage = storage

    def _names(self) -> dict[tuple[str, str], Any]:
        names = super()._names() | {
            ("argparse", "Namespace"): _Namespace,
            ("torch", "Size"): tuple,
            ("torch", "device"): lambda *parts: ":".join(map(str, parts)),
            ("torch._utils", "_rebuild_tensor"): _tensor,
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
        }
        for name, dtype in DTYPES.items():
            names["torch", f"{name}Storage"] = np.dtype(dtype)
        for name in ("float64", "float32", "float16", "bfloat16", "int64", "int32", "bool"):
            names["torch", name] = name
        return names

    def persistent_load(self, pid) -> np.ndarray:
        match pid:
            case ("storage", np.dtype() as dtype, str(key), _, int(count), *view) if count >= 0:
                if any(part is not None for part in view):
                    raise Refused("a view of a storage, as PyTorch wrote before 0.4")
                return self._storage(key, dtype, count)
        return super().persistent_load(pid)

    def _load_build(self) -> None:
        target = self.stack[-2]
        if type(target) is dict:  # attributes of an OrderedDict, such as a module's versions
            self.stack.pop()
        elif isinstance(target, _Namespace):
            state = self.stack.pop()
            target.__setstate__(state)
        else:
            super()._load_build()

    dispatch[pickle.BUILD[0]] = _load_build


def _tensor(storage: np.ndarray, offset: int, size: tuple, stride: tuple, *_: Any) -> np.ndarray:
    """A view of `storage`; offset and strides count numbers, not bytes."""
    if not isinstance(storage, np.ndarray) or len(size) != len(stride):
        raise pickle.UnpicklingError("a tensor without storage, shape or strides")
    count = math.prod(size)
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if (
        min(offset, 0, *size, *stride) < 0
        or count > storage.size
        or (count and last >= storage.size)
    ):
        raise pickle.UnpicklingError(
            f"a tensor of shape {tuple(size)} at {offset} in {storage.size} numbers"
        )
    strides = [s * storage.itemsize for s in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], size, strides)
