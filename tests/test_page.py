"""The page of the service in headless Chromium: a clip, live from made devices, what goes wrong."""

import itertools
import json
import os
import pathlib
import re
import shutil
import struct

import numpy as np
import pages
import pytest
import served
from pages import TOKEN, bars, canned, opened, percent, send, table, until

from imat_jax.serving.app import PAGE

sync_api = pytest.importorskip("playwright.sync_api", reason="pip install 'imat_jax[check]'")

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
browsing = pytest.mark.skipif(
    not CHROMIUM, reason="no Chromium here; apt-get install chromium, or $CHROMIUM"
)
WORDS = "what a day this was"


@pytest.fixture(scope="module")
def folder(shared):
    return shared("on-media", served.make_run)


@pytest.fixture(scope="module")
def url(folder):
    settings = dict(token=TOKEN, seconds=8.0, window=1.0, hop=0.25)
    with served.serving(folder / "artifact", **settings) as url:
        yield url


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    devices = tmp_path_factory.mktemp("devices")
    pages.devices(devices)
    with sync_api.sync_playwright() as playwright:
        flags = [
            "--no-sandbox", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream",
            f"--use-file-for-fake-video-capture={devices / 'camera.mjpeg'}",
            f"--use-file-for-fake-audio-capture={devices / 'microphone.wav'}",
        ]  # fmt: skip
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


# ---- A clip --------------------------------------------------------------------------------------


@browsing
def test_a_clip_and_what_it_is_without_a_modality(browser, url, folder):
    with opened(browser, url) as tab:
        answer = send(tab, folder / "media/all.mp4", WORDS)
        values, label = answer["prediction"]["values"], answer["prediction"]["label"]
        assert answer["missing"] == [] and len(answer["subsets"]) == 7
        assert bars(tab) == {name: percent(v) for name, v in values.items()}
        assert tab.locator("#label").inner_text() == f"{label}, {percent(values[label])}"
        told = table(tab, f"contributions to {label}")
        for m, phi in answer["contributions"].items():
            sign = {1: "+", 0: "", -1: "−"}[np.sign(phi[label])]
            assert told[m] == f"{sign}{abs(100 * phi[label]):.1f} points"
        # The page's own Shapley values, which switches need, are the service's.
        ours = tab.evaluate(
            "async a => (await import('/static/subsets.js'))"
            ".shapley(['text', 'audio', 'vision'], a.subsets, a.base)",
            answer,
        )
        for m, phi in answer["contributions"].items():
            assert ours[m] == pytest.approx(phi, abs=3e-6)  # of values of six decimals
        # Words, with their weights in a table.
        assert tab.locator("#words").inner_text().split() == [w["word"] for w in answer["words"]]
        tab.get_by_text("Weight of each word", exact=True).first.click()
        weights = table(tab, "weight of each word")
        assert weights == {w["word"]: f"{w['weight']:.3f}" for w in answer["words"]}
        # Curves of all values, and sound.
        assert tab.locator("#lines .series").count() == len(values)
        assert tab.locator(".waveform path").get_attribute("d").count("M") == 60

        asked = []
        tab.on("request", lambda request: asked.append(request.url))
        before = tab.locator("#lines .series").first.get_attribute("d")
        tab.get_by_role("switch", name="text").press("Space")
        rest = answer["subsets"]["audio+vision"]
        assert bars(tab) == {name: percent(v) for name, v in rest.items()}
        assert tab.locator("#lines .series").first.get_attribute("d") != before
        assert "not read" in tab.locator("#words-note").inner_text()
        best = max(rest, key=rest.get)
        told = table(tab, f"contributions to {best}")
        assert set(told) == {"audio", "vision"}
        gained = sum(float(t.removesuffix(" points").replace("−", "-")) for t in told.values())
        assert gained == pytest.approx(100 * (rest[best] - answer["base"][best]), abs=0.11)
        tab.get_by_role("switch", name="audio").press("Space")
        assert bars(tab) == {n: percent(v) for n, v in answer["subsets"]["vision"].items()}
        assert tab.get_by_role("switch", name="vision").is_disabled()  # there is no answer of none
        tab.get_by_role("switch", name="text").press("Space")
        assert bars(tab) == {n: percent(v) for n, v in answer["subsets"]["text+vision"].items()}
        assert asked == []

        with tab.expect_download() as download:
            tab.get_by_role("button", name="Download").click()
        assert json.loads(pathlib.Path(download.value.path()).read_text()) == answer


