"""Arrays that stay in their file until rows of them are asked for."""

from __future__ import annotations

import io
import os
import pathlib
import shutil
import tempfile
import zipfile
from collections.abc import Container
from typing import IO, Any, NamedTuple

import numpy as np

from imat_jax.data.corpus import DataError

EMPTY = 1 << 24  # longest axis of an array without bytes


class Span(NamedTuple):
    """Bytes that were left in the file; `is_text`: they are Python 2's `str`."""

    offset: int
    length: int
    is_text: bool = False


class Array:
    """A NumPy array whose bytes are in memory, or still in a file.

    `array[i]` and `array[i:j]` read these rows, `np.asarray(array)` the whole. Safe in threads.

    Args:
      path: the file that a `Span` points into.
      raw: bytes, `Span`, or for arrays of objects the list of them.
      fortran: whether the first axis varies fastest.

    Raises:
      ValueError: `raw` has not as many bytes as an array of this shape.
    """

    def __init__(
        self, path: pathlib.Path, raw: Any, dtype: np.dtype, shape: tuple, fortran: bool = False
    ):
        self._path, self._raw, self._fortran = path, raw, fortran
        self.dtype, self.shape = np.dtype(dtype), tuple(int(n) for n in shape)
        # In Python's integers, which do not overflow.
        self.size = 1
        for n in self.shape:
            self.size *= n
        item = 1 if self.dtype.hasobject else self.dtype.itemsize
        length = raw.length if isinstance(raw, Span) else len(raw)
        # What takes no bytes can have any shape; loops over it would not end.
        endless = not self.size * item and max(self.shape, default=0) > EMPTY
        if min(self.shape, default=0) < 0 or length != self.size * item or endless:
            raise ValueError(f"an array of shape {self.shape}, {dtype} has {length} bytes")

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        return self.dtype.itemsize * self.size

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __getitem__(self, which: int | slice) -> Any:
        if isinstance(self._raw, Span) and self._fortran:
            where = dict(mode="r", offset=self._raw.offset, shape=self.shape, order="F")
            return np.array(np.memmap(self._path, self.dtype, **where)[which])
        if not isinstance(self._raw, Span):
            return np.asarray(self)[which]
        if not isinstance(which, slice):
            if not -len(self) <= which < len(self):
                raise IndexError(which)
            start = which % len(self)
            values = self._rows(start, start + 1)[0]
            return values if values.shape else values[()]
        start, stop, step = which.indices(len(self))
        return self._rows(start, max(start, stop))[::step]

    def _rows(self, start: int, stop: int) -> np.ndarray:
        row = self.nbytes // max(len(self), 1)
        with self._path.open("rb") as file:
            content = os.pread(file.fileno(), (stop - start) * row, self._raw.offset + start * row)
        return np.frombuffer(content, self.dtype).reshape(stop - start, *self.shape[1:])

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        order = "F" if self._fortran else "C"
        if self.dtype.hasobject:
            values = np.empty(len(self._raw), object)
            values[:] = self._raw
        elif isinstance(self._raw, Span):
            values = np.fromfile(self._path, self.dtype, self.size, offset=self._raw.offset)
        else:
            values = np.frombuffer(self._raw, self.dtype)
        values = values.reshape(self.shape, order=order)
        return values if dtype is None else values.astype(dtype)


def read_npz(
    path: pathlib.Path, names: Container[str], large: int = 1 << 26
) -> dict[str, np.ndarray | Array]:
    """The arrays `names` of an `.npz` archive; those of more than `large` bytes stay in a file.

    That file is the archive itself, or a temporary one for members that are compressed.

    Raises:
      DataError: not a readable archive, or it would have to be unpickled.
    """
    arrays: dict[str, np.ndarray | Array] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                name = info.filename.removesuffix(".npy")
                if name not in names:
                    continue
                if info.file_size <= large:
                    content = archive.read(info)
                    npy_header(io.BytesIO(content), len(content))
                    stream = io.BytesIO(content)
                    arrays[name] = np.lib.format.read_array(stream, allow_pickle=False)
                elif info.compress_type == zipfile.ZIP_STORED:
                    arrays[name] = _npy(path, _member_offset(path, info), info.file_size)
                else:
                    arrays[name] = _npy(_unpacked(archive, info), 0, info.file_size)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not a readable .npz archive without pickles: {error}") from error
    return arrays


def _member_offset(path: pathlib.Path, info: zipfile.ZipInfo) -> int:
    """Where a stored member's bytes start: after its local header, two fields of which vary."""
    with path.open("rb") as file:
        file.seek(info.header_offset + 26)
        name, extra = np.frombuffer(file.read(4), "<u2").tolist()
    return info.header_offset + 30 + name + extra


_temporary: list[tempfile.TemporaryDirectory] = []  # removed when the process ends


def _unpacked(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> pathlib.Path:
    if not _temporary:
        _temporary.append(tempfile.TemporaryDirectory(prefix="imat_jax-"))
    folder = pathlib.Path(_temporary[0].name)
    path = folder / str(len(os.listdir(folder)))
    with archive.open(info) as packed:
        npy_header(packed, info.file_size)  # before the room for it is taken
    if info.file_size > (free := shutil.disk_usage(folder).free):
        raise ValueError(f"{info.filename} unpacks to {info.file_size:,} bytes, {free:,} are free")
    with archive.open(info) as packed, path.open("wb") as file:
        shutil.copyfileobj(packed, file, 1 << 20)
    return path


def _npy(path: pathlib.Path, offset: int, size: int) -> Array:
    with path.open("rb") as file:
        file.seek(offset)
        shape, fortran, dtype = npy_header(file, size)
        if dtype.hasobject:
            raise ValueError("an array of objects")
        span = Span(file.tell(), size - (file.tell() - offset))
        return Array(path, span, dtype, shape, fortran)


def npy_header(file: IO[bytes], size: int) -> tuple[tuple[int, ...], bool, np.dtype]:
    """(shape, Fortran order, dtype) from where `file` stands; the array of `size` bytes fits them.

    Raises:
      ValueError: no such header, or it promises another number of bytes than there are.
    """
    start = file.tell()
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0
    if version != (1, 0):
        read = np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    promised = dtype.itemsize
    for n in shape:
        promised *= n
    there = size - (file.tell() - start)
    if not dtype.hasobject and promised != there:
        raise ValueError(f"a header for {promised:,} bytes where {there:,} follow")
    return shape, fortran, dtype
