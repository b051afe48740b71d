"""Batches of many requests, streams in pieces: without a network."""

import asyncio
import io
import types

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from imat_jax.artifact import Answer
from imat_jax.data.corpus import DataError, Modality
from imat_jax.encoders.encoder import SAMPLE_RATE, Encoder
from imat_jax.encoders.extractor import Recipe
from imat_jax.encoders.faces import Detections
from imat_jax.serving import answers
from imat_jax.serving.batcher import Batcher, Full
from imat_jax.serving.live import Stream

SIZE, STEP, DIM = 4000, 1280, 3


@given(
    st.lists(st.tuples(st.integers(0, 9), st.sampled_from("ab")), max_size=30), st.integers(1, 8)
)
def test_every_example_gets_its_own_answer(requests, rows):
    lists = []

    def compute(examples, bucket):
        lists.append((examples, bucket))
        return [(x, bucket) for x in examples]

    async def ask():
        async with Batcher(compute, rows=rows, waiting=10_000) as batcher:
            sent = [[(i, k) for k in range(n)] for i, (n, _) in enumerate(requests)]
            got = await asyncio.gather(
                *(batcher.submit(x, b) for x, (_, b) in zip(sent, requests, strict=True))
            )
            assert batcher.waiting == 0
        assert got == [[(x, b) for x in xs] for xs, (_, b) in zip(sent, requests, strict=True)]

    asyncio.run(ask())
    assert all(len(examples) <= rows for examples, _ in lists)
    bucket_of = {i: bucket for i, (_, bucket) in enumerate(requests)}
    assert all(bucket_of[i] == bucket for examples, bucket in lists for i, _ in examples)


def test_a_full_queue_takes_nothing_and_a_failure_reaches_who_asked():
    async def ask():
        open_ = asyncio.Event()
        loop = asyncio.get_running_loop()

        def compute(examples, bucket):
            asyncio.run_coroutine_threadsafe(open_.wait(), loop).result()
            if bucket == "bad":
                raise ValueError("no")
            return examples

        async with Batcher(compute, rows=2, waiting=3) as batcher:
            first = asyncio.create_task(batcher.submit([1, 2], "a"))
            await asyncio.sleep(0.01)  # it is being computed now
            second = asyncio.create_task(batcher.submit([3, 4, 5], "a"))
            await asyncio.sleep(0)
            with pytest.raises(Full):
                await batcher.submit([6], "a")
            gone = asyncio.create_task(batcher.submit([7], "a"))
            await asyncio.sleep(0)
            assert gone.done() and isinstance(gone.exception(), Full)
            open_.set()
            assert await first == [1, 2] and await second == [3, 4, 5]
            with pytest.raises(ValueError, match="no"):
                await batcher.submit([8], "bad")
            assert await batcher.submit([9], "a") == [9]

    asyncio.run(ask())


class Fake:
    """An extractor whose frames of sound are the mean, least and most of what they see."""

    recipe = Recipe({}, fps=10.0)

    def __init__(self, stride):
        def encode(inputs):
            return [
                np.asarray(
                    [(w.mean(), w.min(), w.max()) for w in windows(wave)], np.float32
                ).reshape(-1, DIM)
                for wave in inputs
            ]

        def windows(wave):
            return [wave[k : k + SIZE] for k in range(0, len(wave) - SIZE + 1, STEP)]

        rate = SAMPLE_RATE / STEP
        self.calls = 0
        self.encoders = {
            "audio": Encoder(Modality(DIM, "fake", "none", "none", rate), encode, stride),
            "vision": Encoder(
                Modality(DIM, "fake", "none", "none"),
                lambda inputs: [crops.mean(axis=(1, 2)).astype(np.float32) for crops in inputs],
            ),
            "text": Encoder(Modality(DIM, "fake", "none", "none"), self.words),
        }

    def words(self, texts):
        self.calls += 1
        return [np.full((len(t.split()), DIM), len(t), np.float32) for t in texts]

    def text(self, words):
        return self.encoders["text"].encode([words])[0]

    detector = property(lambda self: Seen())


class Seen:
    """A detector that sees one face, where it was."""

    def __call__(self, frame):
        return self.near(frame, None)

    def near(self, frame, box):
        return Detections(np.array([[10.0, 10, 50, 50]]), np.ones(1))


