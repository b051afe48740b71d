"""Our frozen encoders beside PyTorch's, same weights, same inputs, one run.

    python benchmarks/extract.py [--small] [--rounds=5] [face sound text]

Published sizes, random weights, float32, CPU:

    face   FAb-Net, crops of 256 x 256; frames a second
    sound  wav2vec 1.0 large, clips of 2 to 10 s; seconds of sound a second
    text   a RoBERTa of 24 layers, 1024 wide, texts of 13 tokens on average; texts a second

Ours is what extraction runs (text: without the tokenizer, on both sides). PyTorch has three ways:
the reference's (SSE-FT: one call a frame; sound padded to 150,000 samples; text padded to 512
tokens), batches without that waste, and for faces also the fastest we found (channels last, batches
of 8). wav2vec's published statistics allow no batches of different lengths, so that PyTorch's best
is clip by clip. Rounds alternate between the programs; the table gives medians.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import transformers
from torch_encoders import LARGE, FabNet, Wav2Vec, randomise

from imat_jax import convert
from imat_jax.encoders import bert, fabnet, wav2vec
from imat_jax.encoders.program import compiled

Programs = dict[str, tuple[Callable[[], list[np.ndarray]], float]]  # (run, units that it does)
OURS = "imat_jax"


def faces(small: bool, folder: Path) -> Programs:
    channels = (3, *[4] * 8) if small else (3, 32, 64, 128, *[256] * 5)
    model = randomise(FabNet(channels))
    torch.save({"state_dict_model": model.state_dict()}, folder / "fabnet.pth")
    encoder = fabnet.encoder(folder / "fabnet.pth")
    crops = np.random.default_rng(0).integers(0, 256, (16 if small else 64, 256, 256, 3), np.uint8)
    last = randomise(FabNet(channels)).to(memory_format=torch.channels_last)
    last.load_state_dict(model.state_dict())

    def theirs(network: FabNet, batch: int, layout=torch.contiguous_format):
        def run() -> list[np.ndarray]:
            out = []
            for start in range(0, len(crops), batch):
                block = torch.from_numpy(crops[start : start + batch]).permute(0, 3, 1, 2)
                out.append(network((block.float() / 255).contiguous(memory_format=layout)).numpy())
            return [np.concatenate(out)]

        return run, len(crops)

    return {
        OURS: (lambda: encoder.encode([crops]), len(crops)),
        "PyTorch, one batch": theirs(model, len(crops)),
        "PyTorch, channels last": theirs(last, 8, torch.channels_last),
        "PyTorch, one call a frame": theirs(model, 1),
    }


def sound(small: bool, folder: Path) -> Programs:
    options = dict(LARGE)
    if small:
        for name in ("conv_feature_layers", "conv_aggregator_layers"):
            options[name] = [(8, kernel, stride) for _, kernel, stride in options[name]]
    model = randomise(Wav2Vec(**options))
    args = {k: str(v) if "layers" in k else v for k, v in options.items()}
    torch.save({"args": args, "model": model.state_dict()}, folder / "wav2vec.pt")
    encoder = wav2vec.encoder(folder / "wav2vec.pt")
    rng = np.random.default_rng(0)
    seconds = rng.uniform(2, 10, 6)
    clips = [0.1 * rng.standard_normal(int(16_000 * s), np.float32) for s in seconds]

    def alone() -> list[np.ndarray]:
        return [model(torch.from_numpy(clip)[None])[1][0].numpy() for clip in clips]

    def padded() -> list[np.ndarray]:
        out = []
        for clip in clips[:2]:
            wave = np.zeros((1, 150_000), np.float32)
            wave[0, : len(clip)] = clip[:150_000]
            out.append(model(torch.from_numpy(wave))[1][0].numpy())
        return out

    return {
        OURS: (lambda: encoder.encode(clips), seconds.sum()),
        "PyTorch, clip by clip": (alone, seconds.sum()),
        "PyTorch, padded": (padded, seconds[:2].sum()),
    }


def text(small: bool, folder: Path) -> Programs:
    layers, width = (2, 64) if small else (24, 1024)
    config = transformers.RobertaConfig(
        vocab_size=50265, num_hidden_layers=layers, hidden_size=width, num_attention_heads=16,
        intermediate_size=4 * width, max_position_embeddings=514, type_vocab_size=1,
        layer_norm_eps=1e-5,
    )  # fmt: skip
    model = randomise(transformers.RobertaModel(config, add_pooling_layer=False))
    state_dict = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    network = convert.bert(state_dict, config.to_dict())
    program = compiled(network)
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(np.log(11.5), 0.5, 64).astype(int), 4, 60)
    ids = [np.r_[0, rng.integers(3, 50265, n - 2), 2] for n in lengths]
    order = np.argsort(lengths)

    def theirs(chosen: np.ndarray, batch: int, fixed: int = 0) -> list[np.ndarray]:
        out = []
        for start in range(0, len(chosen), batch):
            members = chosen[start : start + batch]
            padded = np.ones((len(members), fixed or lengths[members].max()), int)
            for row, i in zip(padded, members, strict=True):
                row[: lengths[i]] = ids[i]
            mask = torch.from_numpy((padded != 1).astype(int))
            states = model(torch.from_numpy(padded), attention_mask=mask).last_hidden_state
            out += [s[: lengths[i]].numpy() for s, i in zip(states, members, strict=True)]
        return out

    def batched() -> list[np.ndarray]:
        found = dict(zip(order, theirs(order, 16), strict=True))
        return [found[i] for i in range(len(ids))]

    return {
        OURS: (lambda: bert.token_states(ids, program, network.config), len(ids)),
        "PyTorch, like lengths": (batched, len(ids)),
        "PyTorch, 512 tokens": (lambda: theirs(np.arange(2), 2, 512), 2),
    }


def measure(programs: Programs, rounds: int) -> dict[str, float]:
    """{program: units a second}, medians of alternating rounds."""
    first = {name: run() for name, (run, _) in programs.items()}  # compiles
    for name, features in first.items():
        if name != "PyTorch, padded":  # padding changes the published features
            for ours, theirs in zip(first[OURS], features, strict=False):
                np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max())
    times: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, (run, _) in programs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: programs[name][1] / statistics.median(times[name]) for name in programs}


PARTS = {"face": faces, "sound": sound, "text": text}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all")
    parser.add_argument("--small", action="store_true", help="tiny networks, to try the script")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    torch.manual_seed(0)
    print(f"{'':<8}{'program':<28}{'a second':>10}{'ours / theirs':>15}")
    for part in args.parts or PARTS:
        with torch.inference_mode(), tempfile.TemporaryDirectory() as folder:
            rates = measure(PARTS[part](args.small, Path(folder)), args.rounds)
        for name, rate in rates.items():
            print(f"{part:<8}{name:<28}{rate:>10.1f}{rates[OURS] / rate:>14.2f}x", flush=True)


if __name__ == "__main__":
    main()
