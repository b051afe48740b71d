"""FAb-Net's encoder and wav2vec 1.0 as plain PyTorch modules, under the names of their projects."""

from __future__ import annotations

import itertools
import math

import torch
from torch import nn


class FabNet(nn.Module):
    """frames [N, 3, 256, 256] in [0, 1] -> [N, 256] (`sse_ft` section 2.3)."""

    def __init__(self, channels=(3, 32, 64, 128, 256, 256, 256, 256, 256)):
        super().__init__()
        layers: list[nn.Module] = []
        last = len(channels) - 2
        for i, (inputs, outputs) in enumerate(itertools.pairwise(channels)):
            layers.append(nn.Conv2d(inputs, outputs, 4, 2, 1))
            if 0 < i < last:
                layers.append(nn.BatchNorm2d(outputs))
            if i < last:
                layers.append(nn.LeakyReLU(0.2))
        self.encoder = nn.Sequential(*layers)

    def forward(self, frames):
        return self.encoder(frames)[:, :, 0, 0]


class _Features(nn.Module):
    def __init__(self, layers, *, affine, activation):
        super().__init__()
        widths = [1, *(channels for channels, _, _ in layers)]
        self.conv_layers = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(inputs, channels, kernel, stride, bias=False),
                nn.Dropout(0.0),
                nn.GroupNorm(1, channels, affine=affine),
                activation,
            )
            for inputs, (channels, kernel, stride) in zip(widths, layers, strict=False)
        )


class _Aggregator(nn.Module):
    def __init__(self, layers, width, *, bias, zero_pad, skip, affine, activation):
        super().__init__()
        pad = (lambda n: nn.ConstantPad1d((n, 0), 0.0)) if zero_pad else _replicate
        widths = [width, *(channels for channels, _, _ in layers)]
        shapes = list(zip(widths, layers, strict=False))
        self.conv_layers = nn.Sequential(
            *(
                nn.Sequential(
                    pad(kernel - 1),
                    nn.Conv1d(inputs, channels, kernel, bias=bias),
                    nn.Dropout(0.0),
                    nn.GroupNorm(1, channels, affine=affine),
                    activation,
                )
                for inputs, (channels, kernel, _) in shapes
            )
        )
        self.residual_proj = nn.ModuleList(
            nn.Conv1d(inputs, channels, 1, bias=False) if skip and inputs != channels else None
            for inputs, (channels, _, _) in shapes
        )


def _replicate(count):
    return nn.ReplicationPad1d((count, 0))


class Wav2Vec(nn.Module):
    """wave [B, L] -> (z, c), each [B, T, C] (`sse_ft` section 2.2), all options of `args`."""

    def __init__(
        self, conv_feature_layers, conv_aggregator_layers, *, no_conv_bias=False,
        agg_zero_pad=False, skip_connections_feat=False, skip_connections_agg=False,
        residual_scale=0.5, log_compression=False, activation="relu", non_affine_group_norm=False,
    ):  # fmt: skip
        super().__init__()
        kw = dict(affine=not non_affine_group_norm)
        kw["activation"] = nn.ReLU() if activation == "relu" else nn.GELU()
        self.feature_extractor = _Features(conv_feature_layers, **kw)
        self.feature_aggregator = _Aggregator(
            conv_aggregator_layers,
            conv_feature_layers[-1][0],
            bias=not no_conv_bias,
            zero_pad=agg_zero_pad,
            skip=skip_connections_agg,
            **kw,
        )
        self.skip_feat, self.skip_agg = skip_connections_feat, skip_connections_agg
        self.scale, self.log = math.sqrt(residual_scale), log_compression

    def forward(self, wave):
        x = wave[:, None]
        for layer in self.feature_extractor.conv_layers:
            before, x = x, layer(x)
            if self.skip_feat and x.shape[1] == before.shape[1]:
                step = before.shape[2] // x.shape[2]
                x = (x + before[..., ::step][..., : x.shape[2]]) * self.scale
        z = x = (x.abs() + 1).log() if self.log else x
        aggregator = self.feature_aggregator
        for layer, project in zip(aggregator.conv_layers, aggregator.residual_proj, strict=True):
            before, x = x, layer(x)
            if self.skip_agg:
                x = (x + (before if project is None else project(before))) * self.scale
        return z.transpose(1, 2), x.transpose(1, 2)


# The options of `wav2vec_large.pt`.
LARGE = dict(
    conv_feature_layers=[(512, 10, 5), (512, 8, 4), *[(512, 4, 2)] * 3, *[(512, 1, 1)] * 2],
    conv_aggregator_layers=[(512, kernel, 1) for kernel in range(2, 14)],
    skip_connections_agg=True,
    log_compression=True,
)


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Norms and biases that do something; PyTorch starts them at 1 and 0."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in module.state_dict().items():
        if value.ndim == 1:
            noise = 0.1 * torch.randn(value.shape, generator=generator)
            value.copy_(1 + noise.abs() if name.endswith(("weight", "_var")) else noise)
    return module.eval()
