"""Weights of published systems into our models, and back for SSE-FT.

`sse_ft` names are those of section 3.8 of the SSE-FT reference: PyTorch layouts, (out, in) kernels,
streams `t`, `a`, `v`. The frozen encoders keep the names of their own projects.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx

from imat_jax.encoders.bert import Bert, Config
from imat_jax.encoders.fabnet import FabNet
from imat_jax.encoders.wav2vec import Options, Wav2Vec
from imat_jax.models.imat import IMAT, SSEFT

LETTER = {"text": "t", "audio": "a", "vision": "v"}
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
    _require(arrays, names)
    fc1, at, av, out, table_a, table_v = (np.shape(arrays[name]) for name in names)
    sizes = dict(
        dims={"text": at[1], "audio": fc1[1], "vision": av[1]},
        outputs=out[0],
        heads=num_heads,
        encoder_layers={"text": 0} | {m: _count(arrays, LETTER[m]) for m in ("audio", "vision")},
        ima_layers=_count(arrays, "at"),
        ffn=fc1[0],
        # The reference's tables begin with a row that is never read, then padding's (zeros), CLS's.
        max_frames={"text": 0, "audio": table_a[0] - 3, "vision": table_v[0] - 3},
    )
    # Shapes only: every parameter comes from the state dict.
    model = nnx.eval_shape(lambda: IMAT(**sizes, **(SSEFT | options), rngs=nnx.Rngs(0)))
    flat = nnx.to_flat_state(nnx.state(model, nnx.Param))
    places = [_place(path, model) for path, _ in flat]
    _require(arrays, [place.name for place in places])
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


def fabnet(state_dict: Mapping[str, Any]) -> FabNet:
    """FAb-Net's encoder with its batch normalisations folded in (`sse_ft` section 2.3).

    Args:
      state_dict: {name: array}, names `encoder.0.weight` and so on behind any prefix, or the whole
        published file, which has them in `state_dict_model`.

    Raises:
      KeyError: parameters are missing; they are listed.
      ValueError: an array's shape does not fit; it is named.
    """
    state_dict = state_dict.get("state_dict_model", state_dict)
    arrays = {re.sub(r"^.*\bencoder\.", "encoder.", name): a for name, a in state_dict.items()}
    convs = [f"encoder.{i}" for i in (0, 2, 5, 8, 11, 14, 17, 20)]
    norms = [f"encoder.{i}" for i in (3, 6, 9, 12, 15, 18)]  # of all but the first and the last
    leaves = ("weight", "bias", "running_mean", "running_var")
    names = [f"{conv}.{leaf}" for conv in convs for leaf in leaves[:2]]
    names += [f"{norm}.{leaf}" for norm in norms for leaf in leaves]
    _require(arrays, names, "a FAb-Net")
    arrays = {name: np.asarray(arrays[name], np.float64) for name in names}
    for conv, norm in zip(convs[1:-1], norms, strict=True):
        weight, bias, mean, variance = (arrays[f"{norm}.{leaf}"] for leaf in leaves)
        scale = weight / np.sqrt(variance + 1e-5)
        arrays[f"{conv}.weight"] = arrays[f"{conv}.weight"] * scale[:, None, None, None]
        arrays[f"{conv}.bias"] = (arrays[f"{conv}.bias"] - mean) * scale + bias
    shapes = [arrays[f"{conv}.weight"].shape for conv in convs]
    channels = [shapes[0][1], *(shape[0] for shape in shapes)]
    model = nnx.eval_shape(lambda: FabNet(channels, rngs=nnx.Rngs(0)))

    def source(path: tuple) -> _Source:
        _, layer, leaf = path
        axes = CONV2D if leaf == "kernel" else None
        return _Source((f"{convs[layer]}.{_leaf(leaf)}",), axes)

    return _filled(model, arrays, source, "a FAb-Net")


def wav2vec(state_dict: Mapping[str, Any], options: Any) -> Wav2Vec:
    """wav2vec 1.0 (`sse_ft` section 2.2); the predictions of its training are left out.

    Args:
      state_dict: {name: array}, the checkpoint's `model`.
      options: the checkpoint's `args`, a mapping or a namespace; see `wav2vec.Options`.

    Raises:
      KeyError: parameters that the options need are missing; they are listed.
      ValueError: an array's shape does not fit the options, or the model is another one.
    """
    settings = Options.read(options)
    parts = {"features": "feature_extractor", "context": "feature_aggregator"}
    norms = {"features": 2, "context": 3}  # places in a layer's Sequential; convolutions: two less

    def source(path: tuple) -> _Source:
        match path:
            case ("projections", i, "kernel"):
                return _Source((f"feature_aggregator.residual_proj.{i}.weight",), CONV1D)
            case (part, i, "conv", leaf):
                name = f"{parts[part]}.conv_layers.{i}.{norms[part] - 2}.{_leaf(leaf)}"
                default = 0 if leaf == "bias" and settings.no_conv_bias else None
                return _Source((name,), CONV1D if leaf == "kernel" else None, default)
            case (part, i, leaf):
                name = f"{parts[part]}.conv_layers.{i}.{norms[part]}.{_leaf(leaf)}"
                default = int(leaf == "scale") if settings.non_affine_group_norm else None
                return _Source((name,), default=default)

    model = nnx.eval_shape(lambda: Wav2Vec(settings, rngs=nnx.Rngs(0)))
    return _filled(model, state_dict, source, "a wav2vec 1.0")


def bert(state_dict: Mapping[str, Any], config: Mapping[str, Any]) -> Bert:
    """A model of the BERT family under Hugging Face's names; pooler and heads are left out.

    Args:
      state_dict: {name: array}; the prefixes `bert.`, `roberta.` and the like may be there.
      config: the content of `config.json`.

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

    def source(path: tuple) -> _Source:
        match path:
            case (table, "embedding"):
                return _Source((f"embeddings.{tables[table]}_embeddings.weight",))
            case ("norm", leaf):
                return _Source((f"embeddings.LayerNorm.{_leaf(leaf)}",))
            case ("layers", i, module, leaf):
                prefix = f"encoder.layer.{i}"
                inside = (modules.get(module),)
                if module == "qkv":
                    inside = tuple(f"attention.self.{m}" for m in ("query", "key", "value"))
                names = tuple(f"{prefix}.{m}.{_leaf(leaf)}" for m in inside)
                return _Source(names, LINEAR if leaf == "kernel" else None)

    model = nnx.eval_shape(lambda: Bert(settings, rngs=nnx.Rngs(0)))
    return _filled(model, arrays, source, f"a {settings.model_type}")


