"""Sound and pictures of media files, on one clock; FFmpeg does the decoding, through PyAV.

Time 0 is where the earlier of the first audio and the first video stream begins. Decoding uses one
thread and bit-exact scaling, so that a file gives the same numbers on every machine.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import pathlib
import struct
from collections.abc import Iterator
from typing import Any

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import Interpolation, VideoReformatter

from imat_jax.data.corpus import DataError
from imat_jax.encoders.encoder import SAMPLE_RATE

EXTENSIONS = frozenset(
    ".3g2 .3gp .aac .ac3 .aif .aiff .amr .asf .avi .caf .flac .flv .m2ts .m4a .m4v .mka .mkv .mov "
    ".mp2 .mp3 .mp4 .mpeg .mpg .mts .oga .ogg .ogv .opus .ts .vob .wav .webm .wma .wmv".split()
)  # of what is taken for media in a folder
LONGEST_SIDE = 1280  # of a frame, in pixels; larger ones are made smaller

MP4, MATROSKA = "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"
# Formats that say how long they are; of the others FFmpeg guesses from the bit rate.
SAY_LENGTH = {MP4, MATROSKA, "asf", "avi", "flac", "flv", "ogg", "w64", "wav"}
NOT_A_VIDEO = Disposition.attached_pic | Disposition.timed_thumbnails
# Playlists and the like: what is read would not be the file whose hash is recorded, and an upload
# could name other files of a service's machine.
REFERRING = {"concat", "dash", "hls", "image2", "imf", "lavfi", "rtsp", "sdp", "vobsub"}
TICK = 0.0015  # seconds; containers that count in milliseconds are up to one off
LEAD = 0.1  # seconds; streams of one file seldom begin together
GAP = 0.05  # seconds by which timestamps and samples may disagree
JUMP = 3600  # seconds; a longer gap is a broken clock
SETTLE = 0.1  # seconds; longer than the resampler's filter
SCALING = (
    Interpolation.AREA
    | Interpolation.ACCURATE_RND
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.BITEXACT
)


class MediaError(DataError):
    """A file that cannot be decoded from end to end; one sentence that names it."""


@dataclasses.dataclass(frozen=True)
class Probe:
    """Length in seconds, and which streams there are; cover art is not video.

    pixels: of a frame, as the header has it; 0 without video.
    """

    duration: float
    audio: bool
    video: bool
    pixels: int


def probe(path: str | os.PathLike) -> Probe:
    """What is in a file, without decoding it; packets are read where no header tells its length.

    Raises:
      MediaError: no such file, no media file, cut off before its index, or no audio and no video.
    """
    with _opened(path) as media:
        if media.announced is None:
            for _ in media.packets():
                pass
        duration = media.reached if media.announced is None else media.announced
        codec = media.video.codec_context if media.video is not None else None
        pixels = codec.width * codec.height if codec is not None else 0
        return Probe(duration, media.audio is not None, media.video is not None, pixels)


def audio(path: str | os.PathLike, start: float = 0.0, end: float | None = None) -> np.ndarray:
    """The sound from `start` to `end` seconds: [L] float32 at 16 kHz, the mean of all channels.

    Silence stands where the stream has gaps, and before it if video begins earlier. Shorter than
    asked for where the stream ends earlier; L = 0 without one. Decoding always begins at the
    file's beginning: of many parts of a long file, read the whole once and slice it.

    Raises:
      MediaError: as `probe`; or encrypted, corrupt, or cut off before `end`.
    """
    _check_span(path, start, end)
    runs: list[_Run] = []
    with _opened(path) as media:
        if media.audio is not None:
            for time, frame in media.decode(media.audio):
                if not runs or not runs[-1].goes_on(time, frame):
                    if runs and media.gapless:
                        raise media.corrupt(media.audio, runs[-1].end)
                    runs.append(_Run(time, frame))
                runs[-1].add(frame)
                # A little too far, so that what follows is in the filter as in an uncut file.
                if end is not None and runs[-1].end > end + SETTLE:
                    break
    parts = [(round(run.begin * SAMPLE_RATE), run.wave()) for run in runs]
    wave = np.zeros(max([0, *(at + len(part) for at, part in parts)]), np.float32)
    for at, part in parts:
        wave[max(at, 0) : max(at + len(part), 0)] = part[max(-at, 0) :]
    stop = None if end is None else round(end * SAMPLE_RATE)
    return np.clip(wave[round(start * SAMPLE_RATE) : stop], -1, 1)


def frames(
    path: str | os.PathLike, fps: float, start: float = 0.0, end: float | None = None
) -> Iterator[tuple[float, np.ndarray]]:
    """What is on screen at `start` + k / `fps` seconds, before `end`: (time, [H, W, 3] uint8 RGB).

    Upright, with square pixels, at most 1280 pixels on the longer side. A frame that lasts comes
    again, as the same array. Nothing comes where no frame is shown, or without a video stream.

    Raises:
      MediaError: as `audio`.
    """
    _check_span(path, start, end)
    if not fps > 0:
        raise ValueError(f"fps must be positive; got {fps}")
    with _opened(path) as media:
        if media.video is None:
            return
        view = _View(media.video)
        count, shown, until = 0, None, 0.0
        end = math.inf if end is None else end
        for time, frame in media.video_from(start):
            while shown is not None and (now := start + count / fps) < time - TICK:
                if now >= end:
                    return
                yield now, view(shown)
                count += 1
            while shown is None and time > LEAD and start + count / fps < time - TICK:
                count += 1  # before the first frame there is nothing to see
            shown, until = frame, time + media.shown_for(frame)
        while shown is not None and (now := start + count / fps) < min(until - TICK, end):
            yield now, view(shown)
            count += 1


@contextlib.contextmanager
def _opened(path: str | os.PathLike) -> Iterator[_Media]:
    media = _Media(path)
    try:
        yield media
    except av.FFmpegError as error:
        message = f"{path}: it cannot be decoded beyond {media.reached:.1f} s"
        raise MediaError(f"{message}: {error.strerror}") from error
    finally:
        media.close()


class _Media:
    """An open file.

    audio, video: the first stream of each kind, or None. announced: its length in seconds as its
    header has it, or None. reached: the end of the last packet so far, in seconds. gapless: what
    is missing is damage.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = pathlib.Path(path)
        self._container = _open(self.path)
        self.audio, self.video = self._first("audio"), self._first("video")
        streams = [s for s in (self.audio, self.video) if s is not None]
        if not streams:
            raise MediaError(f"{self.path}: it has neither audio nor video")
        for stream in streams:
            if stream.codec_context is not None:
                stream.codec_context.thread_count = 1
        starts = [s.start_time * s.time_base for s in streams if s.start_time is not None]
        self._zero = float(min(starts, default=0))
        if max(starts, default=0) - self._zero > JUMP:
            raise MediaError(f"{self.path}: its audio and video begin more than {JUMP} s apart")
        self.announced, self.reached = self._announced(), 0.0
        self.gapless = self._container.format.name == "flac"

    def close(self) -> None:
        self._container.close()

    def _first(self, kind: str) -> Any:
        """The first stream of a kind, sooner one that can be decoded."""
        streams = [s for s in self._container.streams if s.type == kind]
        streams = [s for s in streams if not s.disposition & NOT_A_VIDEO]
        return max(streams, key=lambda s: s.codec_context is not None, default=None)

    def _announced(self) -> float | None:
        container = self._container
        # FFmpeg calls it an encoder where an MP3 file begins with a table of contents.
        tagged = container.format.name == "mp3" and "encoder" in self.audio.metadata
        says = tagged or container.format.name in SAY_LENGTH
        if not says or not (container.duration or 0) > 0:
            return None
        begin = self._zero if container.start_time is None else container.start_time / av.time_base
        seconds = container.duration / av.time_base + begin - self._zero
        if container.format.name in ("wav", "avi"):  # FFmpeg goes by the size of the file
            with self.path.open("rb") as file:
                size = struct.unpack("<4xI", file.read(8))[0] + 8
            if size < 0x7FFF0000:  # above, it is what recorders write that do not know
                seconds *= max(size / self.path.stat().st_size, 1.0)
        return seconds

    def packets(self) -> Iterator[av.Packet]:
        """All packets of all streams, and an empty one of each stream at the end."""
        for packet in self._container.demux():
            begin = packet.dts if packet.pts is None else packet.pts
            if begin is not None:
                end = self._seconds(packet, begin + (packet.duration or 0))
                self.reached = max(self.reached, end)
            yield packet

    def decode(self, stream: Any) -> Iterator[tuple[float, Any]]:
        """Frames of a stream with their times in seconds, to the end of the file."""
        if stream.codec_context is None:
            raise MediaError(f"{self.path}: its {stream.type} is in a codec that FFmpeg lacks")
        in_order = self._container.format.name == "avi"  # which knows no presentation times
        time = failed = None
        last = 0.0  # packet's time
        for packet in self.packets():
            if packet.stream.index != stream.index:
                continue
            if packet.has_sidedata("encryption_info"):
                raise MediaError(f"{self.path}: its {stream.type} is encrypted")
            if packet.dts is not None:
                last = self._seconds(packet, packet.dts)
            try:
                decoded = packet.decode()
            except av.FFmpegError:
                failed = last if failed is None else failed
                continue
            if decoded and packet.size and failed is not None:
                raise self.corrupt(stream, failed)
            for frame in decoded:
                stamp = self._seconds(frame, frame.dts if in_order else frame.pts)
                before, time = time, stamp
                if time is None:
                    time = 0.0 if before is None else before + self.shown_for(frame)
                if before is not None and not -1 < time - before < JUMP:
                    message = f"its {stream.type} jumps from {before:.1f} s to {time:.1f} s"
                    raise MediaError(f"{self.path}: {message}")
                yield time, frame
        # Something that is no sound after the last frame, such as tags, is common in MP3 files.
        if failed is not None and (time is None or last - failed > 0.25):
            raise self.corrupt(stream, failed)
        missing = 0.0 if self.announced is None else self.announced - self.reached
        if missing > max(0.5, 0.1 * (self.announced or 0)):
            lengths = f"{self.reached:.1f} s of {self.announced:.1f} s"
            raise MediaError(f"{self.path}: it is cut off or corrupt: it ends at {lengths}")

    def video_from(self, start: float) -> Iterator[tuple[float, Any]]:
        """`decode` of the video, from the frame that is on screen at `start` or from an earlier."""
        stream = self.video
        if start > 2 and self._container.format.name in (MP4, MATROSKA):
            # A second early, because indices are in the order of decoding.
            target = int((start - 1 + self._zero) / stream.time_base)
            with contextlib.suppress(av.FFmpegError):
                self._container.seek(target, stream=stream)
            found = self.decode(stream)
            first = next(found, None)
            if first is not None and first[0] <= start:
                yield first
                yield from found
                return
            self._container.seek(int(self._zero / stream.time_base), stream=stream)
        yield from self.decode(stream)

    def shown_for(self, frame: Any) -> float:
        """Seconds that a frame lasts if none follows."""
        if isinstance(frame, av.AudioFrame):
            return frame.samples / frame.sample_rate
        if frame.duration:
            return float(frame.duration * frame.time_base)
        return float(1 / (self.video.average_rate or self.video.guessed_rate or 25))

    def _seconds(self, timed: Any, stamp: int | None) -> float | None:
        if stamp is None:
            return None
        return stamp * timed.time_base.numerator / timed.time_base.denominator - self._zero

    def corrupt(self, stream: Any, time: float) -> MediaError:
        return MediaError(f"{self.path}: its {stream.type} is corrupt at {max(time, 0):.1f} s")


