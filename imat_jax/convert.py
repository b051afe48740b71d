"""Weights of published systems into our models, and back for SSE-FT.

`sse_ft` names are those of section 3.8 of the SSE-FT reference: PyTorch layouts, (out, in) kernels,
streams `t`, `a`, `v`. The frozen encoders keep the names of their own projects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx

from imat_jax.encoders.bert import from_state_dict as bert
from imat_jax.encoders.fabnet import from_state_dict as fabnet
from imat_jax.encoders.state_dict import require, torch_name
from imat_jax.encoders.wav2vec import from_state_dict as wav2vec
from imat_jax.models.imat import IMAT, SSEFT
from imat_jax.models.mult import CrossTransformer, MulT

__all__ = ["bert", "fabnet", "mult", "sseft", "to_sseft", "wav2vec"]

LETTER = {"text": "t", "audio": "a", "vision": "v"}
MULT_LETTER = {"text": "l", "audio": "a", "vision": "v"}
HEAD = "classification_heads.emotion_classification_head."
SPINE = "decoder.sentence_encoder."


class _Place(NamedTuple):
    """Where one of our arrays lies in the reference's state dict.

    name, shape: the reference's array. rows: the part of it that is ours. inputs: the number of
    input features of a weight, which PyTorch stores (out, in) and we (in, out); None for what is
    not a weight. columns: the reference's input order, where it differs.
    """

    name: str
    shape: tuple[int, ...]
    rows: slice = slice(None)
    inputs: int | None = None
    columns: np.ndarray | None = None

    def take(self, value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        value = value[self.rows]
        value = value if self.columns is None else value[:, self.columns]
        return (value.T if self.inputs else value).reshape(shape)

    def put(self, target: np.ndarray, ours: np.ndarray) -> None:
        part = target[self.rows]  # a view
        value = ours.reshape(self.inputs, -1).T if self.inputs else ours
        if self.columns is None:
            part[...] = value.reshape(part.shape)
        else:
            part[:, self.columns] = value


def sseft(state_dict: Mapping[str, Any], *, num_heads: int = 4, **options) -> IMAT:
    """The SSE-FT fusion network and head as an `IMAT` model with the same outputs.

    All sizes are read off the arrays; only the number of heads leaves no trace in them. Names may
    carry the prefix `decoder.sentence_encoder.`; the frozen SSL encoders that share the reference's
    checkpoints are ignored.

    Args:
      state_dict: {reference name: array}; anything that `numpy.asarray` takes.
      num_heads: attention heads (4 as published).
      **options: passed to `IMAT`, e.g. `dropout` (0.1), `dtype`.

    Raises:
      KeyError: parameters that the architecture needs are missing; they are listed.
      ValueError: an array's shape does not fit the others; it is named.
    """
    arrays = {_short(name): value for name, value in state_dict.items()}
    names = ("layers_a.0.fc1.weight", "layers_at.0.self_attn.k_proj_weight")
    names += ("layers_av.0.self_attn.k_proj_weight", HEAD + "out_proj.weight")
    names += ("embed_positions_a.weight", "embed_positions_v.weight")
    require(arrays, names, "an SSE-FT")
    fc1, at, av, out, table_a, table_v = (np.shape(arrays[name]) for name in names)
    sizes = dict(
        dims={"text": at[1], "audio": fc1[1], "vision": av[1]},
        outputs=out[0],
        heads=num_heads,
        encoder_layers={"text": 0}
        | {m: _count(arrays, f"layers_{LETTER[m]}.") for m in ("audio", "vision")},
        ima_layers=_count(arrays, "layers_at."),
        ffn=fc1[0],
        # The reference's tables begin with a row that is never read, then padding's (zeros), CLS's.
        max_frames={"text": 0, "audio": table_a[0] - 3, "vision": table_v[0] - 3},
    )
    # Shapes only: every parameter comes from the state dict.
    model = nnx.eval_shape(lambda: IMAT(**sizes, **(SSEFT | options), rngs=nnx.Rngs(0)))
    return _filled(model, arrays, _place, "an SSE-FT")


def mult(state_dict: Mapping[str, Any], *, num_heads: int = 5, **options) -> MulT:
    """A MulT (yaohungt/Multimodal-Transformer) as a `MulT` model.

    All sizes are read off the arrays; only the number of heads leaves no trace in them. Names may
    carry the prefix `module.`. A network of one target modality (`--lonly` and its like) becomes
    one with that target. Projections that the reference has and does not use, of features that
    have the streams' width already, are left behind; so are key biases, which a softmax cancels.

    Args:
      state_dict: {reference name: array}; anything that `numpy.asarray` takes.
      num_heads: attention heads (5 by default there).
      **options: passed to `MulT`, e.g. `dropout`, and `mode`: "reference" computes what the
        reference does, padding included; "corrected" (default) masks padding, lets every frame
        attend to all, and reads the last real frame.

    Raises:
      KeyError: parameters that the architecture needs are missing; they are listed.
      ValueError: an array's shape does not fit the others; it is named.
    """
    arrays = {name.removeprefix("module."): value for name, value in state_dict.items()}
    targets = [m for m, t in MULT_LETTER.items() if any(n.startswith(_cross(t)) for n in arrays)]
    first = MULT_LETTER[targets[0]] if targets else "l"
    source = next(t for t in MULT_LETTER.values() if t != first)
    stack, memory = f"{_cross(first)}{source}.layers.", f"trans_{first}_mem.layers."
    names = [f"proj_{t}.weight" for t in MULT_LETTER.values()]
    names += [f"{stack}0.fc1.weight", f"{memory}0.fc1.weight", "out_layer.weight"]
    require(arrays, names, "a MulT")
    *projections, fc1, _, out = (np.shape(arrays[name]) for name in names)
    model = nnx.eval_shape(
        lambda: MulT(
            {m: shape[1] for m, shape in zip(MULT_LETTER, projections, strict=True)},
            out[0],
            width=fc1[1],
            heads=num_heads,
            layers=_count(arrays, stack),
            memory_layers=_count(arrays, memory),
            ffn=fc1[0],
            targets=targets,
            rngs=nnx.Rngs(0),
            **options,
        )
    )
    return _filled(model, arrays, _mult_place, "a MulT")


def _filled(model: nnx.Module, arrays: Mapping[str, Any], place_of: Callable, what: str):
    """`model`, of which only shapes are known so far, with all parameters from `arrays`."""
    flat = nnx.to_flat_state(nnx.state(model, nnx.Param))
    places = [place_of(path, model) for path, _ in flat]
    require(arrays, [place.name for place in places], what)
    for (_, ours), place in zip(flat, places, strict=True):
        value = np.asarray(arrays[place.name])
        if value.shape != place.shape:
            raise ValueError(f"{place.name} has shape {value.shape}; {place.shape} is needed")
        value = place.take(value, ours.shape)
        ours.set_value(jnp.asarray(value, ours.dtype))
    return model


def to_sseft(params: nnx.State, model: IMAT) -> dict[str, np.ndarray]:
    """The inverse: parameters (or their gradients) of `model` under the reference's names.

    What our form has no use for comes back as zeros: position rows 0 and 1, and the key bias of the
    IMA blocks, which the softmax cancels.

    Args:
      params: the `nnx.Param` state of an SSE-FT-shaped model, or a gradient of that structure.
      model: that model, for its sizes.
    """
    out: dict[str, np.ndarray] = {}
    for path, ours in nnx.to_flat_state(params):
        place = _place(path, model)
        value = np.asarray(ours.get_value())
        target = out.setdefault(place.name, np.zeros(place.shape, value.dtype))
        place.put(target, value)
    return out


def _place(path: tuple, model: IMAT) -> _Place:
    """The place of our parameter `path` in the reference's state dict."""
    width = {m: model.encoders[m].width for m in model.modalities}
    match path:
        case ("head", layer, leaf):
            name = HEAD + {"dense": "dense", "out": "out_proj"}[layer]
            total = sum(width.values())
            if leaf == "bias":
                return _Place(f"{name}.bias", (getattr(model.head, layer).out_features,))
            if layer == "out":
                outputs = model.head.out.out_features
                return _Place(f"{name}.weight", (outputs, total), inputs=total)
            # The reference joins text, video, audio; we keep text, audio, vision.
            t, a, v = (width[m] for m in ("text", "audio", "vision"))
            order = np.r_[0:t, t + v : t + v + a, t : t + v]
            return _Place(f"{name}.weight", (total, total), inputs=total, columns=order)
        case ("encoders", m, "cls"):
            return _Place(f"SE_embeddings_{LETTER[m]}.weight", (1, width[m]))
        case ("encoders", m, "table"):
            rows = len(model.encoders[m].table)
            shape = (rows + 2, width[m])
            return _Place(f"embed_positions_{LETTER[m]}.weight", shape, rows=slice(2, None))
        case ("encoders", m, "input_norm", leaf):
            return _Place(f"emb_layer_norm_{LETTER[m]}.{torch_name(leaf)}", (width[m],))
        case ("encoders", m, "layers", i, *rest):
            ffn = model.encoders[m].layers[i].ffn.inner.out_features
            return _block(f"layers_{LETTER[m]}.{i}.", rest, width[m], width[m], ffn)
        case ("stacks", pair, "layers", i, *rest):
            m, n = pair.split("_from_")
            ffn = model.stacks[pair].layers[i].ffn.inner.out_features
            return _block(f"layers_{LETTER[m]}{LETTER[n]}.{i}.", rest, width[m], width[n], ffn)
    raise ValueError(f"SSE-FT has no counterpart of {'/'.join(map(str, path))}")


