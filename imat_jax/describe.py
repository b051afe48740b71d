"""What is in a dataset: python -m imat_jax.describe DATASET_DIR [--json]"""

from __future__ import annotations

import json
import os

from absl import flags

from imat_jax.cli import UsageError, run
from imat_jax.data.dataset import Dataset


def define_flags() -> None:
    flags.DEFINE_bool("json", False, "Print the whole metadata as JSON.")


def table(path: str | os.PathLike) -> str:
    """Splits, classes, modalities and lengths of the dataset at `path`, as text."""
    dataset = Dataset.open(path)
    meta = dataset.metadata
    task = f"task {meta['task']}"
    if meta["class_names"]:
        task += f" ({', '.join(meta['class_names'])})"
    lines = [f"{path}: {meta['protocol']}, {task}", f"fingerprint {dataset.fingerprint[:16]}", ""]
    lines += [f"{'split':<8}{'utts':>7}  frames: least / median / most, missing"]
    for split, facts in meta["splits"].items():
        spans = []
        for m in dataset.dims:
            least, _, median, _, most = (int(q) for q in facts[m]["length_quartiles"])
            spans.append(f"{m} {least}/{median}/{most}, {facts[m]['missing']}")
        lines.append(f"{split:<8}{facts['examples']:>7}  " + "   ".join(spans))
        if "classes" in facts:
            classes = "  ".join(f"{name} {n}" for name, n in facts["classes"].items())
            lines.append(f"{'':<17}{classes}")
        else:
            pairs = zip(facts["label_mean"], facts["label_std"], strict=True)
            values = "  ".join(f"{mean:.3f} ± {std:.3f}" for mean, std in pairs)
            lines.append(f"{'':<17}label {values}")
    lines.append("")
    for m, info in meta["modalities"].items():
        rate = f"{info['rate_hz']:g} Hz" if info["rate_hz"] else "no fixed rate"
        bad = meta["nonfinite"][m]
        lines.append(
            f"{m:<8}{info['dim']:>5} features, {info['extractor']}, {rate}, stored as "
            f"{meta['dtype']}, {bad} non-finite values"
            + (f" replaced ({meta['nonfinite']['policy']})" if bad else "")
        )
    for name, digest in meta["sources"].items():
        lines.append(f"source  {name}  sha256 {digest}")
    for subset, accuracy in meta["facts"].get("bayes_accuracy", {}).items():
        lines.append(f"best possible accuracy  {subset:<20}{accuracy:.3f}")
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    if len(argv) != 2:
        raise UsageError("one dataset directory, please: imat describe DATASET_DIR")
    if flags.FLAGS.json:
        print(json.dumps(Dataset.open(argv[1]).metadata, indent=1))
    else:
        print(table(argv[1]))


if __name__ == "__main__":
    run(main, define_flags)
