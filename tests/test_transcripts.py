"""Transcripts in their four formats, and what is no transcript."""

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imat_jax.data.corpus import DataError
from imat_jax.encoders import asr, transcripts
from imat_jax.encoders.transcripts import Cue

SRT = """\ufeff1
00:00:01,000 --> 00:00:02,500
Well, <i>that</i>
was {\\an8}fun.

2
01:02:03.040 --> 01:02:04.000  X1:40 X2:600 Y1:20 Y2:50
3 < 4 & so on


3
00:00:05,000 --> 00:00:06,000

"""

VTT = """WEBVTT - a title
Kind: captions

STYLE
::cue { color: red }

NOTE
this is no cue

first
00:01.000 --> 00:02.500 align:start position:0%
<v Ann>Well, <c.loud>that</c> was</v>
<00:01.500><b>fun</b>.

NOTE neither is this

00:00:03.250 --> 00:00:04.000
5 &lt; 6 &amp; caf&eacute;&nbsp;au lait
"""


def read(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return transcripts.read(path)


def refused(folder, name, content):
    with pytest.raises(DataError) as error:
        read(folder, name, content)
    assert str(error.value).startswith(str(folder / name))
    return str(error.value).removeprefix(f"{folder / name}: ")


def test_plain_text(tmp_path):
    for content in ("\ufeffIt was été\r\n  fun.\n", "It was été fun.".encode("utf-16")):
        found = read(tmp_path, "a.txt", content)
        assert found == transcripts.Transcript("It was été fun.", ())
        assert found.text_between(3, 4) == "It was été fun."


def test_subrip(tmp_path):
    expected = (Cue(1.0, 2.5, "Well, that was fun."), Cue(3723.04, 3724.0, "3 < 4 & so on"))
    for content in (SRT, SRT.replace("\n", "\r\n"), SRT.replace("\n", "\r")):
        found = read(tmp_path, "a.SRT", content)
        assert found.cues == expected
        assert found.text == "Well, that was fun. 3 < 4 & so on"


def test_webvtt(tmp_path):
    found = read(tmp_path, "a.vtt", VTT)
    assert found.cues == (
        Cue(1.0, 2.5, "Well, that was fun."),
        Cue(3.25, 4.0, "5 < 6 & café au lait"),
    )


def test_a_table(tmp_path):
    table = 'start,end,text\n0.5,1.25,"Well, that"\n1.25,2,"was\nfun ""indeed"""\n2,3,\n'
    cues = (Cue(0.5, 1.25, "Well, that"), Cue(1.25, 2.0, 'was fun "indeed"'))
    found = read(tmp_path, "a.csv", table)
    assert found.cues == cues
    assert found.text == 'Well, that was fun "indeed"'
    other = "id;Text;End;Start\r\n1;yes;2;1\r\n"
    assert read(tmp_path, "b.csv", other).cues == (Cue(1.0, 2.0, "yes"),)
    odd = "start,end,text\n0,1,a\u2028b\n"  # a line separator that ends no row
    assert read(tmp_path, "b.csv", odd).cues == (Cue(0.0, 1.0, "a b"),)
    assert read(tmp_path, "c.csv", "text\nyes\nno\n") == transcripts.Transcript("yes no")


def test_the_text_of_a_part(tmp_path):
    found = read(tmp_path, "a.csv", "start,end,text\n0,1,a\n1,2,b\n2,3,c\n")
    spans = {(0, 1): "a", (0.5, 1.5): "a b", (1, 3): "b c", (3, 9): "", (0, 9): "a b c"}
    assert {span: found.text_between(*span) for span in spans} == spans


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *((f"a{suffix}", "") for suffix in transcripts.SUFFIXES),
        *((f"a{suffix}", "\ufeff\r\n \r\n") for suffix in transcripts.SUFFIXES),
        ("a.vtt", "WEBVTT"),
        ("a.csv", "start,end,text\n"),
        ("a.csv", "text\n\n"),
        ("a.srt", "1\n00:00:01,000 --> 00:00:02,000\n\n"),
    ],
)
def test_nothing_said_is_no_error(tmp_path, name, content):
    assert read(tmp_path, name, content) == transcripts.Transcript("")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "Hello\nworld\n",
            "line 2: 00:00:01,000 --> 00:00:02,000 must come here; it says 'world'",
        ),
        ("\n\n1\n00:00:01,000 -> 00:00:02,000\na\n", "line 4: "),
        ("1\n00:00:01 --> 00:00:02\na\n", "line 2: "),
        ("1\n00:00:01,000 --> 00:00:99,000\na\n", "line 2: "),
        ("1\n", "line 1: "),
        ("1\n00:00:02,000 --> 00:00:01,000\na\n", "line 2: the cue ends before it begins"),
        (SRT.replace("fun.\n\n2\n", "fun.\n2\n"), "line 6: no empty line before this cue"),
    ],
)
def test_malformed_subrip(tmp_path, content, message):
    assert refused(tmp_path, "a.srt", content).startswith(message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("00:01.000 --> 00:02.000\na\n", "line 1: a .vtt file begins with WEBVTT"),
        ("WEBVTTX\n\n", "line 1: "),
        ("WEBVTT\n\nid\n00:01.000 --> 0:0\na\n", "line 4: "),
    ],
)
def test_malformed_webvtt(tmp_path, content, message):
    assert refused(tmp_path, "a.vtt", content).startswith(message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("start,end,words\n0,1,a\n", "line 1: no column `text`"),
        ("start,text\n0,a\n", "line 1: a column `start` needs a column `end`"),
        ("start,end,text\n0,1,a\n0,one,b\n", "line 3: start and end must be seconds"),
        ("start,end,text\n2,1,a\n", "line 2: start and end must be seconds, start first"),
        ("start,end,text\n-1,1,a\n", "line 2: "),
        ("start,end,text\n0,inf,a\n", "line 2: "),
        ("start,end,text\n,,a\n", "line 2: "),
        ("start,end,text\n0,1\n", "line 2: 3 columns are needed"),
        ("start,end,text\n0,1,a,b\n", "line 2: 3 columns are needed"),
        ('text\n"a\n', "line 2: "),
    ],
)
def test_malformed_tables(tmp_path, content, message):
    assert refused(tmp_path, "a.csv", content).startswith(message)


