"""Read the pickles of strangers: data only, no code, and big arrays stay on disk.

`pickle.load` runs whatever the file says. Here the names that a pickle may use are a short list,
and NumPy's stand for functions of this file, not for the real ones: a pickle that names anything
else (`os.system`, `builtins.eval`, a class of its author) is refused, and nothing of it has run.

Arrays of more than a few kilobytes are not loaded: an `Array` remembers where its bytes lie in the
file and reads the rows that are asked for.
"""

from __future__ import annotations

import functools
import io
import os
import pathlib
import pickle
import re
import struct
import zipfile
from typing import Any, ClassVar

import numpy as np

from imat_jax.data.corpus import DataError
from imat_jax.data.lazy import Array, Span, npy_header

LAZY = 1 << 12  # bytes; what is shorter is kept in memory
SMALL_FILE = 1 << 28  # bytes; most that a member of an archive may unpack to


def load(path: str | os.PathLike) -> Any:
    """The object in the pickle at `path`; its arrays are of the class `Array`.

    Raises:
      DataError: not a pickle, truncated, or it names something that is not data.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    with path.open("rb") as file:
        return Unpickler(file, path.stat().st_size, path, lazy=True).load()


def load_npz(path: str | os.PathLike) -> dict[str, Any]:
    """Arrays of an `.npz` archive; object arrays, which `np.load` would unpickle, come as objects.

    Raises:
      DataError: as `load`, or a member that would unpack to more than 256 MB.
    """
    path = pathlib.Path(path)
    members: dict[str, Any] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if info.file_size > SMALL_FILE:
                    raise DataError(f"{path}: {info.filename} unpacks to {info.file_size:,} bytes")
                content = archive.read(info)
                members[info.filename.removesuffix(".npy")] = _npy(content, path)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: not a readable .npz archive: {error}") from error
    return members


def _npy(content: bytes, path: pathlib.Path) -> Any:
    stream = io.BytesIO(content)
    shape, _, dtype = npy_header(stream, len(content))
    if not dtype.hasobject:
        return np.load(io.BytesIO(content), allow_pickle=False)
    objects = np.asarray(Unpickler(stream, len(content), path, lazy=False).load())
    return objects.item() if shape == () else objects


class _Array(Array):
    """An `Array` that a pickle makes in two steps, as NumPy's reconstruct and set-state do."""

    def __init__(self, path: pathlib.Path):
        super().__init__(path, b"", np.dtype("u1"), (0,))

    def __setstate__(self, state) -> None:
        """(version, shape, dtype, Fortran order, bytes or list of objects), as NumPy writes it."""
        *_, shape, dtype, fortran, raw = state
        if isinstance(raw, str):
            raw = raw.encode("latin1")  # from Python 2
        super().__init__(self._path, raw, dtype.dtype, shape, bool(fortran))


class _DType:
    """Stands for `numpy.dtype`: numbers, strings and objects, no structures."""

    def __init__(self, code, align=False, copy=True):
        if not isinstance(code, str) or not re.fullmatch(r"[biufcUSO][0-9]*", code):
            raise pickle.UnpicklingError(f"arrays of dtype {code!r} are not read")
        self.dtype = np.dtype(code)

    def __setstate__(self, state) -> None:
        if any(part is not None for part in state[2:5]):
            raise pickle.UnpicklingError("structured arrays are not read")
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class Refused(pickle.UnpicklingError):
    """Names what a pickle wanted and may not have."""


