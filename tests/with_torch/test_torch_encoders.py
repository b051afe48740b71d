"""Our encoders beside PyTorch: checkpoints as it writes them, and the same numbers from them."""

import argparse
import collections
import json

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch_encoders import LARGE, FabNet, Wav2Vec, randomise

from imat_jax import convert
from imat_jax.encoders import bert, fabnet, wav2vec, weights
from imat_jax.encoders.program import compiled

pytestmark = pytest.mark.usefixtures("library_promotion")


def close(ours, theirs, tolerance):
    theirs = theirs.detach().numpy()
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance)


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_what_torch_saves_is_read(tmp_path, new):
    base = torch.arange(24.0).reshape(4, 6)
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    tensors = {
        "whole": base,
        "transposed": base.t(),
        "part": base[1:3, 2:5],
        "channels_last": torch.rand(1, 2, 3, 4).contiguous(memory_format=torch.channels_last),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "scalar": torch.tensor(3),
        "empty": torch.zeros(0, 3),
        **{
            str(dtype): torch.tensor([0, 1, 3]).to(dtype)
            for dtype in (
                torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64,
                torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
            )
        },
    }  # fmt: skip
    saved = {
        "args": argparse.Namespace(a=1, b="x", c=None, d=[1.5], shape=torch.Size([2, 3])),
        "settings": [torch.device("cuda", 0), torch.float16],
        "tensors": tensors,
        "model": collections.OrderedDict(module.state_dict()),
        "state": module.state_dict(),
    }
    torch.save(saved, tmp_path / "f.pt", _use_new_zipfile_serialization=new)
    got = weights.load(tmp_path / "f.pt")
    assert got["args"] == {"a": 1, "b": "x", "c": None, "d": [1.5], "shape": (2, 3)}
    assert got["settings"] == ["cuda:0", "float16"]
    for part in ("tensors", "model", "state"):
        assert list(got[part]) == list(saved[part])
        for name, tensor in saved[part].items():
            found = got[part][name]
            assert str(tensor.dtype) == f"torch.{found.dtype}" and found.shape == tensor.shape
            expected = tensor.detach().double().numpy()
            np.testing.assert_array_equal(found.astype(np.float64), expected)


def test_fabnet(tmp_path):
    torch.manual_seed(0)
    model = randomise(FabNet())
    published = {"state_dict_model": model.state_dict(), "state_dict": {}}
    torch.save(published, tmp_path / "f.pth", _use_new_zipfile_serialization=False)
    faces = np.random.default_rng(0).integers(0, 256, (9, 256, 256, 3), np.uint8)
    with torch.inference_mode():
        expected = model(torch.from_numpy(faces).permute(0, 3, 1, 2) / 255)
    close(fabnet.encoder(tmp_path / "f.pth").encode([faces])[0], expected, 1e-5)


OPTIONS = {
    "defaults": {},
    "as published": {"skip_connections_agg": True, "log_compression": True},
    "other": {
        "no_conv_bias": True, "agg_zero_pad": True, "skip_connections_feat": True,
        "skip_connections_agg": True, "residual_scale": 0.3, "activation": "gelu",
    },
    "no affine": {"non_affine_group_norm": True, "skip_connections_feat": True},
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIONS)
def test_wav2vec_with_every_option(name):
    torch.manual_seed(0)
    layers = {
        "conv_feature_layers": [(8, 10, 5), (8, 8, 4), (8, 4, 2), (6, 1, 1)],
        "conv_aggregator_layers": [(6, 2, 1), (7, 3, 1), (7, 5, 1)],
    }
    model = randomise(Wav2Vec(**layers, **OPTIONS[name]))
    ours = convert.wav2vec(
        {name: tensor.numpy() for name, tensor in model.state_dict().items()},
        argparse.Namespace(**{k: str(v) for k, v in layers.items()}, **OPTIONS[name]),
    )
    wave = torch.randn(2, 4001)
    with torch.inference_mode():
        expected = model(wave)
    for found, wanted in zip(ours(jnp.asarray(wave.numpy())), expected, strict=True):
        close(found, wanted, 1e-5)


