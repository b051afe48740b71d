"""Accelerators by their published peaks, for a device's share of them and for plans."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Chip:
    """One chip, as JAX counts devices (a v4 or v5p chip is one).

    Attributes:
      kind: what its `jax.Device.device_kind` begins with.
      flops: bfloat16, dense, a second.
      memory: bytes of HBM; `bandwidth`: bytes a second to it.
      links: bytes a second to its neighbours, all links together, one way.
      reach: devices that those links join; `network`: bytes a second a device beyond them.
    """

    kind: str
    flops: float
    memory: float
    bandwidth: float
    links: float
    reach: int
    network: float


# Google Cloud's TPU pages and NVIDIA's data sheets (SXM), as of 2026. A GPU node is taken to have 8
# GPUs and 400 Gbit/s of network for each.
CHIPS = {
    "v4": Chip("TPU v4", 275e12, 32 * 2**30, 1228e9, 300e9, 4096, 6.25e9),
    "v5e": Chip("TPU v5 lite", 197e12, 16 * 2**30, 819e9, 200e9, 256, 6.25e9),
    "v5p": Chip("TPU v5p", 459e12, 95 * 2**30, 2765e9, 600e9, 8960, 6.25e9),
    "v6e": Chip("TPU v6 lite", 918e12, 32 * 2**30, 1638e9, 448e9, 256, 12.5e9),
    "H100": Chip("NVIDIA H100", 989e12, 80e9, 3350e9, 450e9, 8, 50e9),
    "H200": Chip("NVIDIA H200", 989e12, 141e9, 4800e9, 450e9, 8, 50e9),
}


def of(device_kind: str) -> Chip | None:
    """The chip of a device, None where it is none of these."""
    return next((c for c in CHIPS.values() if device_kind.startswith(c.kind)), None)
