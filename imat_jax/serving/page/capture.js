/** Camera and microphone as the service wants them: JPEG pictures, sound at its rate. */

import { h } from "./dom.js";

const CHUNK = 0.1; // seconds of sound in one message
const WIDE = 640;

/** The stream of what there is of the kinds wanted; throws Error with a sentence for people. */
export async function openDevices({ audio, video }) {
  const media = navigator.mediaDevices;
  if (!media) {
    throw new Error("Browsers lend camera and microphone only to pages over HTTPS or of this computer.");
  }
  // Levels and noise are part of what the encoders hear; browsers would even them out.
  const sound = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
  const picture = { width: { ideal: WIDE }, height: { ideal: 480 }, facingMode: "user" };
  const kinds = (await media.enumerateDevices()).map((device) => device.kind);
  const wanted = {
    audio: audio && kinds.includes("audioinput") && sound,
    video: video && kinds.includes("videoinput") && picture,
  };
  if (!wanted.audio && !wanted.video) throw new Error("There is no camera and no microphone here.");
  try {
    return await media.getUserMedia(wanted);
  } catch (error) {
    const told = {
      NotAllowedError:
        "The browser was not allowed to use camera or microphone. Allow it for this page, then start again.",
      NotReadableError: "Camera or microphone is in use by another program.",
    };
    throw new Error(told[error.name] ?? `Camera or microphone did not open: ${error.message}`);
  }
}

/**
 * Calls `heard(Int16Array, fresh)` with sound at `rate` until the function that it returns is
 * called; `fresh`: the sound does not go on from the last, since it begins or was interrupted.
 */
export async function startSound(stream, rate, heard) {
  const context = new AudioContext();
  await context.audioWorklet.addModule("static/sound-worklet.js");
  const node = new AudioWorkletNode(context, "sound", {
    numberOfOutputs: 0,
    processorOptions: { rate, chunk: Math.round(CHUNK * rate) },
  });
  let fresh = true;
  context.onstatechange = () => (fresh = true);
  node.port.onmessage = ({ data }) => {
    heard(new Int16Array(data), fresh);
    fresh = false;
  };
  context.createMediaStreamSource(stream).connect(node);
  await context.resume();
  return () => context.close();
}

/** Calls `seen(JPEG as ArrayBuffer, seconds of performance.now)` `fps` times a second, where `wanted()`. */
export function startPictures(video, fps, wanted, seen) {
  const canvas = h("canvas");
  let busy = false;
  const timer = setInterval(() => {
    if (busy || !video.videoWidth || !wanted()) return;
    busy = true;
    const shrink = Math.min(1, WIDE / video.videoWidth);
    canvas.width = Math.round(shrink * video.videoWidth);
    canvas.height = Math.round(shrink * video.videoHeight);
    const at = performance.now() / 1000;
    canvas.getContext("2d").drawImage(video, 0, 0, canvas.width, canvas.height);
    canvas.toBlob(
      async (blob) => {
        if (blob) seen(await blob.arrayBuffer(), at);
        busy = false;
      },
      "image/jpeg",
      0.8,
    );
  }, 1000 / fps);
  return () => clearInterval(timer);
}
