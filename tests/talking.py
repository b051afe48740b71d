"""A folder of small clips of a face, and the table that says what they are."""

import csv

import clips
import numpy as np


def portrait(k, size):
    """The public-domain portrait of the astronaut Eileen Collins (NASA), moving a little."""
    from skimage import data

    width, height = size
    return np.ascontiguousarray(data.astronaut()[k % 4 : k % 4 + height, 90 : 90 + width])


def make(folder):
    """Four clips, of which three lack something; words beside the first. Returns the folder."""
    face = dict(size=(256, 256), fps=10, show=portrait)
    clips.clip(folder / "all.mp4", 1.2, **face)
    clips.clip(folder / "mute.mp4", 1.0, audio=False, **face)
    clips.clip(folder / "nobody.mp4", 1.0)
    clips.clip(folder / "radio.wav", 2.0)
    (folder / "all.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nhello there\n")
    rows = [
        {"id": "a", "file": "all.mp4", "split": "train", "label": "glad"},
        {"id": "b", "file": "mute.mp4", "split": "train", "label": "sad"},
        {"id": "c", "file": "nobody.mp4", "split": "valid", "label": "sad"},
        {"id": "d", "file": "radio.wav", "split": "test", "label": "glad"},
    ]
    rows[3] |= {"start": 0.5, "end": 1.5}
    write(folder / "table.csv", rows)
    return folder


def write(path, rows):
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, list({k: 0 for row in rows for k in row}))
        table.writeheader()
        table.writerows(rows)
