"""Dropout whose mask is a hash of (key, position): free to draw, and the same on any mesh.

Bits of `jax.random` for every attention weight were about a sixth of the training step at the
published size (a profile on two CPU cores), and each call is a program of its own to compile.
Here a layer has two random words, drawn for all layers together by `jax.random`, and an element's
bits are an integer hash of the words and the element's index: XLA can fuse it into the
multiplication that uses it, and no element depends on another:
a sharded array has the same mask.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp

Keys = Iterator[jax.Array] | None  # uint32 [2], one a layer; None: deterministic


def layer_keys(key: jax.Array, at_once: int = 64) -> Iterator[jax.Array]:
    """Words [2] for one dropout layer after the other, without end, drawn `at_once` together."""
    for block in itertools.count():
        yield from jax.random.bits(jax.random.fold_in(key, block), (at_once, 2), jnp.uint32)


def keep(words: jax.Array, rate: float, shape: tuple[int, ...]) -> jax.Array:
    """bool `shape`, each True with probability 1 - `rate`, to within 2^-32."""
    return random_bits(words, shape) >= jnp.uint32(min(math.ceil(rate * 2**32), 2**32 - 1))


def dropout(x: jax.Array, rate: float, keys: Keys) -> jax.Array:
    """`x` with a share `rate` of its elements zeroed and the others scaled up; `x` if no keys."""
    if keys is None or rate == 0:
        return x
    return jnp.where(keep(next(keys), rate, x.shape), x * (1 / (1 - rate)), 0)


def random_bits(words: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """uint32 `shape`: the index of each element and two key `words` [2], hashed.

    The hash is "triple32" (Wellons, https://github.com/skeeto/hash-prospector), three rounds of
    multiply and shift; the second word goes in between, so that two layers' bits are not one
    another's in another order. An array of 2^32 elements would repeat.
    """
    x, stride = words[0], 1
    for axis in reversed(range(len(shape))):
        x += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride % 2**32)
        stride *= shape[axis]
    x ^= x >> 17
    x *= jnp.uint32(0xED5AD4BB)
    x ^= x >> 11
    x += words[1]
    x *= jnp.uint32(0xAC4C1B51)
    x ^= x >> 15
    x *= jnp.uint32(0x31848BAB)
    return x ^ (x >> 14)
