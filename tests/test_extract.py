"""Media to a dataset: what is in it, what is left out, and that an interruption changes nothing."""

import json
import os
import signal

import clips
import numpy as np
import programs
import pytest
import talking
from talking import write

from imat_jax import encoders
from imat_jax.data.corpus import DataError
from imat_jax.data.dataset import Dataset
from imat_jax.encoders import chunks
from imat_jax.encoders import clips as listing
from imat_jax.encoders.clips import Clip
from imat_jax.encoders.extractor import Extractor, Recipe


def extract(*flags, check=True):
    done = programs.run("extract", *flags)
    assert not check or done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    return talking.make(tmp_path_factory.mktemp("media"))


@pytest.fixture(scope="module")
def dataset(media, tmp_path_factory):
    output = tmp_path_factory.mktemp("data") / "made"
    extract(f"--input={media / 'table.csv'}", f"--output={output}", "--dtype=float32")
    return Dataset.open(output)


def example(dataset, name):
    for split in dataset.splits:
        for record in dataset.source(split):
            if record["id"].decode() == name:
                return record
    raise KeyError(name)


def test_what_a_clip_lacks_has_no_frames(dataset):
    lengths = {k: {m: len(example(dataset, k)[m]) for m in dataset.dims} for k in "abcd"}
    # 1.2 s at 10 pictures a second; one vector of speech for each 80 ms after the first 0.76 s.
    assert lengths["a"]["vision"] == 12 and lengths["a"]["audio"] > 0
    assert lengths["a"]["text"] == 4  # [CLS] hello there [SEP]
    assert lengths["b"] == {"text": 0, "audio": 0, "vision": 10}
    assert lengths["c"]["vision"] == 0 and lengths["c"]["audio"] > 0
    assert lengths["d"]["vision"] == 0 and lengths["d"]["audio"] > 0
    assert example(dataset, "a")["transcript"] == b"hello there"


def test_features_are_those_of_the_encoders(dataset, media):
    from imat_jax.encoders import media as reader

    wave = reader.audio(media / "radio.wav", 0.5, 1.5)
    encoder = encoders.make("audio", "speech-embedding")
    np.testing.assert_array_equal(example(dataset, "d")["audio"], encoder.encode([wave])[0])
    [text] = encoders.make("text", "minilm").encode(["hello there"])
    np.testing.assert_allclose(example(dataset, "a")["text"], text, atol=1e-5)


def test_the_dataset_says_what_made_it(dataset):
    facts, modalities = dataset.metadata["facts"], dataset.metadata["modalities"]
    assert facts["extraction"]["encoders"] == encoders.OFFLINE
    assert facts["pictures"] == 12 + 10 + 10 and facts["pictures_with_a_face"] == 12 + 10
    assert len(facts["media_sha256"]) == 64 and facts["left_out"] == {}
    assert modalities["audio"]["rate_hz"] == 12.5 and modalities["vision"]["rate_hz"] == 10
    for info in modalities.values():
        assert "sha256:" in info["checkpoint"]


def test_equal_media_give_equal_files_with_any_number_of_processes(media, dataset, tmp_path):
    flags = [f"--input={media / 'table.csv'}", "--dtype=float32"]
    extract(*flags, f"--output={tmp_path / 'made'}", "--workers=2")
    other = Dataset.open(tmp_path / "made")
    assert other.fingerprint == dataset.fingerprint
    assert not (tmp_path / "made.extracting").exists()


def one_clip_a_chunk():
    chunks.CLIPS = 1


def killed_at_the_second_clip():
    one_clip_a_chunk()
    extract_one, done = chunks.extract, []
    chunks.extract = lambda *a: (
        os.kill(os.getpid(), signal.SIGKILL) if done else done.append(extract_one(*a))
    )


def test_a_killed_extraction_goes_on_and_gives_the_same(media, dataset, tmp_path):
    output = tmp_path / "made"
    flags = [f"--input={media / 'table.csv'}", "--dtype=float32", f"--output={output}"]
    killed = programs.run("extract", *flags, setup=killed_at_the_second_clip)
    assert killed.returncode == -signal.SIGKILL
    assert len(list((tmp_path / "made.extracting").glob("*.npz"))) == 1
    done = programs.run("extract", *flags, setup=one_clip_a_chunk)
    assert done.returncode == 0, done.stderr
    assert "1 of 4 clips were extracted before" in done.stderr
    assert Dataset.open(output).fingerprint == dataset.fingerprint


