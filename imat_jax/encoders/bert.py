"""BERT and its family: last hidden states of the tokens of a text."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.typing import Dtype

from imat_jax.data.corpus import DataError, Modality
from imat_jax.encoders import weights
from imat_jax.encoders.encoder import Encoder
from imat_jax.encoders.program import blocks, compiled
from imat_jax.encoders.state_dict import LINEAR, Source, filled, torch_name

# RoBERTa counts positions from behind the padding token's id, and padding does not count.
ROBERTA = ("roberta", "xlm-roberta", "camembert")
ROW = 128  # tokens in a row that short texts share
LONG = 512  # tokens in a row of a longer one; most of a piece of text
TOKENS = 1024  # most in one program call

# One of these makes a tokenizer; without, transformers makes an empty one.
VOCABULARY = ("tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model")

ACTIVATIONS = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_new": lambda x: jax.nn.gelu(x, approximate=True),
    "gelu_pytorch_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
}


@dataclasses.dataclass(frozen=True)
class Config:
    """What the network is made of, by the names of `config.json`."""

    model_type: str
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    hidden_act: str = "gelu"
    pad_token_id: int = 0
    position_embedding_type: str = "absolute"

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> Config:
        """Of a Hugging Face configuration; other settings are ignored.

        Raises:
          ValueError: a setting is missing, or it describes another kind of network.
        """
        names = [f.name for f in dataclasses.fields(cls)]
        missing = [n for n in names if config.get(n) is None and not hasattr(cls, n)]
        if missing:
            raise ValueError(f"{', '.join(missing)} is missing")
        padding = {"pad_token_id": 1 if config["model_type"] in ROBERTA else 0}
        read = cls(**padding | {n: config[n] for n in names if config.get(n) is not None})
        if read.model_type not in ("bert", *ROBERTA):
            raise ValueError(
                f"model_type is {read.model_type}; {', '.join(('bert', *ROBERTA))} are read"
            )
        if read.position_embedding_type != "absolute":
            raise ValueError(f"position_embedding_type is {read.position_embedding_type}")
        if read.hidden_act not in ACTIVATIONS:
            raise ValueError(f"hidden_act is {read.hidden_act}; {', '.join(ACTIVATIONS)} are known")
        if config.get("is_decoder"):
            raise ValueError("it is a decoder")
        return read

    @property
    def longest(self) -> int:
        """Most tokens of a text."""
        first = self.pad_token_id + 1 if self.model_type in ROBERTA else 0
        return self.max_position_embeddings - first

    def positions(self, ids: Any) -> Any:
        """ids [..., T] of texts, NumPy's or JAX's -> rows [..., T] of the table of positions."""
        if self.model_type not in ROBERTA:
            return (ids * 0 + 1).cumsum(-1) - 1
        real = (ids != self.pad_token_id).astype(np.int32)
        return real.cumsum(-1) * real + self.pad_token_id


class Layer(nnx.Module):
    """Self-attention and a feed-forward network, each with its sum normalised (post-LN)."""

    def __init__(self, config: Config, *, dtype: Dtype, rngs: nnx.Rngs):
        d, inner = config.hidden_size, config.intermediate_size
        kw = dict(dtype=dtype, rngs=rngs)
        norm = dict(epsilon=config.layer_norm_eps, **kw)
        self.heads = config.num_attention_heads
        self.qkv = nnx.LinearGeneral(d, (3, self.heads, d // self.heads), **kw)
        self.out = nnx.Linear(d, d, **kw)
        self.attention_norm = nnx.LayerNorm(d, **norm)
        self.inner = nnx.Linear(d, inner, **kw)
        self.outer = nnx.Linear(inner, d, **kw)
        self.ffn_norm = nnx.LayerNorm(d, **norm)
        self.activation = config.hidden_act

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """x [B, T, D], mask [B, T, T] of what each token attends to -> [B, T, D]."""
        b, t, d = x.shape
        q, k, v = jnp.transpose(self.qkv(x), (2, 0, 3, 1, 4))  # each [B, H, T, K]
        scores = jnp.einsum("bhtk,bhsk->bhts", q * (d // self.heads) ** -0.5, k)
        # Every real token attends at least to itself, and what padding attends to is never read.
        scores = jnp.where(mask[:, None], scores, jnp.finfo(scores.dtype).min)
        weights = jax.nn.softmax(scores.astype(jnp.float32)).astype(v.dtype)
        attended = jnp.einsum("bhts,bhsk->bthk", weights, v)
        x = self.attention_norm(x + self.out(attended.reshape(b, t, d)))
        return self.ffn_norm(x + self.outer(ACTIVATIONS[self.activation](self.inner(x))))


class Bert(nnx.Module):
    """BERT (Devlin et al. 2019), RoBERTa (Liu et al. 2019), MiniLM, XLM-R, without dropout.

    Without pooler and heads. Make one with `from_state_dict`.

    Args:
      dtype: compute dtype; LayerNorm's statistics and the softmax stay float32.
      remat: policy of `jax.checkpoint` for the layers; None: the backward pass computes nothing
        again.
    """

    def __init__(
        self,
        config: Config,
        *,
        dtype: Dtype = jnp.float32,
        remat: Callable | None = None,
        rngs: nnx.Rngs,
    ):
        d, kw = config.hidden_size, dict(dtype=dtype, rngs=rngs)
        self.words = nnx.Embed(config.vocab_size, d, **kw)
        self.positions = nnx.Embed(config.max_position_embeddings, d, **kw)
        self.types = nnx.Embed(config.type_vocab_size, d, **kw)
        self.norm = nnx.LayerNorm(d, epsilon=config.layer_norm_eps, **kw)
        self.layers = nnx.List([Layer(config, **kw) for _ in range(config.num_hidden_layers)])
        self.config = config
        self.remat = remat

    def __call__(
        self,
        ids: jax.Array,
        positions: jax.Array,
        segments: jax.Array,
        types: jax.Array | None = None,
    ) -> jax.Array:
        """Hidden states of the last layer [B, T, D]; those of padding mean nothing.

        Several texts may share a row: a token attends to the tokens of its own segment.

        Args:
          ids: [B, T] int.
          positions: [B, T] int, rows of the table of positions: `Config.positions` of each text.
          segments: [B, T] int, the number of the text, from 1; 0 is padding.
          types: [B, T] int, 0 for the first sentence and 1 for the second; None: all 0.
        """
        types = jnp.zeros_like(ids) if types is None else types
        x = self.norm(self.words(ids) + self.positions(positions) + self.types(types))
        mask = (segments[:, :, None] == segments[:, None, :]) & (segments[:, None, :] > 0)
        for layer in self.layers:
            call = jax.checkpoint(layer, policy=self.remat) if self.remat else layer
            x = call(x, mask)
        return x


def from_state_dict(
    state_dict: Mapping[str, Any], config: Mapping[str, Any], asarray: Callable = jnp.asarray
) -> Bert:
    """A model of the BERT family under Hugging Face's names; pooler and heads are left out.

    Args:
      state_dict: {name: array}; the prefixes `bert.`, `roberta.` and the like may be there.
      config: the content of `config.json`.
      asarray: `numpy.asarray` keeps the parameters on the host.

    Raises:
      KeyError: parameters that the configuration needs are missing; they are listed.
      ValueError: an array's shape does not fit, or the configuration is of another family.
    """
    settings = Config.read(config)
    arrays = {}
    for name, array in state_dict.items():
        name = re.sub(r"^(bert|roberta)\.", "", name)
        # Checkpoints that came from TensorFlow have LayerNorm's names of there.
        arrays[re.sub(r"gamma$", "weight", re.sub(r"beta$", "bias", name))] = array
    tables = {"words": "word", "positions": "position", "types": "token_type"}
    modules = {
        "out": "attention.output.dense",
        "attention_norm": "attention.output.LayerNorm",
        "inner": "intermediate.dense",
        "outer": "output.dense",
        "ffn_norm": "output.LayerNorm",
    }

    def source(path: tuple) -> Source:
        match path:
            case (table, "embedding"):
                return Source((f"embeddings.{tables[table]}_embeddings.weight",))
            case ("norm", leaf):
                return Source((f"embeddings.LayerNorm.{torch_name(leaf)}",))
            case ("layers", i, module, leaf):
                prefix = f"encoder.layer.{i}"
                inside = (modules.get(module),)
                if module == "qkv":
                    inside = tuple(f"attention.self.{m}" for m in ("query", "key", "value"))
                names = tuple(f"{prefix}.{m}.{torch_name(leaf)}" for m in inside)
                axes = LINEAR if leaf == "kernel" else None
                return Source(names, axes, joined=module == "qkv")

    model = nnx.eval_shape(lambda: Bert(settings, rngs=nnx.Rngs(0)))
    return filled(model, arrays, source, f"a {settings.model_type}", asarray)


def encoder(directory: str | os.PathLike) -> Encoder:
    """Texts -> last hidden states [T, D], `<s>` and `</s>` (`[CLS]`, `[SEP]`) included.

    An empty text has no frame. A text of more tokens than the model has positions is encoded in
    equal consecutive pieces, each between its own `<s>` and `</s>`, of which the first `<s>` and
    the last `</s>` are kept.

    Args:
      directory: as Hugging Face has it: config.json, tokenizer files, and model.safetensors or
        pytorch_model.bin, whole or in pieces.

    Raises:
      DataError: a file is missing, or the model is of another family.
    """
    model = load(directory)
    tokens = tokenizer(directory)
    program = compiled(model)
    config = model.config

    def encode(inputs: Sequence[str]) -> list[np.ndarray]:
        longest = min(config.longest, LONG)
        texts = [_pieces(tokens(text), longest) for text in inputs]
        states = iter(
            token_states([piece for pieces in texts for piece in pieces], program, config)
        )
        return [_joined([next(states) for _ in pieces], config.hidden_size) for pieces in texts]

    return Encoder(modality(directory, config), encode)


def load(directory: str | os.PathLike, asarray: Callable = jnp.asarray) -> Bert:
    """The network in `directory`, as `from_state_dict`; raises `DataError`, as `encoder`."""
    content, found = _content(directory)
    saved = weights.named(directory)
    try:
        return from_state_dict(saved, content, asarray)
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(f"{directory} ({found[0].name}): {error.args[0]}") from error


def read_config(directory: str | os.PathLike) -> Config:
    """Of the network in `directory`, without its weights; raises `DataError`, as `encoder`."""
    content, _ = _content(directory)
    try:
        return Config.read(content)
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(f"{directory}: {error.args[0]}") from error


def modality(directory: str | os.PathLike, config: Config) -> Modality:
    """Width and provenance of the features, as datasets record them; reads all of the weights."""
    checkpoint = weights.checkpoint(directory)
    return Modality(config.hidden_size, config.model_type, checkpoint, "last hidden state")


def tokenizer(directory: str | os.PathLike) -> Callable[[str], np.ndarray]:
    """A text -> ids [T] with those that the family puts around it; T = 0 of an empty text."""
    found = _tokenizer(pathlib.Path(directory))

    def tokens(text: str) -> np.ndarray:
        return np.asarray(found(text, verbose=False)["input_ids"] if text.strip() else [], int)

    return tokens


def token_strings(directory: str | os.PathLike) -> Callable[[str], list[str]]:
    """A text -> what each token of `tokenizer` stands for; "##" before what goes on with a word."""
    found = _tokenizer(pathlib.Path(directory))

    def strings(text: str) -> list[str]:
        if not text.strip():
            return []
        encoded = found(text, verbose=False, return_offsets_mapping=found.is_fast)
        names = found.convert_ids_to_tokens(encoded["input_ids"])
        if not found.is_fast:
            return names
        strings, end = [], -1
        for name, (start, stop) in zip(names, encoded["offset_mapping"], strict=True):
            # Tokens of bytes do not read as text; the places where they come from do.
            strings.append(("##" if start == end else "") + text[start:stop] if stop else name)
            end = stop or -1
        return strings

    return strings


def _content(directory: str | os.PathLike) -> tuple[dict[str, Any], list[pathlib.Path]]:
    """(config.json, the files of the weights)."""
    directory = pathlib.Path(directory)
    try:
        return json.loads((directory / "config.json").read_text("utf-8")), weights.files(directory)
    except (OSError, DataError) as error:
        raise DataError(
            f"{directory}: {error}; download config.json, model.safetensors and the tokenizer "
            "files of the model from its repository on Hugging Face into this folder"
        ) from error
    except ValueError as error:
        raise DataError(f"{directory / 'config.json'}: not JSON: {error}") from error


def _tokenizer(directory: pathlib.Path) -> Any:
    import transformers

    advice = "download the tokenizer files of the model's repository into this folder"
    if not any((directory / name).is_file() for name in VOCABULARY):
        raise DataError(f"{directory}: no tokenizer: none of {', '.join(VOCABULARY)}; {advice}")
    try:
        return transformers.AutoTokenizer.from_pretrained(directory, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise DataError(
            f"{directory}: transformers reads no tokenizer: {error}; {advice}"
        ) from error


def _pieces(ids: np.ndarray, longest: int) -> list[np.ndarray]:
    """ids [T] as pieces of at most `longest`, each with the first and the last id around it."""
    if len(ids) <= longest:
        return [ids] if len(ids) else []
    count = -(-(len(ids) - 2) // (longest - 2))
    return [np.r_[ids[0], part, ids[-1]] for part in np.array_split(ids[1:-1], count)]


def _joined(pieces: list[np.ndarray], width: int) -> np.ndarray:
    """[T, D] of the text; what stands around inner pieces is dropped."""
    if not pieces:
        return np.zeros((0, width), np.float32)
    last = len(pieces) - 1
    return np.concatenate(
        [states[i > 0 : len(states) - (i < last)] for i, states in enumerate(pieces)]
    )


def token_states(pieces: list[np.ndarray], program: Any, config: Config) -> list[np.ndarray]:
    """ids [T] of each piece -> [T, D]; short ones share rows, so that little is padding.

    program: `compiled` of the model.
    """
    states = [np.zeros(0)] * len(pieces)
    for width, rows in _packed([len(piece) for piece in pieces]).items():
        for count in blocks(len(rows), TOKENS // width):
            chosen, rows = rows[:count], rows[count:]
            ids, positions, segments = np.zeros((3, count, width), np.int32)
            places = [
                (r, n, p, start) for r, row in enumerate(chosen) for n, (p, start) in enumerate(row)
            ]
            for r, n, p, start in places:
                columns = slice(start, start + len(pieces[p]))
                ids[r, columns] = pieces[p]
                positions[r, columns] = config.positions(pieces[p])
                segments[r, columns] = n + 1
            found = program(ids, positions, segments)
            for r, _, p, start in places:
                states[p] = found[r, start : start + len(pieces[p])]
    return states


def _packed(lengths: list[int]) -> dict[int, list[list[tuple[int, int]]]]:
    """{width: rows}, each row a list of (piece, its first column): first fit, longest first."""
    rows: dict[int, list[list[tuple[int, int]]]] = {ROW: [], LONG: []}
    for p in sorted(range(len(lengths)), key=lambda p: -lengths[p]):
        width = ROW if lengths[p] <= ROW else LONG
        for row in rows[width]:
            last, start = row[-1]
            if start + lengths[last] + lengths[p] <= width:
                row.append((p, start + lengths[last]))
                break
        else:
            rows[width].append([(p, 0)])
    return rows
