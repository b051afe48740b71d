"""The service, asked over HTTP and WebSocket: answers, limits, and what must not get through."""

import concurrent.futures
import contextlib
import io
import json
import os
import pathlib
import signal
import socket
import struct
import tempfile
import threading
import time
import zipfile

import clips
import httpx
import numpy as np
import pytest
import served
import talking
from PIL import Image
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from imat_jax import artifact
from imat_jax.encoders import media

TOKEN = "a token of many letters"
MODALITIES = {"text": 384, "audio": 96, "vision": 223}


@pytest.fixture(scope="module")
def folder(shared):
    return shared("on-media", served.make_run)


@pytest.fixture(scope="module")
def away(tmp_path_factory):
    """Where the service keeps uploads while it reads them."""
    place = tmp_path_factory.mktemp("uploads")
    before, tempfile.tempdir = tempfile.tempdir, str(place)
    yield place
    tempfile.tempdir = before


@pytest.fixture(scope="module")
def service(folder, away):
    """Short media only, so that what is too long is quickly made."""
    limits = dict(bytes=2 << 20, seconds=5.0, hop=0.25, window=1.0)
    with served.serving(folder / "artifact", **limits) as url:
        yield url


def example(seed):
    random = np.random.default_rng(seed)
    lengths = random.integers(0, 12, len(MODALITIES))
    lengths[seed % 3] += 1
    return {
        m: random.standard_normal((length, dim)).astype(np.float32).round(3)
        for (m, dim), length in zip(MODALITIES.items(), lengths, strict=True)
    }


def asked(url, features, **more):
    said = {m: x.tolist() for m, x in features.items()} | more
    return httpx.post(f"{url}/predict", json=said, timeout=60)


def upload(url, file, name="clip.mp4", **fields):
    return httpx.post(f"{url}/predict", files={"file": (name, file)}, data=fields, timeout=60)


def test_features_of_many_at_once(service, folder):
    """Every answer is of the request that bears its id, and is what the artefact says."""
    artefact = artifact.load(folder / "artifact")
    with httpx.Client(timeout=60) as client:

        def ask(k):
            said = {m: x.tolist() for m, x in example(k).items()} | {"id": f"request {k}"}
            detail = "true" if k % 3 else "false"
            return client.post(f"{service}/predict?detail={detail}", json=said)

        with concurrent.futures.ThreadPoolExecutor(16) as threads:
            answers = list(threads.map(ask, range(60)))
    wanted = artefact.predict([example(k) for k in range(60)])
    for k, (answer, want) in enumerate(zip(answers, wanted, strict=True)):
        assert answer.status_code == 200, answer.text
        said = answer.json()
        assert said["id"] == f"request {k}"
        got = list(said["prediction"]["values"].values())
        np.testing.assert_allclose(got, want.values, atol=2e-5)
        if k % 3:
            there = {m for m, x in example(k).items() if len(x)}
            assert set(said["missing"]) == set(MODALITIES) - there
            assert len(said["subsets"]) == 2 ** len(there) - 1
            total = sum(np.array(list(v.values())) for v in said["contributions"].values())
            base = np.array(list(said["base"].values()))
            np.testing.assert_allclose(base + total, got, atol=1e-4)
        else:
            assert "subsets" not in said


def test_a_clip_is_what_predict_says_of_it(service, folder, tmp_path):
    file = folder / "media" / "all.mp4"
    done = served.program("predict", f"--workdir={folder / 'run'}", "--json", "--nostrip",
                          f"--output={tmp_path}", "--transcript=hello there", file)  # fmt: skip
    [want] = json.loads(done.stdout)
    answer = upload(service, file.read_bytes(), transcript="hello there", id="x")
    assert answer.status_code == 200, answer.text
    said = answer.json()
    assert said["id"] == "x" and said["missing"] == [] and said["transcript"] == "hello there"
    assert said["frames"] == want["frames"]
    manifest = artifact.load(folder / "artifact").manifest
    raised = {
        name: value ** (1 / manifest["calibration"]["temperature"])
        for name, value in want["prediction"]["values"].items()
    }
    for name, value in raised.items():
        calibrated = value / sum(raised.values())
        assert said["prediction"]["values"][name] == pytest.approx(calibrated, abs=1e-4)
    assert said["subsets"]["text+audio+vision"] == said["prediction"]["values"]
    assert [w["word"] for w in said["words"]] == ["hello", "there"]
    assert sum(w["weight"] for w in said["words"]) == pytest.approx(1, abs=1e-3)
    boxes = [face["box"] for face in said["faces"]]
    assert len(boxes) == want["pictures"] and all(0 <= min(b) < max(b) <= 1 for b in boxes)
    assert len(said["waveform"]["peaks"]) == pytest.approx(50 * said["seconds"], abs=3)
    starts = [w["start"] for w in said["windows"]]
    assert starts == [0.25 * k for k in range(len(starts))] and said["windows"][-1]["end"] >= 1.19
    assert answer.headers["content-security-policy"].startswith("default-src 'self'")


