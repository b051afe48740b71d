"""Compiled programs, kept on disk: a second run of the same shapes starts in seconds."""

from __future__ import annotations

import os

import jax


def keep() -> None:
    """In JAX_COMPILATION_CACHE_DIR, or where this user's caches are."""
    if not jax.config.jax_compilation_cache_dir:
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        jax.config.update("jax_compilation_cache_dir", os.path.join(cache, "imat_jax", "xla"))