@browsing
def test_picture_and_curves_play_along(browser, url, folder):
    with opened(browser, url) as tab:
        answer = send(tab, folder / "media/all.mp4", WORDS)
        until(tab, lambda: tab.evaluate("document.querySelector('#player').readyState") > 1)
        tab.locator("#lines svg").scroll_into_view_if_needed()
        room = tab.locator("#lines svg").bounding_box()
        for share in (0.75, 0.25):  # of the picture's time; clicked at in the curves
            left = room["x"] + 44 + share * (room["width"] - 44 - 92)
            tab.mouse.click(left, room["y"] + 60)
            until(tab, lambda: not tab.evaluate("document.querySelector('#player').seeking"))
            now = tab.evaluate("document.querySelector('#player').currentTime")
            assert now == pytest.approx(share * answer["seconds"], abs=0.02)
            head = tab.locator("#playhead").bounding_box()
            assert head["x"] + 1 == pytest.approx(left, abs=2)
            picture, face = (tab.locator(i).bounding_box() for i in ("#player", "#face"))
            near = min(answer["faces"], key=lambda f: abs(f["time"] - now))
            found = [
                (face[k] - picture[k]) / picture[s] for k, s in (("x", "width"), ("y", "height"))
            ]
            assert found == pytest.approx(near["box"][:2], abs=0.02)
            wide = (near["box"][2] - near["box"][0]) * picture["width"]
            assert face["width"] == pytest.approx(wide, abs=2)
        # By keyboard.
        tab.get_by_label("Position in the clip").press("ArrowRight")
        assert tab.evaluate("document.querySelector('#player').currentTime") > now
        assert "at 0." in tab.locator("#here").inner_text()


@browsing
def test_a_clip_that_lacks_something_on_a_phone(browser, url, folder):
    with opened(browser, url, width=390, scheme="dark") as tab:
        assert tab.evaluate("document.documentElement.scrollWidth") == 390
        answer = send(tab, folder / "media/mute.mp4")
        assert answer["missing"] == ["text", "audio"]
        for m in ("text", "audio"):
            switch = tab.get_by_role("switch", name=m)
            assert switch.is_disabled() and not switch.is_checked()
            assert tab.locator(f"#note-{m}").inner_text() == "missing"
        assert tab.locator("#words-card").is_hidden()
        tab.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert table(tab, "values over time")
        assert tab.evaluate("document.documentElement.scrollWidth") == 390
        paper = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        assert sum(map(int, re.findall(r"\d+", paper)[:3])) < 200
        # The next clip has sound: what was missing is switched on again.
        answer = send(tab, folder / "media/all.mp4", WORDS)
        assert all(tab.get_by_role("switch", name=m).is_checked() for m in answer["frames"])


@browsing
def test_names_landmarks_and_keyboard(browser, url, folder):
    with opened(browser, url) as tab:
        tab.keyboard.press("Tab")
        assert tab.evaluate("document.activeElement.className") == "skip"
        send(tab, folder / "media/all.mp4", WORDS)
        assert tab.get_by_role("main").count() == tab.get_by_role("banner").count() == 1
        assert (
            tab.locator("h1").count() == 1 and tab.evaluate("document.documentElement.lang") == "en"
        )
        snapshot = tab.locator("body").aria_snapshot()
        roles = "button|textbox|switch|radio|slider|checkbox|img|region|table"
        unnamed = [x for x in snapshot.splitlines() if re.match(rf"\s*- ({roles})(:|$| \[)", x)]
        assert unnamed == []
        for role, name in (("switch", "vision"), ("slider", "Position in the clip"),
                           ("radio", "A clip"), ("button", "Recognise")):  # fmt: skip
            assert tab.get_by_role(role, name=name).is_visible()
        assert "Lines over" in tab.locator("#lines svg").get_attribute("aria-label")
        # What can be used can be reached, and it shows.
        reached = []
        tab.evaluate("document.activeElement.blur()")
        for _ in range(60):
            tab.keyboard.press("Tab")
            name, outline = tab.evaluate(
                "(e => [e.id || (e.labels?.[0] ?? e).textContent.trim(),"
                "getComputedStyle(e).outlineStyle])(document.activeElement)"
            )
            reached.append(name)
            if name == "download":
                break
            assert name in ("player", "file") or outline == "solid", name
        expected = ["text", "audio", "vision", "Weight of each word", "seek", "download"]
        assert [name for name in reached if name in expected] == expected
        # The label is said when it changes, not more often than every two seconds.
        heard = tab.evaluate(
            """async () => {
              const {announce} = await import('/static/announcer.js');
              const heard = [], node = document.querySelector('#announcer');
              await new Promise(r => setTimeout(r, 2100));
              new MutationObserver(() => heard.push(node.textContent))
                .observe(node, {childList: true, characterData: true, subtree: true});
              for (const label of ['a', 'b', 'a', 'a', 'c']) announce(label);
              await new Promise(r => setTimeout(r, 500));
              heard.push('|');
              await new Promise(r => setTimeout(r, 2000));
              return heard;
            }"""
        )
        assert heard == ["a", "|", "c"]


