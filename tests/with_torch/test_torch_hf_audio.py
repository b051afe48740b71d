"""Speech models from Hugging Face directories, against transformers run by hand."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    Data2VecAudioConfig,
    Data2VecAudioModel,
    HubertConfig,
    HubertModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
)

from imat_jax.data.corpus import DataError
from imat_jax.encoders import hf_audio

TINY = dict(
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=48,
    conv_dim=(16,) * 7,
    num_conv_pos_embeddings=16,
    num_conv_pos_embedding_groups=4,
    vocab_size=8,
)
LARGE = dict(feat_extract_norm="layer", do_stable_layer_norm=True, conv_bias=True)
MODELS = {
    "wav2vec2-base": (Wav2Vec2Config, Wav2Vec2Model, {}),
    "wav2vec2-large": (Wav2Vec2Config, Wav2Vec2Model, LARGE),
    "hubert": (HubertConfig, HubertModel, {}),
    "wavlm": (WavLMConfig, WavLMModel, LARGE),
    "data2vec-audio": (Data2VecAudioConfig, Data2VecAudioModel, dict(num_conv_pos_embeddings=5)),
}


def save(folder, name, normalize=True):
    config, model, options = MODELS[name]
    torch.manual_seed(0)
    model = model(config(**(TINY | options))).eval()
    model.save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=normalize).save_pretrained(folder)
    return model


def wave(samples, seed=0):
    return np.random.default_rng(seed).normal(0.01, 0.1, samples).astype(np.float32)


def by_hand(model, x, normalize=True):
    """[hidden states of layer 0, ..., N - 1, the network's output]."""
    if normalize:
        x = (x - x.mean()) / np.sqrt(x.var() + 1e-7)
    with torch.inference_mode():
        output = model(torch.from_numpy(x)[None], output_hidden_states=True)
    return [h[0].numpy() for h in (*output.hidden_states[:-1], output.last_hidden_state)]


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_layers_are_those_of_transformers(tmp_path, name, normalize):
    model = save(tmp_path, name, normalize)
    x = wave(8000)
    expected = by_hand(model, x, normalize)
    for layer in (0, 1, -2, 3, -1):
        encoder = hf_audio.encoder(tmp_path, layer=layer)
        (features,) = encoder.encode([x])
        assert features.dtype == np.float32 and features.shape == (24, 32)
        np.testing.assert_allclose(features, expected[layer], rtol=0, atol=1e-5)
        assert encoder.modality.layer == f"{layer % 4} of 3"
    assert not np.allclose(expected[-1], expected[-2], atol=1e-2)


def test_provenance(tmp_path):
    save(tmp_path, "hubert")
    encoder = hf_audio.encoder(tmp_path)
    assert encoder.modality.extractor == "hubert"
    assert encoder.modality.dim == 32 and encoder.modality.rate_hz == 50
    assert encoder.modality.checkpoint.startswith("model.safetensors sha256:")


@pytest.mark.parametrize("name", ["wav2vec2-base", "wav2vec2-large"])
def test_a_clip_has_the_same_bits_alone_and_among_others(tmp_path, name):
    save(tmp_path, name)
    encoder = hf_audio.encoder(tmp_path)
    clips = [wave(3000), wave(16_000, 1), wave(399, 2), wave(400, 3), wave(0)]
    together = encoder.encode(clips)
    assert [len(features) for features in together] == [9, 49, 0, 1, 0]
    for clip, among in zip(clips, together, strict=True):
        np.testing.assert_array_equal(encoder.encode([clip])[0], among)
        assert among.shape[1] == 32 and np.isfinite(among).all()


def test_silence_is_finite(tmp_path):
    save(tmp_path, "wav2vec2-base")
    (features,) = hf_audio.encoder(tmp_path).encode([np.zeros(4000, np.float32)])
    assert np.isfinite(features).all()


def test_a_fine_tuned_recogniser_is_read_without_its_head(tmp_path):
    torch.manual_seed(0)
    config = Wav2Vec2Config(**TINY, mask_time_prob=0.0)  # such have no masking vector
    recogniser = Wav2Vec2ForCTC(config).eval()
    recogniser.save_pretrained(tmp_path)
    Wav2Vec2FeatureExtractor().save_pretrained(tmp_path)
    x = wave(4000)
    (features,) = hf_audio.encoder(tmp_path).encode([x])
    np.testing.assert_allclose(features, by_hand(recogniser.wav2vec2, x)[-1], rtol=0, atol=1e-5)


def test_half_precision_weights_are_computed_with_in_single(tmp_path):
    model = save(tmp_path, "wav2vec2-base").half()
    model.save_pretrained(tmp_path)
    x = wave(4000)
    (features,) = hf_audio.encoder(tmp_path).encode([x])
    np.testing.assert_allclose(features, by_hand(model.float(), x)[-1], rtol=0, atol=1e-5)


def test_weights_of_pytorchs_own_format_are_read(tmp_path):
    model = save(tmp_path, "wav2vec2-base")
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    encoder = hf_audio.encoder(tmp_path)
    assert encoder.modality.checkpoint.startswith("pytorch_model.bin sha256:")
    x = wave(4000)
    np.testing.assert_allclose(encoder.encode([x])[0], by_hand(model, x)[-1], rtol=0, atol=1e-5)


def test_missing_weights_are_an_error_and_not_random(tmp_path):
    save(tmp_path, "wav2vec2-base")
    path = tmp_path / "model.safetensors"
    weights = {k: v for k, v in load_file(path).items() if "layers.1.attention" not in k}
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(DataError, match=r"8 weights of the model are missing.*layers\.1\."):
        hf_audio.encoder(tmp_path)


def test_weights_of_another_size_are_an_error(tmp_path):
    save(tmp_path, "wav2vec2-base")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"intermediate_size": 40}))
    with pytest.raises(DataError, match="transformers cannot load it"):
        hf_audio.encoder(tmp_path)


def test_a_broken_file_of_weights_is_an_error(tmp_path):
    save(tmp_path, "wav2vec2-base")
    (tmp_path / "model.safetensors").write_bytes(b"\x00" * 100)
    with pytest.raises(DataError, match="transformers cannot load it"):
        hf_audio.encoder(tmp_path)


@pytest.mark.parametrize("layer", [4, -5])
def test_a_layer_that_is_not_there_is_an_error(tmp_path, layer):
    save(tmp_path, "wav2vec2-base")
    with pytest.raises(DataError, match=rf"there is no layer {layer}; there are 0 to 3"):
        hf_audio.encoder(tmp_path, layer=layer)
