"""What the service takes and answers, as its OpenAPI description has it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from imat_jax.serving import uploads

Values = dict[str, float]


class Error(BaseModel):
    error: str = Field(description="One sentence.")


class Queue(BaseModel):
    examples: int
    uploads: int
    sessions: int


class Limits(BaseModel):
    bytes: int
    seconds: float


class Health(BaseModel):
    status: str
    artifact: str = Field(description="SHA-256 of the program.")
    uptime_s: float
    queue: Queue
    media: bool = Field(description="Whether files and streams are read, or features only.")
    modalities: list[str]
    values: list[str]
    task: str
    coverage: float | None = Field(description="How often a set or interval holds the truth.")
    auth: bool
    window: float
    hop: float
    limits: Limits


class Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    values: Values = Field(description="Probabilities after calibration, or scores.")
    label: str | None = None
    set: list[str] | None = Field(None, description="Conformal set of classes.")
    low: Values | float | None = Field(None, description="Conformal interval of scores.")
    high: Values | float | None = None


class Window(BaseModel):
    start: float
    end: float
    subsets: dict[str, Values]


class Face(BaseModel):
    time: float
    box: list[float] | None = Field(description="Left, top, right, bottom; shares of the picture.")


class Word(BaseModel):
    word: str
    weight: float


class Waveform(BaseModel):
    hz: float
    peaks: list[float]


class Prediction(BaseModel):
    model_config = ConfigDict(extra="forbid")
    id: str = Field(description="As the request's.")
    prediction: Answer
    subsets: dict[str, Values] = Field(default={}, description="With the modalities of the key.")
    contributions: dict[str, Values] = Field(default={}, description="Shapley values.")
    base: Values = Field(default={}, description="What is answered where nothing is seen.")
    missing: list[str] = []
    frames: dict[str, int] = {}
    words: list[Word] = []
    seconds: float = 0.0
    transcript: str = ""
    faces: list[Face] = []
    waveform: Waveform | None = None
    windows: list[Window] = []
    timing: dict[str, float]


def predict_body(modalities: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The body of `/predict` in OpenAPI, for the modalities of an artefact."""
    text = {"type": "string"}
    frames: dict[str, Any] = {}
    for m, info in modalities.items():
        row = {"type": "number"} if info["tokens"] else _row(info["dim"])
        most = uploads.FRAMES * info["max_frames"]
        frames[m] = {"type": "array", "items": row, "maxItems": most}
    form = {
        "type": "object",
        "required": ["file"],
        "properties": {
            "file": {"type": "string", "format": "binary", "description": "Video or sound."},
            "transcript": text | {"maxLength": 10_000, "description": "What is said in it."},
            "id": text | {"maxLength": 200},
        },
    }
    features = {
        "type": "object",
        "additionalProperties": False,
        "properties": {"id": text | {"maxLength": 200}} | frames,
    }
    content = {"multipart/form-data": {"schema": form}, "application/json": {"schema": features}}
    return {"required": True, "content": content}


def _row(dim: int) -> dict[str, Any]:
    number = {"type": "number", "minimum": -uploads.LARGEST, "maximum": uploads.LARGEST}
    return {"type": "array", "items": number, "minItems": dim, "maxItems": dim}
