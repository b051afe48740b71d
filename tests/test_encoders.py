"""FAb-Net, wav2vec and the BERT family: published numbers, and features that depend on no batch."""

import argparse
import ast
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from golden_arrays import (
    draw,
    encoder_parameter,
    encoder_state_dict,
    fabnet_frames,
    load_golden,
    wav2vec_wave,
)
from torch_files import legacy, safetensors, zipped

from imat_jax import convert, encoders
from imat_jax.data.corpus import DataError
from imat_jax.encoders import bert, fabnet, program, wav2vec

pytestmark = pytest.mark.usefixtures("library_promotion")

CONVS, NORMS = (0, 2, 5, 8, 11, 14, 17, 20), (3, 6, 9, 12, 15, 18)


def random_fabnet(width=4):
    """A narrow FAb-Net, by the published names."""
    shapes, inputs = {}, 3
    for i in CONVS:
        shapes |= {f"encoder.{i}.weight": (width, inputs, 4, 4), f"encoder.{i}.bias": (width,)}
        inputs = width
    for i in NORMS:
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"encoder.{i}.{leaf}"] = (width,)
    return {name: encoder_parameter(name, shape) for name, shape in shapes.items()}


OPTIONS = {
    "conv_feature_layers": "[(4, 10, 5), (4, 8, 4)] + [(4, 4, 2)] * 3 + [(4, 1, 1)]",
    "conv_aggregator_layers": "[(6, 2, 1), (6, 5, 1)]",
    "skip_connections_agg": True,
    "log_compression": True,
}


def random_wav2vec():
    """The parameters of a narrow wav2vec 1.0 with `OPTIONS`."""
    shapes = {"feature_aggregator.residual_proj.0.weight": (6, 4, 1)}
    features = ((1, 10), (4, 8), (4, 4), (4, 4), (4, 4), (4, 1))
    for i, (inputs, kernel) in enumerate(features):
        prefix = f"feature_extractor.conv_layers.{i}"
        shapes |= {f"{prefix}.0.weight": (4, inputs, kernel)}
        shapes |= {f"{prefix}.2.{leaf}": (4,) for leaf in ("weight", "bias")}
    for i, (inputs, kernel) in enumerate(((4, 2), (6, 5))):
        prefix = f"feature_aggregator.conv_layers.{i}"
        shapes |= {f"{prefix}.1.weight": (6, inputs, kernel), f"{prefix}.1.bias": (6,)}
        shapes |= {f"{prefix}.3.{leaf}": (6,) for leaf in ("weight", "bias")}
    return {name: encoder_parameter(name, shape) for name, shape in shapes.items()}


def close(a, b, tolerance=1e-5):
    """Within `tolerance` of the largest of `b`."""
    assert a.shape == b.shape
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max(initial=0))


# FAb-Net


def test_fabnet_matches_the_golden():
    golden = load_golden("fabnet")
    model = convert.fabnet(encoder_state_dict(golden))
    features = model(jnp.asarray(fabnet_frames()))
    np.testing.assert_allclose(features, golden["features"], rtol=0, atol=1e-5)


def test_fabnet_is_found_in_the_published_file_and_behind_prefixes():
    arrays = random_fabnet()
    frames = jnp.asarray(fabnet_frames()[:1])
    expected = convert.fabnet(arrays)(frames)
    published = {f"module.{n}": a for n, a in arrays.items()} | {"decoder.0.weight": np.zeros(3)}
    for saved in ({"state_dict_model": arrays, "state_dict": {}}, published):
        np.testing.assert_array_equal(convert.fabnet(saved)(frames), expected)


def test_a_renamed_checkpoint_is_an_error(tmp_path):
    renamed = {n.replace("encoder", "backbone"): a for n, a in random_fabnet().items()}
    message = r"40 parameters are missing, such as encoder\.0\.weight.*holds backbone\.0\.bias"
    with pytest.raises(KeyError, match=message):
        convert.fabnet(renamed)
    (tmp_path / "f.pth").write_bytes(legacy({"state_dict_model": renamed}))
    with pytest.raises(DataError, match=r"f\.pth: .*" + message):
        fabnet.encoder(tmp_path / "f.pth")


def test_an_array_that_does_not_fit_is_named():
    with pytest.raises(ValueError, match=r"encoder\.20\.bias does not fit: \(5,\), but \(4,\)"):
        convert.fabnet(random_fabnet() | {"encoder.20.bias": np.zeros(5)})


