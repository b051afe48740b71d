"""Inter-modality-attention transformers for multimodal emotion recognition, in JAX/Flax."""

import importlib
from types import ModuleType

__version__ = "0.1.0"
__all__ = ["convert", "metrics", "models", "tasks"]


def __getattr__(name: str) -> ModuleType:
    # On first use: `import imat_jax` alone must not start JAX.
    if name in __all__:
        return importlib.import_module(f"imat_jax.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
