"""A model card in Markdown from the files of a run."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any


def write(workdir: pathlib.Path, metadata: Mapping[str, Any], manifest: Mapping[str, Any]) -> str:
    return f"# Model card\n\n{metadata['protocol']}\n"