# ---- Live ----------------------------------------------------------------------------------------


@browsing
def test_live(browser, url):
    sent, updates = [], []

    def received(payload):
        message = json.loads(payload)
        if message["type"] == "update":
            updates.append(message)

    def watch(socket):
        socket.on("framesent", lambda payload: sent.append(payload))
        socket.on("framereceived", received)

    with opened(browser, url, width=390, prepare=lambda tab: tab.on("websocket", watch)) as tab:
        tab.get_by_label("Camera and microphone").check()
        consent = tab.locator("#live-form").inner_text()
        assert "nothing is stored" in consent and "this computer" in consent
        assert "not feelings" in consent
        tab.evaluate(
            "['getUserMedia'].forEach(n => { const real = navigator.mediaDevices[n];"
            "navigator.mediaDevices[n] = async (...a) => window.lent ="
            "await real.apply(navigator.mediaDevices, a); })"
        )
        tab.get_by_role("button", name="We agree").click()
        tab.locator("#face").wait_for()
        tab.get_by_role("textbox", name="What is being said").fill(WORDS)
        tab.get_by_role("button", name="Use these words").click()
        tab.locator("#words", has_text="day").wait_for()
        until(tab, lambda: len(updates) > 3)
        assert [u["time"] for u in updates] == sorted(u["time"] for u in updates)
        until(tab, lambda: updates[-1]["frames"]["audio"] and updates[-1]["frames"]["vision"])
        newest = updates[-1]
        assert newest["face"]["box"]
        assert tab.locator("#lines .series").count() == 2
        assert tab.evaluate("document.documentElement.scrollWidth") == 390

        tab.get_by_role("switch", name="vision").press("Space")
        until(tab, lambda: "vision" not in tab.locator("#contributions").inner_text())
        assert set(updates[-1]["contributions"]) == {"text", "audio"}
        assert tab.locator("#note-vision").inner_text() == ""  # it is off, and not missing

        tab.get_by_role("button", name="Stop").click()
        assert "off" in tab.locator("#status").inner_text()
        assert tab.evaluate("lent.getTracks().map(t => t.readyState)") == ["ended"] * 2
        assert tab.locator("#face").is_hidden() and tab.locator("#media-card").is_hidden()
        with tab.expect_download() as download:
            tab.get_by_role("button", name="Download").click()
        kept = json.loads(pathlib.Path(download.value.path()).read_text())["updates"]
        assert kept == updates[: len(kept)] and len(kept) >= 4

    start, *rest = sent
    modalities = ["text", "audio", "vision"]
    assert json.loads(start) == {"type": "start", "token": TOKEN, "modalities": modalities}
    assert json.loads(rest[-1]) == {"type": "stop"}
    binary = [x for x in rest if isinstance(x, bytes)]
    kinds = {1: [], 2: []}
    for x in binary:
        kinds[x[0]].append((struct.unpack_from("<d", x, 1)[0], x[9:]))
    assert all(jpeg[:2] == b"\xff\xd8" for _, jpeg in kinds[2]) and len(kinds[2]) > 3
    # Sound at 16 kHz without holes: the tone of the file keeps its pitch.
    at = np.array([time for time, _ in kinds[1]])
    assert at == pytest.approx(at[0] + 0.1 * np.arange(len(at)), abs=1e-6)
    heard = np.frombuffer(b"".join(x for _, x in kinds[1]), "<i2") / 2**15
    spectrum = np.abs(np.fft.rfft(heard * np.hanning(len(heard))))
    assert spectrum.argmax() * 16000 / len(heard) == pytest.approx(440, abs=2)