def test_published_wav2vec_clip_by_clip(tmp_path):
    """PyTorch takes each clip alone, without padding; we take them in padded batches."""
    torch.manual_seed(0)
    model = randomise(Wav2Vec(**LARGE))
    args = argparse.Namespace(**{k: str(v) if "layers" in k else v for k, v in LARGE.items()})
    saved = {"args": args, "model": model.state_dict()}
    torch.save(saved, tmp_path / "w.pt", _use_new_zipfile_serialization=False)
    clips = [0.1 * torch.randn(n) for n in (9000, 15_999, 465)]
    found = wav2vec.encoder(tmp_path / "w.pt").encode([clip.numpy() for clip in clips])
    with torch.inference_mode():
        for clip, features in zip(clips, found, strict=True):
            close(features, model(clip[None])[1][0], 1e-4)


SIZES = dict(
    vocab_size=70, hidden_size=16, num_hidden_layers=3, num_attention_heads=4,
    intermediate_size=24, max_position_embeddings=40,
)  # fmt: skip
FAMILIES = {
    "BERT": (transformers.BertConfig, {}),
    "MiniLM": (transformers.BertConfig, {"hidden_act": "relu", "layer_norm_eps": 1e-5}),
    "tanh GELU": (transformers.BertConfig, {"hidden_act": "gelu_new"}),
    "RoBERTa": (transformers.RobertaConfig, {"type_vocab_size": 1, "layer_norm_eps": 1e-5}),
    "XLM-R": (transformers.XLMRobertaConfig, {"type_vocab_size": 1}),
    "CamemBERT": (transformers.CamembertConfig, {"type_vocab_size": 1}),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("head", [False, True])
def test_the_bert_family(tmp_path, family, head):
    """Padded in PyTorch, packed into shared rows by us."""
    kind, options = FAMILIES[family]
    torch.manual_seed(0)
    config = kind(**SIZES, **options)
    auto = transformers.AutoModelForMaskedLM if head else transformers.AutoModel
    model = auto.from_config(config).eval()
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.2 * torch.randn_like(value))
    model.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    ours = convert.bert(weights.load(tmp_path), written)
    rng = np.random.default_rng(0)
    pieces = [np.r_[5, rng.integers(6, 70, n), 6] for n in (1, 20, 7, 3)]
    pad = config.pad_token_id
    ids = np.full((4, 22), pad)
    for row, piece in zip(ids, pieces, strict=True):
        row[: len(piece)] = piece
    mask = torch.from_numpy((ids != pad).astype(int))
    with torch.inference_mode():
        model = model.base_model if head else model
        expected = model(torch.from_numpy(ids), attention_mask=mask).last_hidden_state
    found = bert.token_states(pieces, compiled(ours), ours.config)
    for i, piece in enumerate(pieces):
        close(found[i], expected[i, : len(piece)], 1e-5)


def test_sentence_pairs_have_token_types():
    torch.manual_seed(0)
    config = transformers.BertConfig(**SIZES)
    model = transformers.BertModel(config).eval()
    ours = convert.bert({n: a.numpy() for n, a in model.state_dict().items()}, config.to_dict())
    ids, types = np.arange(10)[None] + 5, np.asarray([[0] * 6 + [1] * 4])
    with torch.inference_mode():
        tensors = {"input_ids": torch.from_numpy(ids), "token_type_ids": torch.from_numpy(types)}
        expected = model(**tensors).last_hidden_state
    places = jnp.arange(10)[None]
    found = ours(jnp.asarray(ids), places, jnp.ones_like(places), jnp.asarray(types))
    close(found, expected, 1e-5)


def test_half_precision_weights_are_widened(tmp_path):
    model = transformers.BertModel(transformers.BertConfig(**SIZES)).eval()
    half = {name: tensor.bfloat16() for name, tensor in model.state_dict().items()}
    save_file(half, tmp_path / "model.safetensors")
    ours = convert.bert(weights.load(tmp_path), model.config.to_dict())
    expected = half["embeddings.word_embeddings.weight"].float()
    close(ours.words.embedding[...], expected, 0)
