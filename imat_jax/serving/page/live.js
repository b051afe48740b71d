/** Camera and microphone to the service and its running answers back. Nothing is kept. */

import { openDevices, startPictures, startSound } from "./capture.js";
import { place } from "./clip.js";
import { $ } from "./dom.js";
import { drawFace } from "./face.js";
import { openSocket, PICTURE, SOUND } from "./socket.js";
import { complain, say } from "./status.js";
import { askToken, forgetToken, token } from "./token.js";

const PEAKS = 50; // a second, of the waveform
const KEPT = 30; // seconds of waveform

/**
 * `on()`: the modalities switched on. `begun()` when it starts; `updated(update, wave)` with each
 * answer.
 */
export function makeLive(facts, on, begun, updated) {
  let ends = []; // what to do to end it
  let socket = null;
  const player = $("player");
  const where = place();
  $("consent").textContent =
    `Camera and microphone are off until you start. Pictures and sound go to ${where} and are ` +
    "computed there, in memory; nothing is stored.";

  $("live-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    stop();
    complain("");
    $("before").hidden = true;
    $("stop").hidden = false;
    $("stop").focus();
    const mine = new AbortController();
    ends.push(() => mine.abort());
    try {
      await start(mine.signal);
    } catch (error) {
      if (mine.signal.aborted) return;
      fail(error.message);
    }
  });
  $("stop").addEventListener("click", () => {
    socket?.tell({ type: "stop" });
    stop();
    $("start").focus();
    say("Stopped; camera and microphone are off.");
  });
  $("say-it").addEventListener("click", sendWords);
  $("said").addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault(); // the form's own button would start anew
    sendWords();
  });

  function sendWords() {
    socket?.tell({ type: "text", text: $("said").value });
  }

  async function start(signal) {
    if (facts.auth && !token()) {
      await askToken("This service answers those who have its token.", signal);
    }
    say("Waiting for camera and microphone …");
    const { audio, vision } = Object.fromEntries(facts.modalities.map((m) => [m, true]));
    const stream = await openDevices({ audio, video: vision });
    const release = () => stream.getTracks().forEach((track) => track.stop());
    if (signal.aborted) return release();
    ends.push(release);
    stream.getTracks().forEach((track) => {
      track.onended = () => fail("Camera or microphone was taken away.");
    });
    Object.assign(player, { srcObject: stream, controls: false, muted: true });
    ends.push(() => (player.srcObject = null));
    const pictures = stream.getVideoTracks().length > 0;
    $("media-card").hidden = !pictures;
    $("picture").classList.add("mirrored");
    $("picture").classList.remove("sound-only");
    await player.play();
    if (signal.aborted) return;
    begun();
    $("switches").disabled = false;
    say("Connecting …");
    const wave = { hz: PEAKS, start: 0, peaks: [] };
    socket = openSocket(
      { type: "start", ...(token() ? { token: token() } : {}), modalities: on() },
      (message) => {
        if (signal.aborted) return;
        if (message.type === "ready") send(stream, message, wave, signal).catch((e) => fail(e.message));
        if (message.type === "update") update(message, wave);
        if (message.type === "error") refused(message.error);
      },
      () => {
        if (!signal.aborted) fail("The connection to the service is lost. Start again if you like.");
      },
    );
    ends.push(socket.close);
  }

  async function send(stream, ready, wave, signal) {
    const begin = performance.now() / 1000;
    const now = () => performance.now() / 1000 - begin;
    say("Listening and looking …");
    $("said").disabled = $("say-it").disabled = false;
    if ($("said").value) sendWords();
    ends.push(
      startPictures(
        player,
        ready.fps,
        () => stream.getVideoTracks().length && !socket.crowded(),
        (jpeg, at) => socket?.send(PICTURE, at - begin, jpeg),
      ),
    );
    if (!stream.getAudioTracks().length) return;
    // Sound and pictures under way when it ends come after the socket is gone.
    let clock = 0; // seconds of the next sample
    const end = await startSound(stream, ready.sample_rate, (samples, fresh) => {
      // After that samples are counted: when a message arrives depends on what else goes on.
      if (fresh) clock = Math.max(clock, now() - samples.length / ready.sample_rate);
      socket?.send(SOUND, clock, samples.buffer);
      draw(wave, samples, clock, ready.sample_rate);
      clock += samples.length / ready.sample_rate;
    });
    if (signal.aborted) end();
    else ends.push(end);
  }

  function draw(wave, samples, time, rate) {
    const size = Math.round(rate / PEAKS);
    const place = Math.round((time - wave.start) * PEAKS);
    while (wave.peaks.length < place) wave.peaks.push(0);
    for (let i = 0; i < samples.length; i += size) {
      const loudest = samples.subarray(i, i + size).reduce((a, b) => Math.max(a, Math.abs(b)), 0);
      wave.peaks.push(loudest / 32768);
    }
    const old = wave.peaks.length - KEPT * PEAKS;
    if (old > 0) {
      wave.peaks.splice(0, old);
      wave.start += old / PEAKS;
    }
  }

  function update(message, wave) {
    drawFace(message.face?.box ?? null);
    const { latency_ms, compute_ms, dropped } = message;
    $("face-note").textContent = message.face?.box ? "" : "No face is found.";
    // Not in the status, which is read aloud: these change with every answer.
    $("pace").textContent =
      `The answer is ${Math.round(latency_ms)} ms behind, ${Math.round(compute_ms)} ms of them ` +
      `computing; ${dropped} pictures left out.`;
    updated(message, wave);
  }

  function refused(error) {
    if (/token/.test(error)) forgetToken(); // the next start asks for another
    fail(`The service says: ${error}.`);
  }

  function fail(text) {
    stop();
    say("Camera and microphone are off.");
    complain(text);
  }

  /** Camera, microphone and socket off. */
  function stop() {
    for (const end of ends.splice(0).reverse()) end();
    socket = null;
    drawFace(null);
    $("pace").textContent = "";
    $("media-card").hidden = $("stop").hidden = true;
    $("before").hidden = false;
    for (const id of ["said", "say-it", "switches"]) $(id).disabled = true;
  }

  return { stop, choose: (modalities) => socket?.tell({ type: "modalities", modalities }) };
}
