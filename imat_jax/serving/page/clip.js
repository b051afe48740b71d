/** A clip from a file: sent once; what switches change afterwards is computed from its answer. */

import { predict } from "./api.js";
import { $ } from "./dom.js";
import { drawFace, faceAt } from "./face.js";
import { complain, say } from "./status.js";
import { moveHead, onSeek } from "./timeline.js";

const size = (bytes) =>
  bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;

/** `begun()` before a new clip is sent, `answered(answer)` after. */
export function makeClip(facts, begun, answered) {
  let faces = [];
  let running = null;
  let address = null;
  const player = $("player");
  const { bytes, seconds } = facts.limits;
  const limits = `Up to ${size(bytes)} and ${seconds} seconds. It is sent to ${place()}, which deletes it with the answer.`;
  $("file-note").textContent = limits;

  $("file").addEventListener("change", () => {
    const file = $("file").files[0];
    complain("");
    $("file-note").textContent = file ? `${file.name}, ${size(file.size)}. ${limits}` : limits;
  });

  const drop = $("drop");
  for (const kind of ["dragover", "dragleave", "drop"]) {
    drop.addEventListener(kind, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", kind === "dragover");
    });
  }
  drop.addEventListener("drop", (event) => {
    if (!event.dataTransfer.files.length) return;
    $("file").files = event.dataTransfer.files;
    $("file").dispatchEvent(new Event("change"));
  });

  $("clip-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const file = $("file").files[0];
    complain("");
    if (file.size > bytes) {
      return complain(`${file.name} has ${size(file.size)}; the service takes up to ${size(bytes)}.`);
    }
    stop();
    const mine = (running = new AbortController());
    const form = new FormData();
    const words = $("transcript-given").value.trim();
    if (words) form.append("transcript", words);
    form.append("file", file);
    begun();
    $("switches").disabled = false;
    show(file);
    say("Sending and computing …");
    try {
      const answer = await predict(form, facts.auth, mine.signal);
      faces = answer.faces;
      const took = Object.values(answer.timing).reduce((a, b) => a + b) / 1000;
      say(`${answer.seconds.toFixed(1)} s of clip, answered in ${took.toFixed(2)} s.`);
      $("seek").max = answer.seconds;
      answered(answer);
      follow();
    } catch (error) {
      if (mine.signal.aborted) return;
      say("");
      complain(error.message);
    }
  });

  function show(file) {
    faces = [];
    if (address) URL.revokeObjectURL(address);
    address = URL.createObjectURL(file);
    Object.assign(player, { srcObject: null, controls: true, muted: false });
    player.src = address;
    $("seek").value = 0;
    $("media-card").hidden = false;
    $("picture").classList.remove("mirrored");
    $("picture").classList.add("sound-only");
    $("face-note").textContent = "";
  }

  player.addEventListener("loadedmetadata", () => {
    $("picture").classList.toggle("sound-only", !player.videoWidth);
  });
  player.addEventListener("error", () => {
    if (!address || player.srcObject) return;
    $("face-note").textContent =
      "This browser cannot play the file. The service reads more kinds than browsers play.";
  });

  function follow() {
    if (!address) return;
    drawFace(player.videoWidth ? faceAt(faces, player.currentTime) : null);
    moveHead(faces.length || player.duration ? player.currentTime : null);
    $("seek").value = player.currentTime;
  }
  for (const kind of ["timeupdate", "seeking", "loadeddata"]) player.addEventListener(kind, follow);
  const everyFrame = () => {
    follow();
    if (!player.paused && !player.ended) requestAnimationFrame(everyFrame);
  };
  player.addEventListener("play", everyFrame);

  const seek = (time) => {
    if (address) player.currentTime = time;
  };
  onSeek(seek);
  $("seek").addEventListener("input", () => seek(Number($("seek").value)));

  /** Forgets the clip, and a request under way. */
  function stop() {
    running?.abort();
    running = null;
    if (address) URL.revokeObjectURL(address);
    address = null;
    faces = [];
    player.removeAttribute("src");
    player.load();
    drawFace(null);
  }
  return { stop };
}

/** Where a person's media go, in words. */
export const place = () =>
  ["localhost", "127.0.0.1", "[::1]"].includes(location.hostname) ? "this computer" : location.host;
