"""Self-attention's backends side by side, those that can run here: forward and backward.

    python benchmarks/attention.py [--dtype=bfloat16] [--frames=935 --width=512]

Sizes are the published streams': audio, text, vision, all rows of full length. Rounds alternate
between the backends; the table gives medians, their ratio to the plain form's, and the memory that
a program needs besides inputs and outputs. The cuDNN kernel takes bfloat16 only.
"""

from __future__ import annotations

import argparse
import statistics
import time

import jax
import jax.numpy as jnp

from imat_jax.models import backends

SIZES = [(935, 512), (512, 1024), (300, 256)]  # frames, width


def step(backend: str, q, k, v, mask):
    """The gradients of q, k and v."""

    def loss(qkv):
        out = backends.attend(*qkv, mask, backend=backend)
        return (out.astype(jnp.float32) ** 2).sum()

    return jax.grad(loss)((q, k, v))


def measure(frames: int, width: int, args) -> None:
    shape = (args.batch, args.heads, frames, width // args.heads)
    keys = jax.random.split(jax.random.key(0), 3)
    inputs = [jax.random.normal(key, shape, args.dtype) for key in keys]
    inputs.append(jnp.ones((args.batch, frames), bool))
    programs, memory = {}, {}
    for name in backends.BACKENDS:
        try:
            backends.choose(
                name, jax.devices()[0], dtype=args.dtype, head_widths=[shape[-1]], frames=frames,
                dropout=0,
            )  # fmt: skip
        except ValueError:  # not here, or not in this dtype
            continue
        call = jax.jit(step, static_argnums=0).lower(name, *inputs).compile()
        memory[name] = call.memory_analysis().temp_size_in_bytes / 2**20
        programs[name] = call
    times: dict[str, list[float]] = {name: [] for name in programs}
    for turn in range(args.rounds + 1):
        for name, call in programs.items():
            start = time.perf_counter()
            jax.block_until_ready(call(*inputs))
            if turn:  # the first is warming up
                times[name].append(time.perf_counter() - start)
    base = statistics.median(times["plain"])
    for name, values in times.items():
        middle = statistics.median(values)
        print(
            f"T={frames:<5} D={width:<5} H={args.heads} {name:<6} {middle * 1e3:>9.2f} ms "
            f"{middle / base:>6.2f}x  (fastest {min(values) * 1e3:.2f}) {memory[name]:>7.0f} MB"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--frames", type=int)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    print(f"batch {args.batch}, {args.dtype}, {jax.devices()[0].device_kind}")
    for frames, width in [(args.frames, args.width)] if args.frames else SIZES:
        measure(frames, width, args)


if __name__ == "__main__":
    main()