class _Run:
    """Sound without a gap, resampled on the way; begin, end: in seconds."""

    def __init__(self, begin: float, frame: av.AudioFrame):
        self.begin = self.end = begin
        self._rate, self._form = frame.sample_rate, self._form_of(frame)
        self._samples = 0
        # Packed: PyAV reads past the end of planes beyond the eighth channel.
        self._resampler = av.AudioResampler("flt", rate=SAMPLE_RATE)
        self._pieces = [np.zeros(0, np.float32)]

    @staticmethod
    def _form_of(frame: av.AudioFrame) -> tuple:
        return frame.sample_rate, frame.format.name, frame.layout.name

    def goes_on(self, time: float, frame: av.AudioFrame) -> bool:
        return abs(time - self.end) <= GAP and self._form_of(frame) == self._form

    def add(self, frame: av.AudioFrame) -> None:
        self._samples += frame.samples
        self.end = self.begin + self._samples / self._rate
        self._keep(self._resampler.resample(frame))

    def wave(self) -> np.ndarray:
        """[L] at 16 kHz."""
        self._keep(self._resampler.resample(None))
        length = round(self._samples * SAMPLE_RATE / self._rate)
        wave = np.concatenate(self._pieces)[:length]
        return np.pad(wave, (0, length - len(wave)))

    def _keep(self, resampled: list) -> None:
        for frame in resampled:
            if frame is not None:  # what came at 16 kHz is handed through, the final None too
                channels = frame.to_ndarray().reshape(frame.samples, -1)
                self._pieces.append(channels.mean(1, dtype=np.float32))