def _block(prefix: str, path: list, d: int, d_key: int, ffn: int) -> _Place:
    """The place of a parameter of one layer; `d` is its width, `d_key` its keys' width."""
    match path:
        case ("attention", "qkv", "kernel"):
            return _Place(f"{prefix}self_attn.in_proj_weight", (3 * d, d), inputs=d)
        case ("attention", "qkv", "bias"):
            return _Place(f"{prefix}self_attn.in_proj_bias", (3 * d,))
        case ("attention", ("query" | "key" | "value") as which, "kernel"):
            inputs = d if which == "query" else d_key
            name = f"{prefix}self_attn.{which[0]}_proj_weight"
            return _Place(name, (d, inputs), inputs=inputs)
        case ("attention", ("query" | "value") as which, "bias"):  # q, k, v in one vector
            rows = slice(0, d) if which == "query" else slice(2 * d, 3 * d)
            return _Place(f"{prefix}self_attn.in_proj_bias", (3 * d,), rows=rows)
        case ("attention", "out", "kernel"):
            return _Place(f"{prefix}self_attn.out_proj.weight", (d, d), inputs=d)
        case ("attention", "out", "bias"):
            return _Place(f"{prefix}self_attn.out_proj.bias", (d,))
        case ("ffn", layer, leaf):
            name, shape = {"inner": ("fc1", (ffn, d)), "outer": ("fc2", (d, ffn))}[layer]
            if leaf == "bias":
                return _Place(f"{prefix}{name}.bias", shape[:1])
            return _Place(f"{prefix}{name}.weight", shape, inputs=shape[1])
        case ("residuals", i, "norm", leaf):
            norm = ("self_attn_layer_norm", "final_layer_norm")[i]
            return _Place(f"{prefix}{norm}.{torch_name(leaf)}", (d,))
    raise ValueError(f"SSE-FT has no counterpart of {prefix}{'/'.join(map(str, path))}")