class _Source(NamedTuple):
    """Where one of our arrays comes from.

    names: arrays that are joined along their first axis. axes: their order in ours. default: what
    fills ours where the model does without these arrays.
    """

    names: tuple[str, ...]
    axes: tuple[int, ...] | None = None
    default: float | None = None


LINEAR = (1, 0)  # (out, in) -> (in, out)
CONV1D = (2, 1, 0)  # (out, in, width) -> (width, in, out)
CONV2D = (2, 3, 1, 0)


def _filled(
    model: nnx.Module, arrays: Mapping[str, Any], source: Callable[[tuple], _Source], what: str
) -> nnx.Module:
    """`model`, of which only shapes are known so far, with parameters from `arrays`."""
    flat = nnx.to_flat_state(nnx.state(model, nnx.Param))
    sources = [source(path) for path, _ in flat]
    _require(arrays, [n for s in sources if s.default is None for n in s.names], what)
    for (_, ours), (names, axes, default) in zip(flat, sources, strict=True):
        if default is not None:
            ours.set_value(jnp.full(ours.shape, default, ours.dtype))
            continue
        value = np.concatenate([np.atleast_1d(arrays[name]) for name in names])
        value = value if axes is None or value.ndim != len(axes) else value.transpose(axes)
        if value.shape != ours.shape:
            raise ValueError(f"{names[0]} does not fit: {value.shape}, but {ours.shape} is needed")
        ours.set_value(jnp.asarray(value, ours.dtype))
    return model


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
            return _Place(f"emb_layer_norm_{LETTER[m]}.{_leaf(leaf)}", (width[m],))
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
            return _Place(f"{prefix}{norm}.{_leaf(leaf)}", (d,))
    raise ValueError(f"SSE-FT has no counterpart of {prefix}{'/'.join(map(str, path))}")


def _leaf(name: str) -> str:
    return {"scale": "weight", "kernel": "weight", "bias": "bias"}[name]


def _short(name: str) -> str:
    """Without `decoder.sentence_encoder.`, and without whatever precedes the head's name."""
    if HEAD in name:
        return name[name.index(HEAD) :]
    return name.partition(SPINE)[2] or name


def _count(arrays: Mapping[str, Any], stream: str) -> int:
    return len({n.split(".")[1] for n in arrays if n.startswith(f"layers_{stream}.")})


def _require(arrays: Mapping[str, Any], names: Sequence[str], what: str = "an SSE-FT") -> None:
    missing = [n for n in names if n not in arrays]
    if missing:
        raise KeyError(
            f"not {what} state dict: {len(missing)} parameters are missing, such as "
            f"{', '.join(missing[:5])}; it holds {', '.join(sorted(arrays)[:5]) or 'nothing'}"
        )
