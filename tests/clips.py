"""Small media files whose content says when it is: every frame its number, every tone its pitch.

Written with PyAV alone; the reader under test is not imported here.
"""

import pathlib
from fractions import Fraction

import av
import numpy as np
from av.stream import Disposition

CODECS = {  # video, audio
    ".mp4": ("libx264", "aac"),
    ".mov": ("libx264", "aac"),
    ".mkv": ("libx264", "aac"),
    ".ts": ("libx264", "aac"),
    ".flv": ("libx264", "aac"),
    ".3gp": ("libx264", "aac"),
    ".webm": ("libvpx-vp9", "libopus"),
    ".avi": ("mpeg4", "libmp3lame"),
    ".wmv": ("wmv2", "wmav2"),
    ".mpg": ("mpeg2video", "mp2"),
    ".wav": (None, "pcm_s16le"),
    ".mp3": (None, "libmp3lame"),
    ".m4a": (None, "aac"),
    ".aac": (None, "aac"),
    ".flac": (None, "flac"),
    ".ogg": (None, "libopus"),
    ".opus": (None, "libopus"),
}
FAST = {
    "libx264": {"preset": "ultrafast", "g": "50"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"},
}
BITS = 12  # of a frame's number
TICKS = 1000  # video timestamps a second, so that any frame times can be written


def picture(number, size=(96, 64)):
    """RGB [H, W, 3]: the number in black and white blocks; below, red on the left, blue right."""
    width, height = size
    bits = [(number >> b) & 1 for b in range(BITS)]
    top = np.repeat(bits, -(-width // BITS))[:width] * 255
    image = np.empty((height, width, 3), np.uint8)
    image[: height // 2] = top[None, :, None]
    image[height // 2 :, : width // 2] = (255, 0, 0)
    image[height // 2 :, width // 2 :] = (0, 0, 255)
    return image


def number(image):
    """The number of an upright picture; fails where red and blue are not where they belong."""
    height, width = image.shape[:2]
    below = image[5 * height // 8 : 7 * height // 8].astype(int)
    left, right = below[:, width // 8 : 3 * width // 8], below[:, 5 * width // 8 : 7 * width // 8]
    red, blue = (left[..., 0] - left[..., 2]).min(), (right[..., 2] - right[..., 0]).min()
    assert red > 100 and blue > 100, "not upright"
    block = -(-width // BITS)
    grey = image[height // 8 : 3 * height // 8].mean((0, 2))
    return sum(int(grey[min(b * block + block // 2, width - 1)] > 127) << b for b in range(BITS))


def tone(seconds, rate, *, hz=440.0, level=0.5):
    """A sine [L, 1], float32, which begins at phase 0."""
    time = np.arange(round(seconds * rate)) / rate
    return (level * np.sin(2 * np.pi * hz * time))[:, None].astype("f4")


def clip(
    path,
    seconds=2.0,
    *,
    fps=25,
    size=(96, 64),
    times=None,
    rotation=0,
    aspect=None,
    pix_fmt="yuv420p",
    b_frames=0,
    codecs=None,
    video=True,
    audio=True,
    wave=None,
    sample_rate=44100,
    layout="stereo",
    video_at=0.0,
    audio_at=0.0,
    pause=None,
    cover=False,
    options=None,
    show=picture,
):
    """Writes `path`, a container by its suffix, and returns it.

    times: frame times in seconds where the rate varies. rotation: by how many degrees a player must
    turn the stored picture counterclockwise. aspect: of a pixel. wave: samples [L, channels] in
    place of a 440 Hz tone. video_at, audio_at: when the streams begin. pause: (second, seconds),
    for which audio says nothing. cover: a picture of the album. options: of the container.
    """
    path = pathlib.Path(path)
    video_codec, audio_codec = codecs or CODECS[path.suffix]
    with av.open(str(path), "w", options=options or {}) as container:
        pictures = sounds = None
        if video and video_codec:
            pictures = container.add_stream(video_codec, rate=fps)
            pictures.width, pictures.height = size if rotation % 180 == 0 else size[::-1]
            pictures.pix_fmt, pictures.max_b_frames = pix_fmt, b_frames
            pictures.options = FAST.get(video_codec, {})
            base = Fraction(1, fps if times is None and not video_at else TICKS)
            pictures.codec_context.time_base = base
            if rotation:
                pictures.set_display_rotation(rotation)
            if aspect:
                pictures.codec_context.sample_aspect_ratio = aspect
        if audio and audio_codec:
            sounds = container.add_stream(audio_codec, rate=sample_rate, layout=layout)
        packets = []
        if cover:
            album = container.add_stream("mjpeg", rate=1)
            album.width, album.height, album.pix_fmt = *size, "yuvj420p"
            album.codec_context.time_base = Fraction(1, 1)
            album.disposition = Disposition.attached_pic
            packets += _video(album, [picture(0, size)], [0.0])
        if pictures is not None:
            times = [k / fps for k in range(round(seconds * fps))] if times is None else times
            images = (np.rot90(show(k, size), -rotation // 90) for k in range(len(times)))
            packets += _video(pictures, images, [time + video_at for time in times])
        if sounds is not None:
            wave = tone(seconds, sample_rate) if wave is None else wave
            packets += _audio(sounds, wave, audio_at, pause or (seconds, 0.0))
        for packet in sorted(packets, key=lambda p: p.dts * p.time_base):
            container.mux(packet)
    return path


def _video(stream, images, times):
    base = stream.codec_context.time_base
    for image, time in zip(images, times, strict=True):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), "rgb24")
        frame = frame.reformat(format=stream.pix_fmt)
        frame.pts, frame.time_base = round(time / base), base
        yield from stream.encode(frame)
    yield from stream.encode()


def _audio(stream, wave, begin, pause, block=1024):
    rate, channels = stream.rate, stream.layout.nb_channels
    wave = np.broadcast_to(wave, (len(wave), channels))
    for at in range(0, len(wave), block):
        part = np.ascontiguousarray(wave[at : at + block], np.float32).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(part, "flt", stream.layout)
        late = pause[1] if at >= round(pause[0] * rate) else 0.0
        frame.rate, frame.time_base = rate, Fraction(1, rate)
        frame.pts = round((begin + late) * rate) + at
        yield from stream.encode(frame)
    yield from stream.encode()
