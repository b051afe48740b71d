"""Our step and forward pass beside PyTorch's, same work, one run.

    python benchmarks/train_step.py [--lengths=real]

Published sizes (1024/512/256 features, 2 + 2 layers, 4 heads), batch 4, float32, L1 loss, AdamW,
dropout 0.1 in the step. Three programs: ours; `DenseSSEFT`, a plain PyTorch module of what the
reference computes; `FastSSEFT`, the best PyTorch we could write (one query, absorbed, fused AdamW).
Rounds alternate between them; the table gives medians and ratios, and the matmul rate of the
machine beside what we reach of it. `--lengths=real` gives ours and the best PyTorch real lengths
(text 13, audio 400, vision 120) and leaves the dense reference its fixed padding.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from flax import nnx
from torch_sseft import DenseSSEFT, FastSSEFT, fused_adamw, plain_adam

from imat_jax import convert

WIDTHS = {"text": 1024, "audio": 512, "vision": 256}
PUBLISHED = {"text": 512, "audio": 935, "vision": 300}
REAL = {"text": 13, "audio": 400, "vision": 120}


def make_batch(rows: int, frames: dict[str, int], padded: dict[str, int]) -> dict[str, np.ndarray]:
    """Random features of `frames` frames, padded to `padded`."""
    rng, batch = np.random.RandomState(0), {}
    for m, width in WIDTHS.items():
        real = rng.randn(rows, frames[m], width).astype(np.float32)  # the same whatever the padding
        batch[m] = np.pad(real, ((0, 0), (0, padded[m] - frames[m]), (0, 0)))
        batch[f"{m}_mask"] = np.tile(np.arange(padded[m]) < frames[m], (rows, 1))
    return batch


def ours(state_dict: dict, batch: dict, target: np.ndarray) -> tuple[Callable, Callable, float]:
    """(step, forward, multiply-adds of the forward pass) of imat_jax."""
    graphdef, params = nnx.split(convert.sseft(state_dict, num_heads=4), nnx.Param)
    tx = optax.adamw(1e-3, b1=0.9, b2=0.98, eps=1e-6, weight_decay=0.1)
    batch, target = jax.tree.map(jnp.asarray, (batch, target))
    key = jax.random.key(0)

    def loss(params, key):
        model = nnx.merge(graphdef, params)
        outputs, _ = model(batch, deterministic=False, rngs=nnx.Rngs(dropout=key))
        return jnp.abs(outputs - target).mean()

    def update(params, opt_state, step):
        value, grads = jax.value_and_grad(loss)(params, jax.random.fold_in(key, step))
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, step + 1, value

    infer = jax.jit(lambda p: nnx.merge(graphdef, p)(batch, deterministic=True)[0])
    forward_params = jax.tree.map(jnp.copy, params)  # the step gives its own away
    work = infer.lower(forward_params).compile().cost_analysis()["flops"] / 2
    step = jax.jit(update, donate_argnums=(0, 1))
    held = [(params, jax.jit(tx.init)(params), jnp.zeros((), jnp.int32))]

    def run_step() -> float:
        *state, value = step(*held.pop())
        held.append(tuple(state))
        return float(value)

    return run_step, lambda: float(infer(forward_params).sum()), work


def theirs(module, optimizer, batch: dict, target: np.ndarray) -> tuple[Callable, Callable]:
    """(step, forward) of a PyTorch module."""
    batch = {k: torch.from_numpy(v) for k, v in batch.items()}
    target = torch.from_numpy(target)

    def run_step() -> float:
        module.train()
        optimizer.zero_grad(set_to_none=True)
        loss = (module(batch)[0] - target).abs().mean()
        loss.backward()
        optimizer.step()
        return loss.item()

    def forward() -> float:
        module.eval()
        with torch.inference_mode():
            return module(batch)[0].sum().item()

    return run_step, forward


def matmul_rate(size: int = 2048) -> float:
    """The better of JAX's and PyTorch's rates for a square float32 product, in GMAC/s."""
    a = np.random.RandomState(0).randn(size, size).astype(np.float32)
    product = jax.jit(jnp.matmul)
    x, y = jnp.asarray(a), torch.from_numpy(a)
    calls = (lambda: product(x, x).block_until_ready(), lambda: y @ y)
    return size**3 / 1e9 / min(min(seconds(call) for _ in range(5)) for call in calls)


def seconds(call: Callable) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", choices=("published", "real"), default="published")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=4)
    args = parser.parse_args()

    frames = PUBLISHED if args.lengths == "published" else REAL
    padded = {m: -(-t // 8) * 8 if t > 8 else t for m, t in frames.items()}
    padded = PUBLISHED if args.lengths == "published" else padded
    target = np.random.RandomState(1).randn(args.batch, 1).astype(np.float32)
    fixed, fitted = (make_batch(args.batch, frames, p) for p in (PUBLISHED, padded))
    torch.manual_seed(0)
    dense = DenseSSEFT()
    state_dict = {k: v.detach().numpy().copy() for k, v in dense.state_dict().items()}
    fast = FastSSEFT()
    fast.load_state_dict(dense.state_dict())
    jax_step, jax_forward, work = ours(state_dict, fitted, target)
    programs = {
        "imat_jax": (jax_step, jax_forward),
        "dense PyTorch": theirs(dense, plain_adam(dense), fixed, target),
        "best PyTorch": theirs(fast, fused_adamw(fast), fitted, target),
    }
    sums = [forward() for _, forward in programs.values()]
    np.testing.assert_allclose(sums, sums[0], atol=1e-4)  # the same function

    times: dict[str, tuple[list, list]] = {name: ([], []) for name in programs}
    for turn in range(args.rounds + 1):
        for name, calls in programs.items():
            for values, call in zip(times[name], calls, strict=True):
                elapsed = seconds(call)
                if turn:  # the first turn compiles
                    values.append(elapsed)
    rate = matmul_rate()
    print(f"{args.lengths} lengths, batch {args.batch}, matmul rate {rate:.0f} GMAC/s")
    print(f"{'':<16}{'step ms':>10}{'forward ms':>12}{'step ratio':>12}{'forward ratio':>15}")
    base = [statistics.median(v) for v in times["imat_jax"]]
    for name, values in times.items():
        step, forward = (statistics.median(v) for v in values)
        ratios = f"{step / base[0]:>11.2f}x{forward / base[1]:>14.2f}x"
        print(f"{name:<16}{step * 1e3:>10.0f}{forward * 1e3:>12.0f}{ratios}")
    reached = work / 1e9 / rate  # seconds that the forward pass would take at the matmul rate
    print(
        f"ours: {work / 1e9:.1f} GMAC forward, {reached / base[1]:.0%} of the matmul rate; "
        f"step about three times that, {3 * reached / base[0]:.0%}"
    )


if __name__ == "__main__":
    main()