@pytest.mark.parametrize("suffix", transcripts.SUFFIXES)
def test_other_encodings_are_named(tmp_path, suffix):
    message = refused(tmp_path, f"a{suffix}", "text\nété\n".encode("latin-1"))
    assert message == "line 2: not UTF-8; save the file as UTF-8"
    assert "zero bytes" in refused(tmp_path, f"a{suffix}", "text".encode("utf-16-le"))


def test_what_is_no_transcript(tmp_path):
    assert "one of .srt, .vtt, .csv, .txt is read" in refused(tmp_path, "a.docx", "")
    for path in (tmp_path / "b.txt", tmp_path):
        with pytest.raises(DataError, match=str(path)):
            transcripts.read(path)


def test_the_transcript_beside_a_file(tmp_path):
    film = tmp_path / "a.b.mp4"
    (tmp_path / "a.txt").touch()
    assert transcripts.beside(film) is None
    for suffix in reversed(transcripts.SUFFIXES):
        (tmp_path / f"a.b{suffix}").touch()
        assert transcripts.beside(film) == tmp_path / f"a.b{suffix}"


WORDS = st.text(
    st.characters(exclude_categories=["C", "Z"], exclude_characters='<>{}&"'), min_size=1
)
TIME = st.integers(0, 10**8)  # milliseconds


@st.composite
def spoken(draw):
    start, end = sorted((draw(TIME), draw(TIME)))
    return Cue(start / 1000, end / 1000, " ".join(draw(st.lists(WORDS, min_size=1, max_size=3))))


def stamp(seconds, point):
    whole, thousandths = divmod(round(seconds * 1000), 1000)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}{point}{thousandths:03}"


@given(cues=st.lists(spoken(), max_size=4))
def test_round_trip(tmp_path_factory, cues):
    folder = tmp_path_factory.getbasetemp()
    for suffix, point, head in ((".srt", ",", ""), (".vtt", ".", "WEBVTT\n\n")):
        blocks = (
            f"{k}\n{stamp(c.start, point)} --> {stamp(c.end, point)}\n{c.text}\n\n"
            for k, c in enumerate(cues, 1)
        )
        found = read(folder, f"round{suffix}", head + "".join(blocks))
        assert found.cues == tuple(cues)
    rows = (f'{c.start},{c.end},"{c.text}"\n' for c in cues)
    assert read(folder, "round.csv", "start,end,text\n" + "".join(rows)).cues == tuple(cues)


PIECES = st.sampled_from(
    ["1", "-->", "00:00:01,000", "\n", "\r", "WEBVTT", ",", '"', "text", " ", "<"]
)


@given(content=st.one_of(st.binary(), st.lists(PIECES).map(lambda p: "".join(p).encode())))
def test_noise_is_a_transcript_or_an_error(tmp_path_factory, content):
    for suffix in transcripts.SUFFIXES:
        for head in (b"", b"WEBVTT\n\n", b"start,end,text\n"):
            try:
                found = read(tmp_path_factory.getbasetemp(), f"noise{suffix}", head + content)
            except DataError:
                continue
            assert found.text == " ".join(found.text.split())


def test_recognition_without_pytorch_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(DataError, match=r"needs PyTorch: pip install 'imat_jax\[features\]'"):
        asr.transcribe(np.zeros(16000, np.float32), tmp_path)
