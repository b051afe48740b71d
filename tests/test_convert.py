"""State dicts of the published system, in and out."""

import pathlib

import jax
import numpy as np
import pytest
from flax import nnx
from golden_arrays import sseft_state_dict

from imat_jax import convert

GOLDEN = pathlib.Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def state_dict():
    return sseft_state_dict(np.load(GOLDEN / "sseft_tiny.npz", allow_pickle=False))


def flat(model):
    return jax.tree.leaves(nnx.state(model, nnx.Param))


def test_round_trip(state_dict):
    model = convert.sseft(state_dict)
    back = convert.to_sseft(nnx.state(model, nnx.Param), model)
    assert set(back) == set(state_dict)
    for name, value in state_dict.items():
        expected = np.array(value)
        if name.startswith("embed_positions"):
            expected[:2] = 0  # never read
        if "in_proj_bias" in name and not name.startswith(("layers_a.", "layers_v.")):
            width = len(expected) // 3
            expected[width : 2 * width] = 0  # the key bias of an IMA block cancels
        np.testing.assert_array_equal(back[name], expected, err_msg=name)


def test_names_with_prefixes_and_the_frozen_encoders_beside(state_dict):
    prefixed = {
        (f"decoder.{n}" if n.startswith(convert.HEAD) else convert.SPINE + n): v
        for n, v in state_dict.items()
    }
    prefixed["decoder.sentence_encoder.model_text2vec.decoder.layers.0.fc1.weight"] = np.zeros(3)
    for a, b in zip(flat(convert.sseft(prefixed)), flat(convert.sseft(state_dict)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_missing_parameters_are_listed(state_dict):
    partial = {k: v for k, v in state_dict.items() if not k.startswith("layers_tv.1.fc2")}
    with pytest.raises(KeyError, match=r"2 parameters are missing.*layers_tv\.1\.fc2"):
        convert.sseft(partial)
    with pytest.raises(KeyError, match=r"not an SSE-FT state dict.*holds nothing"):
        convert.sseft({})


def test_a_wrong_shape_is_named(state_dict):
    name = "layers_ta.0.fc1.weight"
    with pytest.raises(ValueError, match=rf"{name} has shape \(3, 3\)"):
        convert.sseft(state_dict | {name: np.zeros((3, 3))})


def test_options_reach_the_model(state_dict):
    assert convert.sseft(state_dict, num_heads=2, dropout=0.0).encoders["audio"].dropout == 0.0