def test_fabnet_encodes_any_number_of_faces(tmp_path):
    arrays = random_fabnet()
    (tmp_path / "f.pth").write_bytes(legacy({"state_dict_model": arrays, "state_dict": {}}))
    encoder = encoders.make("vision", f"fabnet:{tmp_path / 'f.pth'}")
    assert (encoder.modality.dim, encoder.modality.rate_hz) == (4, None)
    faces = np.random.default_rng(0).integers(0, 256, (19, 256, 256, 3), np.uint8)
    found = encoder.encode([faces[:0], faces, faces[:1]])
    expected = convert.fabnet(arrays)(jnp.asarray(faces, jnp.float32) / 255)
    for features, count in zip(found, (0, 19, 1), strict=True):
        assert features.dtype == np.float32
        close(features, np.asarray(expected[:count]))


# wav2vec


@pytest.fixture(scope="module")
def published_wav2vec():
    golden = load_golden("wav2vec")
    options = ast.literal_eval(str(golden["args"]))
    return convert.wav2vec(encoder_state_dict(golden), argparse.Namespace(**options)), golden


def test_wav2vec_matches_the_golden(published_wav2vec):
    model, golden = published_wav2vec
    z, c = model(jnp.asarray(wav2vec_wave()))
    np.testing.assert_allclose(z, golden["z"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(c, golden["c"], rtol=0, atol=1e-4)


def test_frames_of_published_wav2vec(published_wav2vec):
    model, _ = published_wav2vec
    samples = np.asarray([0, 1, 464, 465, 624, 625, 16_000, 150_000])
    assert model.frames(samples).tolist() == [0, 0, 0, 1, 1, 2, 98, 935]
    assert (model.hop, model.past) == (160, 78)


@pytest.fixture(scope="module")
def tiny_wav2vec():
    return convert.wav2vec(random_wav2vec(), OPTIONS)


def test_without_parity_padding_and_neighbours_do_not_matter(tiny_wav2vec):
    lengths = np.asarray([3000, 465, 400], np.int32)
    clips = [draw(f"clip {i}", (n,)) * 10.0**-i for i, n in enumerate(lengths)]
    padded = np.full((3, 4000), 7, np.float32)  # what is there must not be read
    for row, clip in zip(padded, clips, strict=True):
        row[: len(clip)] = clip
    run = nnx.jit(lambda model, *arrays: model(*arrays, parity=False))
    together = run(tiny_wav2vec, jnp.asarray(padded), jnp.asarray(lengths))
    for row, clip in enumerate(clips):
        alone = run(tiny_wav2vec, jnp.asarray(clip)[None])
        for ours, expected in zip(together, alone, strict=True):
            frames = tiny_wav2vec.frames(len(clip))
            assert expected.shape[1] == frames
            close(ours[row, :frames], expected[0])


def test_with_parity_padding_is_part_of_the_clip(tiny_wav2vec):
    clip = draw("clip", (1, 3000))
    padded = jnp.asarray(np.pad(clip, ((0, 0), (0, 3000))))
    run = nnx.jit(lambda model, *arrays: model(*arrays)[1])
    alone, published = run(tiny_wav2vec, jnp.asarray(clip)), run(tiny_wav2vec, padded)
    assert np.abs(published[:, : alone.shape[1]] - alone).max() > 0.1 * np.abs(alone).max()
    close(run(tiny_wav2vec, padded, jnp.asarray([3000])), published)


def test_absent_options_are_those_of_the_class():
    read = wav2vec.Options.read({"log_compression": True, "dropout": 0.1})
    assert read == wav2vec.Options(log_compression=True)
    assert read.conv_feature_layers == ((512, 10, 5), (512, 8, 4), *[(512, 4, 2)] * 3)
    assert wav2vec.Options.read(OPTIONS).conv_feature_layers[-2:] == ((4, 4, 2), (4, 1, 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"conv_feature_layers": "__import__('os').getcwd()"}, "not a list of layers"),
        ({"conv_feature_layers": "[(512, 10)]"}, "not a list of layers"),
        ({"conv_feature_layers": "[(1, 1, 1)] * 10 ** 9"}, "not a list of layers"),
        ({"conv_aggregator_layers": "[]"}, "not a list of layers"),
        ({"conv_aggregator_layers": "[(4, 3, 2)]"}, "strides"),
        ({"vq_type": "gumbel"}, "only wav2vec 1.0"),
        ({"aggregator": "gru"}, "only wav2vec 1.0"),
        ({"activation": "tanh"}, "relu or gelu"),
        (None, "settings"),
    ],
)
def test_options_of_another_model_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        wav2vec.Options.read(options)


