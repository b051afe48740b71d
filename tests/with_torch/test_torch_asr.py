"""Speech recognition through transformers, by a small CTC model that hears two tones."""

import json

import numpy as np
import pytest
import torch
import transformers
from clips import tone

from imat_jax.data.corpus import DataError
from imat_jax.encoders import asr
from imat_jax.encoders.transcripts import Cue, Transcript

RATE = 16000
VOCABULARY = ["<pad>", "|", "A", "B", "<unk>", "<s>", "</s>"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A model that says A at 500 Hz, B at 1 kHz, and ends a word where it is silent."""
    folder = tmp_path_factory.mktemp("model")
    vocabulary = folder / "vocab.json"
    vocabulary.write_text(json.dumps({name: index for index, name in enumerate(VOCABULARY)}))
    transformers.Wav2Vec2CTCTokenizer(str(vocabulary)).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(folder)
    config = transformers.Wav2Vec2Config(
        vocab_size=len(VOCABULARY),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        conv_dim=[8],
        conv_kernel=[320],  # 20 ms, whole periods of both tones
        conv_stride=[320],
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        num_conv_pos_embeddings=2,
        num_conv_pos_embedding_groups=1,
    )
    model = transformers.Wav2Vec2ForCTC(config)
    state = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
    for name, value in state.items():
        if "norm.weight" in name or name.endswith("original1"):
            value.fill_(1)
    filters = state["wav2vec2.feature_extractor.conv_layers.0.conv.weight"]
    state["wav2vec2.feature_projection.projection.weight"][:] = torch.eye(8)
    for channel, hz in enumerate((500, 1000)):
        filters[channel, 0] = torch.from_numpy(tone(320 / RATE, RATE, hz=hz)[:, 0])
        state["lm_head.weight"][VOCABULARY.index("AB"[channel]), channel] = 10
    state["lm_head.bias"][VOCABULARY.index("|")] = 5
    model.load_state_dict(state)
    model.save_pretrained(folder)
    return folder


def test_words_and_their_times(directory):
    pause = np.zeros((3840, 1), np.float32)
    parts = [
        pause,
        tone(0.5, RATE, hz=500),
        tone(0.26, RATE, hz=1000),
        pause,
        tone(1, RATE, hz=500),
    ]
    found = asr.transcribe(np.concatenate(parts)[:, 0], directory)
    assert found == Transcript("AB A", (Cue(0.24, 1.0, "AB"), Cue(1.24, 2.24, "A")))
    assert asr.transcribe(pause[:, 0], directory) == Transcript("")
    assert asr.transcribe(pause[:0, 0], directory) == Transcript("")


def test_a_folder_without_such_a_model(directory, tmp_path):
    wave = np.zeros(RATE, np.float32)
    with pytest.raises(DataError, match=r"it has no config\.json"):
        asr.transcribe(wave, tmp_path)
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_text((directory / name).read_text())
    with pytest.raises(DataError, match="not a model that recognises speech"):
        asr.transcribe(wave, tmp_path)