def test_what_cannot_be_read_is_said_and_nothing_stays(service, folder, away, tmp_path):
    whole = (folder / "media" / "all.mp4").read_bytes()
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(50 << 20))
    clips.clip(tmp_path / "long.mp4", 8.0, size=(32, 32), fps=2)
    huge = io.BytesIO()
    Image.new("RGB", (9000, 9000)).save(huge, "PNG")
    wrong = {
        "no media": (b"Dear Sir or Madam", 422),
        "empty": (b"", 422),
        "cut off": (whole[: len(whole) // 2], 422),
        "bomb": (bomb.getvalue(), 422),
        "long": ((tmp_path / "long.mp4").read_bytes(), 422),
        "huge": (huge.getvalue(), 422),
        "large": (bytes(3 << 20), 413),
    }
    for name, (content, status) in wrong.items():
        answer = upload(service, content)
        assert answer.status_code == status, (name, answer.text)
        assert set(answer.json()) == {"error"} and str(away) not in answer.text
    assert "at most 5 s" in upload(service, wrong["long"][0]).json()["error"]
    assert "pixels" in upload(service, wrong["huge"][0]).json()["error"]
    for name in ("../../../etc/passwd", "/etc/shadow", "C:\\x", "a\0b", "x" * 5000):
        assert upload(service, b"no", name=name).status_code in (400, 422)
    assert list(away.iterdir()) == []
    assert upload(service, whole).status_code == 200


def test_wrong_requests(service):
    post = lambda **kw: httpx.post(f"{service}/predict", timeout=30, **kw)  # noqa: E731
    frame = [0.0] * 384
    said = {
        "no modality": ({"smell": [[1]]}, "there is no modality 'smell'"),
        "no frames": ({"text": []}, "no frames of any modality"),
        "width": ({"text": [frame[:5]]}, "text is rows of 384 numbers"),
        "ragged": ({"text": [frame, frame[:5]]}, "text is rows of 384 numbers"),
        "strings": ({"text": [["a"] * 384]}, "text is rows of 384 numbers"),
        "truths": ({"text": [[True] * 384]}, "text is rows of 384 numbers"),
        "large": ({"text": [[1e16] * 384]}, "numbers beyond 1e+15"),
        "long": ({"text": [[]] * 5000}, "text has 5000 frames"),
        "id": ({"id": 5, "text": [frame]}, "id is a text"),
        "list": ([1], "an object of modalities"),
    }
    for name, (body, message) in said.items():
        answer = post(json=body)
        assert answer.status_code == 422 and message in answer.json()["error"], (name, answer.text)
    for body in (b"", b"{", b"\xff\xfe", b'{"text": [[NaN]]}', b"[" * 100_000):
        answer = post(content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 400 and "not JSON" in answer.json()["error"]
    assert post(content=b"x", headers={"content-type": "text/plain"}).status_code == 415
    assert post(data={"id": "x"}, files={"other": b"x"}).status_code == 422
    assert post(data={"file": "no file"}, files={"x": b""}).status_code == 422
    assert httpx.get(f"{service}/predict").status_code == 405
    for path in ("/nothing", "/static/../app.py", "/static/%2e%2e/app.py", "/static//etc/passwd"):
        assert httpx.get(service + path).status_code == 404
    origins = {"https://evil.example": 403, "null": 403, "http://[": 403, service: 422}
    for origin, status in origins.items():
        assert post(json={}, headers={"origin": origin}).status_code == status
    # A name that somebody's page points at this machine.
    answer = httpx.get(f"{service}/health", headers={"host": "evil.example"})
    assert answer.status_code == 400


def test_bodies_of_chance(service, away):
    random = np.random.default_rng(0)
    kinds = [
        "application/json", "multipart/form-data; boundary=b", "multipart/form-data", "text/plain",
        "application/x-www-form-urlencoded", "",
    ]  # fmt: skip
    counts = {}
    with httpx.Client(timeout=30) as client:
        for k in range(240):
            content = random.bytes(int(random.integers(0, 3000)))
            kind = kinds[k % len(kinds)]
            if "boundary" in kind and k % 12 < 6:
                name = random.choice(["file", "transcript", "id", "\\", '"'])
                head = f'--b\r\nContent-Disposition: form-data; name="{name}"; filename="../{k}"'
                content = head.encode() + b"\r\n\r\n" + content + b"\r\n--b--\r\n"
            answer = client.post(f"{service}/predict", content=content,
                                 headers={"content-type": kind})  # fmt: skip
            counts[answer.status_code] = counts.get(answer.status_code, 0) + 1
            assert set(answer.json()) == {"error"}
    assert set(counts) <= {400, 415, 422}, counts
    assert list(away.iterdir()) == []
    assert httpx.get(f"{service}/health").json()["queue"] == {
        "examples": 0, "uploads": 0, "sessions": 0,
    }  # fmt: skip


def test_who_is_slow_is_not_waited_for(folder):
    with served.serving(folder / "artifact", encoders=False, arrival=2.0) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=30) as slow:
            slow.sendall(
                b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n"
                b"Content-Type: application/json\r\n\r\n{"
            )
            assert b" 408 " in slow.recv(4096).partition(b"\r\n")[0]


def test_only_who_knows_the_token(folder):
    with served.serving(folder / "artifact", encoders=False, token=TOKEN) as url:
        assert httpx.get(f"{url}/health").json()["auth"] is True
        assert httpx.get(f"{url}/").status_code == 200
        for header in (None, "Bearer", "Bearer wrong", f"Basic {TOKEN}", "Bearer ü"):
            given = {"authorization": header.encode()} if header else {}
            answer = httpx.post(f"{url}/predict", json={}, headers=given)
            assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
        given = {"authorization": f"Bearer {TOKEN}"}
        said = {m: x.tolist() for m, x in example(1).items()}
        assert httpx.post(f"{url}/predict", json=said, headers=given).status_code == 200
        # Without encoders it takes features only.
        answer = httpx.post(f"{url}/predict", files={"file": b"x"}, headers=given)
        assert answer.status_code == 415 and "send features" in answer.json()["error"]
        # Behind a proxy, by whatever name.
        assert httpx.get(f"{url}/health", headers={"host": "example.com"}).status_code == 200
        for token in ("wrong", None, 5, "\ud800"):
            assert "token" in start_is_refused(url, token=token)
        assert "cannot read a stream" in start_is_refused(url, token=TOKEN)


def start_is_refused(url, **said):
    with connect(url.replace("http", "ws") + "/live") as stream:
        stream.send(json.dumps({"type": "start"} | said))
        answer = json.loads(stream.recv(5))
        with pytest.raises(ConnectionClosed):
            stream.recv(5)
    assert answer["type"] == "error"
    return answer["error"]


def test_a_full_queue_says_come_again(folder):
    with served.serving(folder / "artifact", encoders=False, rows=1, waiting=8) as url:
        with concurrent.futures.ThreadPoolExecutor(40) as threads:
            answers = list(threads.map(lambda k: asked(url, example(0)), range(80)))
        codes = {answer.status_code for answer in answers}
        assert codes == {200, 429}
        full = next(a for a in answers if a.status_code == 429)
        assert full.headers["retry-after"] == "1" and "try again" in full.json()["error"]
        assert asked(url, example(0)).status_code == 200


def test_a_decoder_that_dies_or_hangs_is_replaced(folder, away):
    file = (folder / "media" / "all.mp4").read_bytes()
    others = decoders()
    signs = {signal.SIGKILL: "the decoder died", signal.SIGSTOP: "longer than 8 s"}
    with served.serving(folder / "artifact", work=8.0) as url:
        for sign, message in signs.items():
            (decoder,) = decoders() - others
            os.kill(decoder, signal.SIGSTOP)
            with concurrent.futures.ThreadPoolExecutor(1) as thread:
                waiting = thread.submit(upload, url, file)
                while not list(away.iterdir()):
                    time.sleep(0.01)
                os.kill(decoder, sign)
                answer = waiting.result()
            assert answer.status_code == 422 and message in answer.json()["error"]
            assert upload(url, file).status_code == 200
        assert list(away.iterdir()) == []
    assert decoders() == others


def decoders():
    """Processes below this one that read media."""
    found = set()
    for command in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = command.read_bytes().split(b"\0")
            parent = command.with_name("stat").read_text().rpartition(")")[2].split()[1]
            if b"imat_jax.serving.decoder" in words and int(parent) == os.getpid():
                found.add(int(command.parent.name))
    return found


def piece(kind, at, content):
    return struct.pack("<Bd", kind, at) + content


def stream_of(file, hop=0.1):
    """(seconds, message) of a clip's sound and pictures, as a browser sends them."""
    wave = (media.audio(file) * 32767).astype("<i2")
    size = int(hop * 16_000)
    for k in range(0, len(wave), size):
        yield k / 16_000, piece(1, k / 16_000, wave[k : k + size].tobytes())
    for at, picture in media.frames(file, 10):
        packed = io.BytesIO()
        Image.fromarray(picture).save(packed, "JPEG", quality=95)
        yield at, piece(2, at, packed.getvalue())


def test_a_live_stream(service, folder):
    file = folder / "media" / "all.mp4"
    with connect(service.replace("http", "ws") + "/live") as stream:
        stream.send(json.dumps({"type": "start"}))
        ready = json.loads(stream.recv(10))
        assert ready["type"] == "ready" and ready["sample_rate"] == 16_000 and ready["hop"] == 0.25
        assert httpx.get(f"{service}/health").json()["queue"]["sessions"] == 1
        stream.send(json.dumps({"type": "text", "text": "hello there"}))
        for _, message in sorted(stream_of(file)):
            stream.send(message)
        stream.send(json.dumps({"type": "stop"}))
        updates = []
        with contextlib.suppress(ConnectionClosed):
            while True:
                updates.append(json.loads(stream.recv(30)))
    assert {u["type"] for u in updates} == {"update"} and len(updates) >= 3
    times = [u["time"] for u in updates]
    assert times == sorted(times) and times[-1] == pytest.approx(1.2, abs=0.3)
    for update in updates:
        values = update["prediction"]["values"]
        assert abs(sum(values.values()) - 1) < 1e-4 and update["latency_ms"] >= 0
        assert update["frames"]["text"] == 4  # with what the tokenizer puts around
    last = updates[-1]
    assert last["missing"] == [] and len(last["subsets"]) == 7 and len(last["words"]) == 2
    # Sent all at once, some pictures wait too long to be looked at.
    assert last["frames"]["vision"] >= 5 and 0 <= min(last["face"]["box"]) < 1
    assert httpx.get(f"{service}/health").json()["queue"]["sessions"] == 0


def test_what_a_live_stream_may_not(service):
    address = service.replace("http", "ws") + "/live"
    wrong = [
        (b"\x01", "a binary message is"),
        (piece(3, 0.0, b"xx"), "a binary message is"),
        (piece(1, float("nan"), b"xx"), "a time is in seconds"),
        (piece(1, -1.0, b"xx"), "a time is in seconds"),
        (piece(1, 0.0, b"xxx"), "even number of bytes"),
        (piece(1, 0.0, bytes(6 * 32_000)), "a piece of sound is at most 2 s long"),
        (piece(2, 0.0, b"no picture"), "not a JPEG"),
        ("no object", "an object in JSON"),
        ('{"type": "dance"}', "a text message is"),
        ('{"type": "modalities", "modalities": ["smell"]}', "modalities are among"),
    ]
    for message, error in wrong:
        with connect(address) as stream:
            stream.send(json.dumps({"type": "start"}))
            assert json.loads(stream.recv(10))["type"] == "ready"
            stream.send(message)
            said = json.loads(stream.recv(10))
            assert said["type"] == "error" and error in said["error"], said
            with pytest.raises(ConnectionClosed):
                stream.recv(5)
    with connect(address) as stream:
        stream.send("hello")
        assert "an object in JSON" in json.loads(stream.recv(5))["error"]
    with pytest.raises(Exception, match="403"), connect(address, origin="https://evil.example"):
        pass
    with connect(address) as one, connect(address) as two:
        for stream in (one, two):
            stream.send(json.dumps({"type": "start"}))
            stream.recv(5)
        assert "too many streams" in start_is_refused(service)
    deadline = time.monotonic() + 5
    while httpx.get(f"{service}/health").json()["queue"]["sessions"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_chosen_modalities_of_a_live_stream(service, folder):
    """Sound alone; then words too."""
    with connect(service.replace("http", "ws") + "/live") as stream:
        stream.send(json.dumps({"type": "start", "modalities": ["audio", "text"]}))
        stream.recv(10)
        messages = sorted(stream_of(folder / "media" / "all.mp4"))
        for _, message in messages:
            stream.send(message)
        seen = json.loads(stream.recv(30))
        while seen["prediction"] is None:  # until a frame of sound is whole
            seen = json.loads(stream.recv(30))
        assert seen["missing"] == ["text", "vision"] and list(seen["subsets"]) == ["audio"]


def test_the_answers_are_as_the_schema_says(service):
    import schemathesis

    schema = schemathesis.openapi.from_url(f"{service}/openapi.json")
    assert {op.ok().label for op in schema.get_all_operations()} == {"GET /health", "POST /predict"}
    answer = (
        schema["/predict"]["POST"]
        .Case(body={m: x.tolist() for m, x in example(2).items()}, media_type="application/json")
        .call()
    )
    assert answer.status_code == 200
    schema["/predict"]["POST"].validate_response(answer)


def test_nothing_runs_on_when_the_service_has_ended(folder):
    """Neither a thread nor a process is left behind, of one that has worked."""
    threads, others = set(threading.enumerate()), decoders()
    with served.serving(folder / "artifact") as url:
        assert upload(url, (folder / "media" / "radio.wav").read_bytes()).status_code == 200
        assert {t.name for t in threading.enumerate()} & {"model_0"} and decoders() != others
    assert [t for t in threading.enumerate() if t not in threads and t.name == "model_0"] == []
    assert decoders() == others


def test_a_clip_whose_header_lies_does_not_stop_the_others(folder, tmp_path):
    """Nothing is in any of its windows; the next request is answered all the same."""
    path = clips.clip(tmp_path / "a.mkv", 1.0, audio=False, size=(256, 256), fps=10,
                      show=lambda k, size: talking.portrait(k, size) * (k > 5))  # fmt: skip
    content = path.read_bytes()
    at = content.index(b"\x44\x89\x88") + 3  # Duration, a float64 in milliseconds
    assert struct.unpack_from(">d", content, at)[0] == pytest.approx(1000, abs=50)
    lying = content[:at] + struct.pack(">d", 300.0) + content[at + 8 :]
    with served.serving(folder / "artifact", window=0.3, hop=0.3) as url:
        assert upload(url, lying).status_code in (200, 422)
        assert asked(url, example(0)).status_code == 200


def test_one_who_leaves_is_not_worked_for(folder, away):
    others = decoders()
    head = (
        b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n"
        b"Content-Type: multipart/form-data; boundary=b\r\n\r\n"
    )
    part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\nx\r\n--b--\r\n'
    with served.serving(folder / "artifact") as url:
        host, port = url.removeprefix("http://").split(":")
        for process in decoders() - others:
            os.kill(process, signal.SIGSTOP)
        with socket.create_connection((host, int(port))) as gone:
            gone.sendall(head % len(part) + part)
            while not list(away.iterdir()):
                time.sleep(0.01)
        deadline = time.monotonic() + 10
        while list(away.iterdir()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