@browsing
@pytest.mark.parametrize("rate", [44100, 48000])
def test_sound_is_resampled_without_aliases(browser, url, rate):
    with opened(browser, url) as tab:
        levels = tab.evaluate(
            """async ([rate, pitches]) => Promise.all(pitches.map(async pitch => {
              const context = new OfflineAudioContext(1, rate, rate);
              await context.audioWorklet.addModule('/static/sound-worklet.js');
              const node = new AudioWorkletNode(context, 'sound',
                {numberOfOutputs: 1, processorOptions: {rate: 16000, chunk: 1600}});
              const heard = [];
              node.port.onmessage = ({data}) => heard.push(...new Int16Array(data));
              const tone = new OscillatorNode(context, {frequency: pitch});
              tone.connect(node).connect(context.destination);
              tone.start();
              await context.startRendering();
              while (heard.length < 14400) await new Promise(r => setTimeout(r, 20));
              const part = heard.slice(1600, 14400).map(v => v / 32768);
              return Math.sqrt(2 * part.reduce((a, v) => a + v * v, 0) / part.length);
            }))""",
            [rate, [200, 1000, 6500, 9000, 12000]],
        )
    assert levels[:3] == pytest.approx([1, 1, 1], abs=0.02)
    assert max(levels[3:]) < 0.01


# ---- What goes wrong -----------------------------------------------------------------------------


@browsing
def test_a_token_is_asked_for_and_kept(browser, url, folder):
    with opened(browser, url, expected=["401"], token="") as tab:
        tab.get_by_label("Video or sound file").set_input_files(folder / "media/all.mp4")
        tab.get_by_role("button", name="Recognise").click()
        for token in ("wrong", "right"):
            tab.get_by_label("Token", exact=True).fill(token)
            with tab.expect_response("**/predict") as response:
                tab.get_by_role("button", name="Use it").click()
            assert response.value.status == (200 if token == "right" else 401)
            if token == "wrong":
                tab.get_by_text("did not accept the token").wait_for()
        tab.get_by_role("heading", name="Answer").wait_for()
        assert tab.locator("#token-form").is_hidden()
        tab.reload()
        tab.get_by_label("Camera and microphone").check()
        tab.get_by_role("button", name="We agree").click()
        tab.locator("#answer-card").wait_for()
        tab.get_by_role("button", name="Stop").click()
        # A token that is not right any more is asked for again.
        tab.evaluate("sessionStorage.setItem('imat-token', 'old')")
        tab.get_by_role("button", name="We agree").click()
        tab.get_by_role("alert").wait_for()
        assert "token" in tab.get_by_role("alert").inner_text()
        tab.get_by_role("button", name="We agree").click()
        assert tab.get_by_label("Token", exact=True).is_visible()


@browsing
def test_nothing_can_be_sent_before_the_page_listens(browser, url):
    # A click before it does would submit the form to no handler, and load the page anew.
    watch = """
      const found = () => [...document.querySelectorAll(".modes, button.main")];
      const asked = window.fetch;
      window.fetch = async (...what) => {
        await new Promise((resolve) => setTimeout(resolve, 300));
        window.early = found().map((control) => control.disabled);
        return asked(...what);
      };"""
    with opened(browser, url, prepare=lambda tab: tab.add_init_script(watch)) as tab:
        assert tab.evaluate("window.early") == [True] * 3
        assert tab.get_by_role("button", name="Recognise").is_enabled()
        assert tab.get_by_label("Camera and microphone").is_enabled()


@browsing
def test_what_goes_wrong_is_said(browser, url):
    busy = itertools.count()

    def answer(route):
        if next(busy) < 2:
            route.fulfill(status=429, headers={"Retry-After": "1"}, json={"error": "full"})
        else:
            route.continue_()

    with opened(browser, url, expected=["429", "422", "ERR_FAILED"]) as tab:
        tab.route("**/predict", answer)
        tab.evaluate(
            """() => {
              const dataTransfer = new DataTransfer();
              dataTransfer.items.add(new File([new Uint8Array(1000)], 'noise.mp4'));
              document.querySelector('#drop').dispatchEvent(new DragEvent('drop', {dataTransfer}));
            }"""
        )
        assert tab.locator("#file-note").inner_text().startswith("noise.mp4, 1 kB.")
        tab.get_by_role("button", name="Recognise").click()
        tab.get_by_text("The service is busy; trying again in 1 s (try 2 of 5).").wait_for()
        tab.get_by_role("alert").wait_for()  # the third time the service itself answers
        assert next(busy) == 3
        assert "says: not a media file" in tab.get_by_role("alert").inner_text()
        assert "cannot play" in tab.locator("#face-note").inner_text()
        tab.unroute("**/predict")
        tab.route("**/predict", lambda route: route.abort())
        tab.get_by_role("button", name="Recognise").click()
        tab.get_by_text("The service cannot be reached.").wait_for()

        tab.get_by_label("Camera and microphone").check()
        tab.evaluate(
            "() => { window.real = navigator.mediaDevices.getUserMedia;"
            "navigator.mediaDevices.getUserMedia = async () => "
            "{ throw new DOMException('', 'NotAllowedError') } }"
        )
        tab.get_by_role("button", name="We agree").click()
        tab.get_by_text("The browser was not allowed to use camera or microphone.").wait_for()
        assert tab.get_by_role("button", name="We agree").is_visible()

        tab.evaluate("() => { navigator.mediaDevices.getUserMedia = window.real }")
        tab.route_web_socket(re.compile("/live"), lambda socket: socket.close())
        tab.get_by_role("button", name="We agree").click()
        tab.get_by_text("The connection to the service is lost.").wait_for()
        assert tab.evaluate("document.querySelector('#player').srcObject") is None