context = nnx.jit(lambda model, wave: model(wave)[1])


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    path = tmp_path_factory.mktemp("w") / "w.pt"
    args = argparse.Namespace(**OPTIONS, optimizer="adam")
    path.write_bytes(legacy({"args": args, "model": random_wav2vec()}))
    return wav2vec.encoder(path)


def test_wav2vec_encodes_clips_of_any_length(speech, tiny_wav2vec):
    assert (speech.modality.dim, speech.modality.rate_hz) == (6, 100.0)
    lengths = [0, 464, 465, 16_000, 16_001, 300]
    clips = [draw(f"clip {i}", (n,)) for i, n in enumerate(lengths)]
    for clip, features in zip(clips, speech.encode(clips), strict=True):
        assert features.dtype == np.float32
        expected = context(tiny_wav2vec, jnp.asarray(clip)[None])
        close(features, np.asarray(expected[0]))
    assert speech.encode([]) == []


def test_a_long_clip_has_no_seams(speech, tiny_wav2vec):
    """Noise has the same statistics everywhere, so that pieces and the whole agree."""
    clip = draw("long", (61 * 16_000 + 7,))
    (features,) = speech.encode([clip])
    whole = np.asarray(context(tiny_wav2vec, jnp.asarray(clip)[None])[0])
    close(features, whole, tolerance=0.03)
    assert np.abs(features - whole).max() > 0  # it was cut


def test_other_checkpoints_are_not_wav2vec(tmp_path):
    (tmp_path / "f.pt").write_bytes(zipped({"cfg": {}, "model": {}}))
    with pytest.raises(DataError, match=r"f\.pt: .*`args`.*this one holds cfg, model"):
        wav2vec.encoder(tmp_path / "f.pt")
    (tmp_path / "f.pt").write_bytes(zipped({"args": OPTIONS, "model": random_fabnet()}))
    with pytest.raises(DataError, match=r"f\.pt: not a wav2vec 1\.0 state dict: 27 param"):
        wav2vec.encoder(tmp_path / "f.pt")


# The BERT family


CONFIG = {
    "model_type": "bert", "vocab_size": 60, "hidden_size": 8, "num_hidden_layers": 2,
    "num_attention_heads": 2, "intermediate_size": 12, "max_position_embeddings": 20,
    "type_vocab_size": 2, "pad_token_id": 0, "hidden_act": "gelu", "layer_norm_eps": 1e-12,
}  # fmt: skip


def random_bert(config=CONFIG):
    """By Hugging Face's names."""
    d, ffn = config["hidden_size"], config["intermediate_size"]
    tables = {"word": "vocab_size", "position": "max_position_embeddings"}
    tables["token_type"] = "type_vocab_size"
    shapes = {f"embeddings.{t}_embeddings.weight": (config[n], d) for t, n in tables.items()}
    shapes |= {f"embeddings.LayerNorm.{leaf}": (d,) for leaf in ("weight", "bias")}
    linears = {f"attention.self.{m}": (d, d) for m in ("query", "key", "value")}
    linears |= {"attention.output.dense": (d, d), "intermediate.dense": (ffn, d)}
    linears["output.dense"] = (d, ffn)
    for i in range(config["num_hidden_layers"]):
        for name, shape in linears.items():
            shapes[f"encoder.layer.{i}.{name}.weight"] = shape
            shapes[f"encoder.layer.{i}.{name}.bias"] = shape[:1]
        for norm in ("attention.output", "output"):
            for leaf in ("weight", "bias"):
                shapes[f"encoder.layer.{i}.{norm}.LayerNorm.{leaf}"] = (d,)
    return {name: encoder_parameter(name, shape) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def bert_directory(tmp_path_factory):
    """A small model of Hugging Face's, with a word for each number."""
    folder = tmp_path_factory.mktemp("bert")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "model.safetensors").write_bytes(safetensors(random_bert()))
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(str, range(55))]
    (folder / "vocab.txt").write_text("\n".join(words))
    return folder


@pytest.fixture(scope="module")
def text(bert_directory):
    return bert.encoder(bert_directory)


def sentence(first, last):
    return " ".join(map(str, range(first, last)))


def test_texts_have_the_same_features_alone_and_together(text):
    texts = [sentence(i, i + n) for i in range(8) for n in (1, 5, 18)]
    for one, found in zip(texts, text.encode(texts), strict=True):
        assert found.shape == (len(one.split()) + 2, 8) and found.dtype == np.float32
        close(text.encode([one])[0], found)