def _short(name: str) -> str:
    """Without `decoder.sentence_encoder.`, and without whatever precedes the head's name."""
    if HEAD in name:
        return name[name.index(HEAD) :]
    return name.partition(SPINE)[2] or name


def _count(arrays: Mapping[str, Any], prefix: str) -> int:
    """Layers whose names begin with `prefix` and their number."""
    return len({n.removeprefix(prefix).split(".")[0] for n in arrays if n.startswith(prefix)})


def _mult_place(path: tuple, model: MulT) -> _Place:
    """The place of our parameter `path` in MulT's state dict."""
    match path:
        case ("project", m, "kernel"):
            shape = model.project[m].kernel.shape
            return _Place(f"proj_{MULT_LETTER[m]}.weight", (*shape[::-1], 1), inputs=shape[0])
        case ("block", i, leaf):
            return _dense(f"proj{i + 1}", leaf, model.block[i])
        case ("out", leaf):
            return _dense("out_layer", leaf, model.out)
        case ("cross", pair, *rest):
            m, n = pair.split("_from_")
            name = f"{_cross(MULT_LETTER[m])}{MULT_LETTER[n]}."
            return _mult_stack(name, rest, model.cross[pair])
        case ("memory", m, *rest):
            return _mult_stack(f"trans_{MULT_LETTER[m]}_mem.", rest, model.memory[m])
    raise ValueError(f"MulT has no counterpart of {'/'.join(map(str, path))}")


def _mult_stack(prefix: str, path: list, stack: CrossTransformer) -> _Place:
    """The place of a parameter of one transformer."""
    d = stack.width
    match path:
        case ("final_norm", leaf):
            return _Place(f"{prefix}layer_norm.{torch_name(leaf)}", (d,))
        case ("layers", i, "norms", k, leaf):
            return _Place(f"{prefix}layers.{i}.layer_norms.{k}.{torch_name(leaf)}", (d,))
        case ("layers", i, "ffn", ("inner" | "outer") as which, leaf):
            name = {"inner": "fc1", "outer": "fc2"}[which]
            return _dense(f"{prefix}layers.{i}.{name}", leaf, getattr(stack.layers[i].ffn, which))
        case ("layers", i, "attention", "out", leaf):
            name = f"{prefix}layers.{i}.self_attn.out_proj.{torch_name(leaf)}"
            return _Place(name, (d,)) if leaf == "bias" else _Place(name, (d, d), inputs=d)
        case ("layers", i, "attention", ("query" | "key" | "value") as which, leaf):
            k = ("query", "key", "value").index(which)  # the three lie in one array
            name, rows = f"{prefix}layers.{i}.self_attn.in_proj_", slice(k * d, (k + 1) * d)
            if leaf == "bias":
                return _Place(f"{name}bias", (3 * d,), rows=rows)
            return _Place(f"{name}weight", (3 * d, d), rows=rows, inputs=d)
    raise ValueError(f"MulT has no counterpart of {prefix}{'/'.join(map(str, path))}")


def _dense(name: str, leaf: str, layer: nnx.Linear) -> _Place:
    shape = layer.out_features, layer.in_features
    if leaf == "bias":
        return _Place(f"{name}.bias", shape[:1])
    return _Place(f"{name}.weight", shape, inputs=shape[1])


def _cross(target: str) -> str:
    """What the names of a target's crossmodal transformers begin with."""
    return f"trans_{target}_with_"