# ---- Other tasks, and what needs no browser ------------------------------------------------------


@browsing
@pytest.mark.parametrize(
    ("made", "label", "likely"),
    [
        (canned("sentiment", {"sentiment": 1.25}, low=-0.5, high=3.0), "positive, +1.25",
         "Likely: −0.50 to +3.00 (90 %)"),
        (canned("multiclass", {"glad": 0.6, "calm": 0.3, "sad": 0.1}, label="glad",
                set=["glad", "calm"]), "glad, 60 %", "Likely: glad or calm (90 %)"),
        (canned("multilabel", {"joy": 0.2, "fear": 0.7}, set=[]), "fear, 70 %",
         "May be there: none of them (90 %)"),
        (canned("dimensions", {"valence": -2.5, "arousal": 1.0}, low={"valence": -3, "arousal": 0},
                high={"valence": -2, "arousal": 2}), "valence, −2.50",
         "Likely: −3.00 to −2.00 (90 %)"),
    ],
    ids=["sentiment", "multiclass", "multilabel", "dimensions"],
)  # fmt: skip
def test_every_task_is_read_in_its_own_way(browser, url, folder, made, label, likely):
    health, answer = made

    def prepare(tab):
        tab.route("**/health", lambda route: route.fulfill(json=health))
        tab.route("**/predict", lambda route: route.fulfill(json=answer))

    with opened(browser, url, prepare=prepare) as tab:
        send(tab, folder / "media/radio.wav")
        assert tab.locator("#label").inner_text() == label
        assert tab.locator("#likely").inner_text() == likely
        assert tab.locator("#transcript-given").is_hidden()  # it would not be read
        assert list(bars(tab)) == list(answer["prediction"]["values"])
        boxes = tab.evaluate(
            "[...document.querySelectorAll('#bars .bar, #bars .interval')].map(e => {"
            "const b = e.getBoundingClientRect(), t = e.parentNode.getBoundingClientRect();"
            "return b.width > 0 && b.left >= t.left - 1 && b.right <= t.right + 1})"
        )
        assert boxes and all(boxes)
        lines = tab.evaluate(
            "[...document.querySelectorAll('#lines .series')].map(e => {"
            "const b = e.getBBox(); return b.y >= 0 && b.y + b.height <= 192 && b.width > 9})"
        )
        assert lines == [True] * len(answer["prediction"]["values"])


def _luminance(colour):
    linear = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in linear]
    return np.dot(linear, [0.2126, 0.7152, 0.0722])


def _contrast(a, b):
    high, low = sorted((_luminance(a), _luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_colours_have_contrast(scheme):
    blocks = re.findall(r":root \{(.*?)\}", (PAGE / "style.css").read_text(), re.S)
    colour = dict(re.findall(r"--([\w-]+): (#\w{6})", blocks[scheme]))
    for ink, back in itertools.product(("ink", "dim", "accent", "bad"), ("card", "paper")):
        assert _contrast(colour[ink], colour[back]) >= 4.5, (ink, back)
    assert _contrast(colour["on-accent"], colour["accent"]) >= 4.5
    shapes = [("edge", "card"), ("accent", "track"), ("for", "track"), ("against", "track")]
    for a, b in shapes + [(f"c{i}", "card") for i in range(8)]:
        assert _contrast(colour[a], colour[b]) >= 3, (a, b)


def test_the_page_is_whole_and_loads_nothing_from_elsewhere():
    files = {path.name: path.read_text() for path in PAGE.iterdir()}
    for name, content in files.items():
        content = content.replace("http://www.w3.org/2000/svg", "")  # a name, and not an address
        assert not re.search(r"(https?:)?//\w+\.", content), name
        assert " style=" not in content and "innerHTML" not in content, name
        for other in re.findall(r'(?:from "\./|"static/)([\w.-]+)"', content):
            assert other in files, (name, other)
