"""The page of the service in a browser: opening it, sending a clip, reading what it shows."""

import contextlib
import re
import wave

import av
import clips
import talking

TOKEN = "right"


def devices(made):
    """Fills the folder `made`: MJPEG of a face for the camera, 440 Hz for the microphone."""
    with av.open(str(made / "camera.mjpeg"), "w", format="mjpeg") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuvj420p"
        for k in range(20):
            picture = talking.portrait(k, (320, 240))
            frame = av.VideoFrame.from_ndarray(picture, "rgb24").reformat(format="yuvj420p")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with wave.open(str(made / "microphone.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(48000)
        file.writeframes((clips.tone(2.0, 48000) * 32767).astype("<i2").tobytes())


@contextlib.contextmanager
def opened(browser, url, width=1280, scheme="light", expected=(), prepare=None, token=TOKEN):
    """The page; at the end, that it asked nobody but the service and complained of nothing else.

    expected: what the console may say. prepare: what to do with the tab before it goes there.
    token: what the tab has in its storage.
    """
    size = {"width": width, "height": 900}
    context = browser.new_context(viewport=size, color_scheme=scheme, reduced_motion="reduce")
    if token:
        context.add_init_script(f"sessionStorage.setItem('imat-token', '{token}')")
    tab = context.new_page()
    tab.set_default_timeout(30_000)
    said, asked = [], []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url))
    if prepare:
        prepare(tab)
    tab.goto(url)
    tab.locator("#about", has_text=re.compile("^A model reads")).wait_for()
    yield tab
    foreign = [
        a for a in asked if not a.startswith((url, url.replace("http", "ws"), f"blob:{url}"))
    ]
    assert foreign == []
    assert [s for s in said if not any(e in s for e in expected)] == []
    context.close()


def send(tab, path, words=""):
    """The answer to a clip, once the page shows it."""
    tab.get_by_label("Video or sound file").set_input_files(path)
    if words:
        tab.get_by_label("Transcript, if you have it").fill(words)
    with tab.expect_response("**/predict") as response:
        tab.get_by_role("button", name="Recognise").click()
    tab.get_by_role("heading", name="Answer").wait_for()
    tab.locator("#status", has_text="answered").wait_for()
    return response.value.json()


def until(tab, there):
    """Waits for `there()`; the page's policy forbids what Playwright's own waiting would do."""
    for _ in range(300):
        if there():
            return
        tab.wait_for_timeout(100)
    raise AssertionError("it did not come in half a minute")


def percent(value):
    return f"{100 * value:.{1 if 0 < value < 0.0995 else 0}f} %"


def table(tab, caption):
    """{head of the row: text of the last cell}"""
    rows = tab.get_by_role("table", name=caption, exact=True).get_by_role("row")
    cells = [row.split("\t") for row in rows.all_inner_texts()[1:]]
    return {row[0].strip(): row[-1].strip() for row in cells}


def bars(tab):
    return table(tab, "values of the answer")


def canned(task, values, **prediction):
    """A state of health and an answer, as a service over such a model would give them."""
    health = {
        "media": True, "modalities": ["audio"], "values": list(values), "task": task,
        "coverage": 0.9, "auth": False, "window": 3.0, "hop": 1.0,
        "limits": {"bytes": 1 << 20, "seconds": 9.0},
    }  # fmt: skip
    answer = {
        "id": "", "seconds": 4.0, "prediction": {"values": values} | prediction,
        "subsets": {"audio": values}, "contributions": {"audio": values},
        "base": dict.fromkeys(values, 0.0), "missing": [], "frames": {"audio": 9},
        "windows": [{"start": s, "end": s + 3.0, "subsets": {"audio": values}} for s in (0.0, 1.0)],
        "transcript": "", "words": [], "faces": [], "timing": {"predict_ms": 1.0},
        "waveform": {"hz": 50, "peaks": [0.5] * 200},
    }  # fmt: skip
    return health, answer