def test_an_empty_text_has_no_frame(text):
    empty, blank, word = text.encode(["", " \n", "7"])
    assert empty.shape == blank.shape == (0, 8)
    assert word.shape == (3, 8)


def test_of_a_long_text_nothing_is_lost(text):
    """54 words, where 20 tokens fit: three pieces of 18 words."""
    first, second, third = text.encode([sentence(i, i + 18) for i in (0, 18, 36)])
    (whole,) = text.encode([sentence(0, 54)])
    close(whole, np.concatenate([first[:-1], second[1:-1], third[1:]]))


def test_padding_in_a_row_does_not_matter():
    model = convert.bert(random_bert(), CONFIG)
    ids = np.arange(5, 12)
    places = model.config.positions(ids)
    run = program.compiled(model)
    alone = run(ids[None], places[None], np.ones((1, 7), int))
    row = np.full((3, 20), 9)  # ids, positions, segments
    row[2] = 0
    row[:, 4:11] = ids, places, np.full(7, 2)
    row[2, 15:] = 1  # another text
    close(run(*row[:, None])[:, 4:11], alone)


def test_roberta_counts_positions_from_behind_padding():
    config = CONFIG | {"model_type": "roberta", "pad_token_id": 1, "max_position_embeddings": 22}
    read = bert.Config.read(config)
    assert read.positions(np.asarray([0, 31, 5, 2])).tolist() == [2, 3, 4, 5]
    assert read.positions(np.asarray([0, 31, 1, 2])).tolist() == [2, 3, 1, 4]
    assert read.longest == 20
    assert bert.Config.read(config | {"pad_token_id": None}).pad_token_id == 1


def test_names_of_older_checkpoints_are_read():
    arrays = random_bert()
    old = {
        f"bert.{n}".replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): a
        for n, a in arrays.items()
    } | {"cls.predictions.bias": np.zeros(60)}
    ours, same = (nnx.state(convert.bert(a, CONFIG)) for a in (arrays, old))
    jax.tree.map(np.testing.assert_array_equal, ours, same)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "model_type is gpt2; bert, roberta"),
        ({"hidden_act": "mish"}, "hidden_act is mish"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is relative_key"),
        ({"is_decoder": True}, "decoder"),
        ({"num_hidden_layers": 3}, r"not a bert state dict: 16 parameters.*layer\.2"),
        ({"hidden_size": 10}, r"does not fit: \(8,\), but \(10,\) is needed"),
    ],
)
def test_another_model_is_refused(bert_directory, tmp_path, change, message):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | change))
    (tmp_path / "model.safetensors").symlink_to(bert_directory / "model.safetensors")
    with pytest.raises(DataError, match=message):
        bert.encoder(tmp_path)


def test_a_directory_without_tokenizer_says_what_is_missing(bert_directory, tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).symlink_to(bert_directory / name)
    with pytest.raises(DataError, match=r"no tokenizer: none of tokenizer\.json"):
        bert.encoder(tmp_path)


def test_minilm_matches_pytorch():
    """Token states of transformers' BertModel in PyTorch, their first 16 numbers."""
    try:
        encoder = encoders.make("text", "minilm")
    except DataError as error:
        pytest.skip(str(error))
    golden = load_golden("minilm")
    texts = [str(golden["text0"]), str(golden["text1"])]
    for i, states in enumerate(encoder.encode(texts)):
        assert states.shape[1] == encoder.modality.dim == 384
        np.testing.assert_allclose(states[:, :16], golden[f"states{i}"], rtol=0, atol=1e-5)


# All


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (fabnet, ["affectnet_4views.pth", "VGG"]),
        (wav2vec, ["dl.fbaipublicfiles.com/fairseq/wav2vec/wav2vec_large.pt"]),
        (bert, ["config.json", "model.safetensors", "tokenizer", "Hugging Face"]),
    ],
)
def test_missing_weights_say_what_to_download_and_where_to_put_it(tmp_path, module, words):
    with pytest.raises(DataError) as error:
        module.encoder(tmp_path / "nothing")
    assert all(word in str(error.value) for word in (*words, str(tmp_path / "nothing")))


@pytest.mark.parametrize(
    ("count", "largest", "sizes"),
    [(0, 8, []), (13, 8, [8, 4, 1]), (16, 8, [8, 8]), (7, 1, [1] * 7), (3, 16, [2, 1])],
)
def test_batches_are_of_few_sizes(count, largest, sizes):
    assert program.blocks(count, largest) == sizes