@given(st.lists(st.integers(1, 9000), min_size=1, max_size=40), st.sampled_from([1.0, 3.0]))
def test_sound_in_pieces_is_sound_as_a_whole(pieces, window):
    """With a stride frames are made once, and they are those of the whole stream."""
    random = np.random.default_rng(0)
    wave = random.integers(-(2**15), 2**15, sum(pieces)).astype("<i2")
    fake = Fake(stride=(SIZE, STEP))
    (whole,) = fake.encoders["audio"].encode([wave.astype(np.float32) / 2**15])
    stream, at = Stream(fake, window), 0
    for size in pieces:
        stream.sound(at / SAMPLE_RATE, wave[at : at + size].tobytes())
        at += size
        got = stream.features()["audio"]
        made = max(0, (at - SIZE) // STEP + 1)
        first = round(max(stream.time - window, 0) * SAMPLE_RATE / STEP)
        np.testing.assert_array_equal(got, whole[min(first, made) : made])
    assert stream.time == pytest.approx(at / SAMPLE_RATE)


def test_an_encoder_without_a_stride_sees_the_window():
    fake = Fake(stride=None)
    stream = Stream(fake, 1.0)
    wave = (np.arange(3 * SAMPLE_RATE) % 1000).astype("<i2")
    for k in range(0, len(wave), 4000):
        stream.sound(k / SAMPLE_RATE, wave[k : k + 4000].tobytes())
        end = (k + 4000) / SAMPLE_RATE
        last = wave[round(max(end - 1.0, 0) * SAMPLE_RATE) : k + 4000]
        (want,) = fake.encoders["audio"].encode([last.astype(np.float32) / 2**15])
        np.testing.assert_array_equal(stream.features()["audio"], want)


@pytest.mark.parametrize("stride", [(SIZE, STEP), None])
def test_gaps_and_repeats_of_sound(stride):
    loud = np.full(SAMPLE_RATE, 2**14, "<i2").tobytes()
    stream = Stream(Fake(stride), 2.0)
    stream.sound(0.0, loud)
    stream.sound(0.5, loud)  # half of it again
    assert stream.time == 1.5
    stream.features()
    stream.sound(1.75, loud)  # after a quarter of a second of nothing
    got = stream.features()["audio"]
    assert got[:, 1].min() == 0 and got[:, 2].max() == 0.5
    stream.sound(500.0, loud)  # a laptop was closed
    got = stream.features()["audio"]
    assert stream.time == 501 and len(got) and got[-1].tolist() == [0.5, 0.5, 0.5]
    assert len(got) <= 2.0 * SAMPLE_RATE / STEP + 1
    assert len(stream._sound._wave) <= 3.0 * SAMPLE_RATE
    with pytest.raises(DataError, match="even number of bytes"):
        stream.sound(501.0, b"abc")


def jpeg(value, size=(64, 64)):
    file = io.BytesIO()
    Image.new("RGB", size, (value,) * 3).save(file, "JPEG")
    return file.getvalue()


def test_pictures_and_words_of_the_window():
    fake = Fake(None)
    stream = Stream(fake, 1.0)
    for k in range(20):
        stream.picture(k / 10, jpeg(10 * k))
    stream.picture(0.5, jpeg(0))  # out of order: not looked at
    got = stream.features()["vision"]
    assert len(got) == 11  # from 0.9 s to 1.9 s
    assert got[-1] == pytest.approx(190, abs=2) and got[0] == pytest.approx(90, abs=2)
    assert stream.face()["time"] == 1.9 and len(stream.face()["box"]) == 4
    stream.say("so it is")
    for _ in range(3):
        assert stream.features()["text"].shape == (3, DIM)
    assert fake.calls == 1
    stream.say(" ")
    assert stream.features()["text"].shape == (0, DIM)
    for wrong in (b"", b"GIF89a", jpeg(0)[:40], b"\x89PNG\r\n\x1a\n"):
        with pytest.raises(DataError, match="not a JPEG"):
            stream.picture(5.0, wrong)
    with pytest.raises(DataError, match="at most 4096 on a side"):
        stream.picture(5.0, jpeg(0, (5000, 8)))


def test_an_answer_that_is_not_finite_is_none():
    artefact = types.SimpleNamespace(
        values=("glad", "sad"), labels=lambda values: {"label": "glad"}
    )
    said = answers.prediction(artefact, np.array([0.25, 0.75]))
    assert said == {"values": {"glad": 0.25, "sad": 0.75}, "label": "glad"}
    with pytest.raises(DataError, match="no finite answer"):
        answers.prediction(artefact, np.array([np.nan, np.nan]))


def test_attention_over_words():
    answer = Answer(
        np.zeros(2), np.zeros(2, np.float32), {"text": 5},
        {
            "audio<-text": np.array([0.2, 0.1, 0.1, 0.4, 0.2]),
            "vision<-text": np.array([0.2, 0.3, 0.1, 0.2, 0.2]),
            "text<-audio": np.array([1.0]),
        },
    )  # fmt: skip
    tokens = ["[CLS]", "un", "##likely", "yes", "[SEP]"]
    got = answers.words(tokens, answer)
    assert [w["word"] for w in got] == ["unlikely", "yes"]
    assert [w["weight"] for w in got] == [0.5, 0.5]
    assert answers.words(tokens[:4], answer) == []  # not those that were read
    assert answers.envelope(np.array([0.1, -0.5, 0.2]), 100, 50) == {"hz": 50, "peaks": [0.5, 0.2]}
    assert answers.shares([-5, 10, 50, 200], 100, 100) == [0.0, 0.1, 0.5, 1.0]
    assert answers.shares(None, 100, 100) is None