BAD = {
    "empty.mp4": b"",
    "letter.mp4": b"Dear Sir or Madam, this is no film. " * 40,
}


@pytest.fixture
def with_bad(tmp_path):
    folder = tmp_path / "media"
    folder.mkdir()
    clips.clip(folder / "good.wav", 1.0)
    for name, content in BAD.items():
        (folder / name).write_bytes(content)
    return folder


def test_a_broken_file_fails_the_run_before_anything_is_computed(with_bad, tmp_path):
    done = extract(f"--input={with_bad}", f"--output={tmp_path / 'made'}", check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "empty.mp4" in done.stderr and "--on_error=skip" in done.stderr
    assert "and 1 more" in done.stderr and not (tmp_path / "made").exists()


def test_a_broken_file_is_left_out_and_listed_where_the_user_says_so(with_bad, tmp_path):
    flags = ["--on_error=skip", "--encoders=audio=logmel"]
    done = extract(f"--input={with_bad}", f"--output={tmp_path / 'made'}", *flags)
    metadata = Dataset.open(tmp_path / "made").metadata
    assert set(metadata["facts"]["left_out"]) == {"empty", "letter"}
    assert all(name in done.stderr for name in BAD)
    assert any("2 clips left out" in w for w in metadata["warnings"])
    assert any("no labels" in w for w in metadata["warnings"])
    assert list(metadata["modalities"]) == ["audio"]


def test_a_clip_without_anything_is_an_error(tmp_path):
    path = clips.clip(tmp_path / "blank.mp4", 1.0, audio=False)
    [found] = Extractor(Recipe(dict(encoders.OFFLINE)))([Clip("blank", str(path))])
    assert isinstance(found, DataError)
    assert str(found).endswith("nothing to read an emotion from: no words, no sound, no face")


def test_chunks_hold_clips_of_similar_length_and_depend_on_all_that_matters(tmp_path):
    files = []
    for k in range(40):
        path = tmp_path / f"{k}.wav"
        path.write_bytes(bytes(k))
        files.append(Clip(f"{k:02d}", str(path)))
    seconds = [float((7 * k) % 40) for k in range(40)]
    planned = chunks.plan(files, seconds, tmp_path, "settings")
    order = [seconds[int(c.id)] for chunk in planned for c in chunk.clips]
    assert order == sorted(seconds)
    lengths = [[seconds[int(c.id)] for c in chunk.clips] for chunk in planned]
    assert all(len(c) <= chunks.CLIPS and sum(c) <= chunks.SECONDS for c in lengths)
    names = [chunk.path.name for chunk in planned]
    assert names == [c.path.name for c in chunks.plan(files, seconds, tmp_path, "settings")]
    assert not set(names) & {c.path.name for c in chunks.plan(files, seconds, tmp_path, "others")}
    (tmp_path / "0.txt").write_text("a transcript beside the first")
    changed = {c.path.name for c in chunks.plan(files, seconds, tmp_path, "settings")}
    assert len(set(names) - changed) == 1


class Failing:
    """An extractor that reads nothing."""

    def __call__(self, clips):
        return [DataError("no") for _ in clips]


def test_a_chunk_that_is_damaged_or_failed_is_not_done(tmp_path):
    chunk = chunks.Chunk(tmp_path / "c.npz", (Clip("x", "x.wav"),))
    assert not chunks.is_done(chunk)
    chunks.extract(chunk, Failing())
    assert chunks.notes(chunk) == [{"error": "no"}] and not chunks.is_done(chunk)
    np.savez(chunk.path, notes=np.asarray(json.dumps([{"words": ""}])))
    assert chunks.is_done(chunk)
    whole = chunk.path.read_bytes()
    for content in (b"", whole[:50], whole[:-20]):
        chunk.path.write_bytes(content)
        assert not chunks.is_done(chunk)


def test_nothing_to_extract_is_no_work():
    assert list(chunks.run([], Failing(), workers=2)) == []


def test_an_id_may_come_back_in_another_split_with_another_file(tmp_path):
    tone = clips.tone(1.0, 16000)
    rows = []
    for split, level in (("train", 1.0), ("test", 0.1)):
        clips.clip(tmp_path / f"{split}.wav", 1.0, wave=level * tone, sample_rate=16000)
        rows.append({"id": "u", "file": f"{split}.wav", "split": split, "group": split})
    write(tmp_path / "t.csv", rows)
    flags = [f"--input={tmp_path / 't.csv'}", "--encoders=audio=logmel"]
    extract(*flags, f"--output={tmp_path / 'made'}")
    dataset = Dataset.open(tmp_path / "made")
    loud, quiet = (dataset.source(s)[0]["audio"].astype(float).max() for s in ("train", "test"))
    assert abs(loud - quiet - np.log(100)) < 0.2  # power, in natural logarithms
    assert list(dataset.metadata["sources"]) == ["t.csv"]


def test_what_belongs_to_a_media_file_is_found(tmp_path):
    (tmp_path / "spk").mkdir()
    clips.clip(tmp_path / "spk" / "x.wav", 1.0)
    (tmp_path / "spk" / "x.wav").rename(tmp_path / "spk" / "x.WAV")
    (tmp_path / "spk" / "x.csv").write_text("start,end,text\n0,1,so it goes\n")
    assert [(c.id, c.words()) for c in listing.find(tmp_path / "spk").clips] == [
        ("x", "so it goes")
    ]
    write(tmp_path / "t.csv", [{"id": "spk/x", "transcript": ""}])
    [clip] = listing.find(tmp_path / "t.csv").clips
    assert clip.words() == "so it goes"


def test_tables_of_clips(tmp_path):
    clips.clip(tmp_path / "one.wav", 1.0)
    rows = [{"id": "one", "transcript": "so it goes", "label:joy": "0.5", "label:anger": "0"}]
    write(tmp_path / "t.csv", rows)
    [clip], [utterance], columns, table = listing.find(tmp_path / "t.csv")
    assert table == tmp_path / "t.csv"
    assert clip == Clip("one", str(tmp_path / "one.wav"), 0.0, None, "so it goes")
    assert clip.words() == "so it goes" and columns == ["joy", "anger"]
    assert utterance.annotations == {"dimensions": [0.5, 0.0]}
    assert listing.find(tmp_path)[0] == [clip]  # the only table in the folder


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"file": "no.wav"}, r"t\.csv: row 1 \(x\): no\.wav is not there"),
        ({"file": "one.wav", "start": "soon"}, r"row 1 \(x\): `start` is 'soon', no seconds"),
        ({"file": "one.wav", "end": "nan"}, "`end` is 'nan', no seconds"),
        ({"file": "one.wav", "start": 2, "end": 1}, "ends before it starts"),
        ({"file": "one.wav", "label": ""}, "1 rows have no `label`"),
    ],
)
def test_a_bad_table_is_one_clear_error(tmp_path, row, said):
    clips.clip(tmp_path / "one.wav", 1.0)
    write(tmp_path / "t.csv", [{"id": "x"} | row])
    with pytest.raises(DataError, match=said):
        listing.find(tmp_path / "t.csv")


def test_an_encoder_that_does_not_exist_is_an_error_that_lists_those_that_do():
    with pytest.raises(DataError, match=r"'audio=wav2vec3'; there are text=minilm bert:DIR; audio"):
        encoders.parse(["audio=wav2vec3"])
    with pytest.raises(DataError, match="write audio=wav2vec:FILE"):
        encoders.make("audio", "wav2vec")
    assert encoders.parse(["vision=facemesh", "text=bert:some/dir"]) == {
        "text": "bert:some/dir",
        "vision": "facemesh",
    }


def test_json_of_a_recipe_is_the_recipe():
    recipe = Recipe({"audio": "mfcc"}, 5.0, "whisper")
    assert Recipe(**json.loads(json.dumps(vars(recipe)))) == recipe