class _View:
    """Decoded frames of a stream as a viewer sees them; the last one is kept."""

    def __init__(self, stream: Any):
        aspect = stream.sample_aspect_ratio or 1
        self._aspect = float(aspect) if 0.25 <= aspect <= 4 else 1.0  # of a pixel
        self._reformatter = VideoReformatter()
        self._frame = self._image = None

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        if frame is not self._frame:
            size = np.array([frame.width * self._aspect, frame.height])
            width, height = np.maximum(np.rint(size * min(1, LONGEST_SIDE / size.max())), 1)
            image = self._reformatter.reformat(
                frame, int(width), int(height), "rgb24", interpolation=SCALING, threads=1
            ).to_ndarray()
            self._frame, self._image = frame, np.ascontiguousarray(_upright(image, frame))
        return self._image


def _upright(image: np.ndarray, frame: av.VideoFrame) -> np.ndarray:
    """`image` turned and mirrored as the display matrix of its frame says, in quarter turns.

    The matrix takes (x, y) to (a x + c y, b x + d y).
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return image
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()
    if abs(b) > abs(a):
        image, a, d = image.swapaxes(0, 1), c, b
    return image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def _open(path: pathlib.Path) -> Any:
    if path.is_dir():
        raise MediaError(f"{path}: a folder, not a media file")
    if not path.is_file():
        raise MediaError(f"{path}: no such file")
    if not path.stat().st_size:
        raise MediaError(f"{path}: the file is empty")
    try:
        allowed = {"format_whitelist": ",".join(sorted(av.formats_available - REFERRING))}
        container = av.open(f"file:{path}", options=allowed, metadata_errors="replace")
        known = container.format.name != "tty"  # any .txt, as an animation in a terminal
    except av.FFmpegError as error:
        if isinstance(error, PermissionError):
            raise MediaError(f"{path}: not readable: permission denied") from error
        known = False
    if known:
        return container
    with path.open("rb") as file:
        if file.read(8)[4:] == b"ftyp":
            raise MediaError(f"{path}: cut off: an MP4 file without its index (the moov atom)")
    raise MediaError(f"{path}: not a media file that FFmpeg knows")


def _check_span(path: str | os.PathLike, start: float, end: float | None) -> None:
    if not start >= 0 or (end is not None and not end >= start):
        raise MediaError(f"{path}: there is no part from {start} s to {end} s")