class Unpickler(pickle._Unpickler):
    """The Python implementation of pickle, whose opcodes can be replaced one by one.

    Subclasses may allow more names (`_names`) and external objects (`persistent_load`).
    """

    dispatch: ClassVar = dict(pickle._Unpickler.dispatch)

    def __init__(self, file, size: int, path: pathlib.Path, *, lazy: bool):
        self._file, self._size, self._path, self._lazy = file, size, path, lazy
        super().__init__(file, encoding="latin1")
        self._allowed = self._names()

    def load(self) -> Any:
        try:
            return self._resolved(super().load())
        except Refused as error:
            raise DataError(
                f"{self._path}: this pickle wants to run or import {error}, which is not data; "
                "nothing of it was run. If you trust the file, load it where that package is "
                "installed and save plain NumPy arrays, strings, lists and dicts"
            ) from error
        except Exception as error:  # a broken pickle can break anywhere
            raise DataError(f"{self._path}: not a readable pickle: {error!r}") from error

    def find_class(self, module: str, name: str) -> Any:
        key = module.replace("numpy._core", "numpy.core"), name
        if key not in self._allowed:
            raise Refused(f"{module}.{name}")
        return self._allowed[key]

    def _names(self) -> dict[tuple[str, str], Any]:
        """{(module, name): what stands for it}, all that a pickle may name."""
        allowed = {
            ("numpy", "dtype"): _DType,
            ("numpy", "ndarray"): "ndarray",  # named by _reconstruct; nothing can be made of it
            ("numpy.core.multiarray", "_reconstruct"): lambda *_: _Array(self._path),
            ("numpy.core.multiarray", "scalar"): self._scalar,
            ("numpy.core.numeric", "_frombuffer"): self._frombuffer,
            ("collections", "OrderedDict"): functools.partial(_hashed, dict),
            ("collections", "defaultdict"): lambda *_: {},
            ("_codecs", "encode"): _encode,
        }
        for module_of_builtins in ("builtins", "__builtin__"):
            for kind in (complex, float, int, list, tuple):
                allowed[module_of_builtins, kind.__name__] = kind
            for kind in (bytearray, bytes):
                allowed[module_of_builtins, kind.__name__] = functools.partial(_characters, kind)
            for kind in (dict, set, frozenset):
                allowed[module_of_builtins, kind.__name__] = functools.partial(_hashed, kind)
            for alias in ("str", "unicode"):
                allowed[module_of_builtins, alias] = functools.partial(_characters, str)
            allowed |= {(module_of_builtins, "bool"): bool, (module_of_builtins, "long"): int}
        return allowed

    def persistent_load(self, pid) -> Any:
        raise Refused(f"the external object {pid!r}")

    def get_extension(self, code) -> Any:
        raise Refused(f"the registered extension {code}")

    def _frombuffer(self, raw, dtype: _DType, shape, order) -> Array:
        return Array(self._path, raw, dtype.dtype, shape, order == "F")

    def _scalar(self, dtype: _DType, raw=b"") -> Any:
        if dtype.dtype.hasobject:
            return raw
        return np.asarray(Array(self._path, raw, dtype.dtype, ()))[()]

    def _bounded(self, length: int) -> int:
        """`length`, if the rest of the file is that long; read before anything is allocated."""
        left = self._size - self._file.tell()
        if length > left:
            raise pickle.UnpicklingError(f"{length} bytes announced where {left} are left")
        return length

    def _load_blob(self, header: str, kind=bytes) -> None:
        (length,) = struct.unpack(header, self.read(struct.calcsize(header)))
        self._bounded(length)
        if self._lazy and length >= LAZY:
            self.append(Span(self._file.tell(), length))
            self._file.seek(length, os.SEEK_CUR)
        else:
            self.append(kind(self.read(length)))

    def _resolved(self, value: Any) -> Any:
        """`value` as it is kept in a list or dict: what is no array is not left in the file."""
        if isinstance(value, tuple) and any(isinstance(member, Span) for member in value):
            return tuple(map(self._resolved, value))
        if not isinstance(value, Span):
            return value
        content = os.pread(self._file.fileno(), value.length, value.offset)
        return content.decode("latin1") if value.is_text else content

    def _load_append(self) -> None:
        self.stack[-1] = self._resolved(self.stack[-1])
        super().load_append()

    def _load_appends(self) -> None:
        self.stack[:] = map(self._resolved, self.stack)
        super().load_appends()

    def _load_setitem(self) -> None:
        self.stack[-1] = self._resolved(self.stack[-1])
        _plain(self.stack[-2])
        super().load_setitem()

    def _load_setitems(self) -> None:
        self.stack[:] = map(self._resolved, self.stack)
        for key in self.stack[::2]:
            _plain(key)
        super().load_setitems()

    def _load_dict(self) -> None:
        self.stack[:] = map(self._resolved, self.stack)
        for key in self.stack[::2]:
            _plain(key)
        super().load_dict()

    def _load_list(self) -> None:
        self.stack[:] = map(self._resolved, self.stack)
        super().load_list()

    def _load_members(self) -> None:
        for member in self.stack:
            _plain(member)
        super().load_additems()

    def _load_frozenset(self) -> None:
        for member in self.stack:
            _plain(member)
        super().load_frozenset()

    def _load_text(self, header: str) -> None:
        (length,) = struct.unpack(header, self.read(struct.calcsize(header)))
        self.append(str(self.read(self._bounded(length)), "utf-8", "surrogatepass"))

    def _load_long(self, header: str) -> None:
        (length,) = struct.unpack(header, self.read(struct.calcsize(header)))
        self.append(pickle.decode_long(self.read(self._bounded(length))))

    def _load_python2(self, header: str) -> None:
        self._load_blob(header)
        last = self.stack[-1]
        if isinstance(last, Span):
            self.stack[-1] = last._replace(is_text=True)
        else:
            self.stack[-1] = last.decode("latin1")

    def _load_frame(self) -> None:
        self.read(8)  # a frame's length; only what is inside matters

    def _load_build(self) -> None:
        if not isinstance(self.stack[-2], _Array | _DType):
            raise Refused(f"the state of a {type(self.stack[-2]).__name__}")
        state = self.stack.pop()
        self.stack[-1].__setstate__(state)

    dispatch[pickle.FRAME[0]] = _load_frame
    dispatch[pickle.APPEND[0]] = _load_append
    dispatch[pickle.APPENDS[0]] = _load_appends
    dispatch[pickle.SETITEM[0]] = _load_setitem
    dispatch[pickle.SETITEMS[0]] = _load_setitems
    dispatch[pickle.DICT[0]] = _load_dict
    dispatch[pickle.LIST[0]] = _load_list
    dispatch[pickle.ADDITEMS[0]] = _load_members
    dispatch[pickle.FROZENSET[0]] = _load_frozenset
    dispatch[pickle.BUILD[0]] = _load_build
    dispatch[pickle.BINBYTES[0]] = lambda self: self._load_blob("<I")
    dispatch[pickle.BINBYTES8[0]] = lambda self: self._load_blob("<Q")
    dispatch[pickle.BYTEARRAY8[0]] = lambda self: self._load_blob("<Q", bytearray)
    dispatch[pickle.BINSTRING[0]] = lambda self: self._load_python2("<I")
    dispatch[pickle.BINUNICODE[0]] = lambda self: self._load_text("<I")
    dispatch[pickle.BINUNICODE8[0]] = lambda self: self._load_text("<Q")
    dispatch[pickle.LONG4[0]] = lambda self: self._load_long("<I")


def _characters(kind: type, *arguments: Any) -> Any:
    """bytes, bytearray or str, of characters only.

    Of a number it would be as many zeros as the number says, of nested tuples a text without end.
    """
    if arguments and not isinstance(arguments[0], bytes | bytearray | str | list):
        raise pickle.UnpicklingError(f"{kind.__name__} of a {type(arguments[0]).__name__}")
    return kind(*arguments)


def _hashed(kind: type, *arguments: Any) -> Any:
    """dict, set or frozenset whose keys are plain; pairs, where it is a dict."""
    for argument in arguments:
        for member in argument:
            _plain(member[0] if kind is dict and not isinstance(argument, dict) else member)
    return kind(*arguments)


def _plain(key: Any) -> Any:
    """`key`; the hash of a tuple of tuples can take for ever."""
    if not isinstance(key, str | bytes | int | float | complex | None | np.generic):
        raise pickle.UnpicklingError(f"a key or member of type {type(key).__name__}")
    return key


def _encode(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes for Python 2 to read."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"bytes in the encoding {encoding!r}")
    return text.encode("latin1")
