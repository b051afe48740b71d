"""Weights and inputs of the goldens, drawn again from their names (numpy only).

The goldens (`tests/golden/*.npz`) hold outputs of the published fusion network and encoders, and
no weights: every array comes from a generator that is seeded by the array's own name.
"""

import ast
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

GOLDEN_DIR = Path(__file__).parent / "golden"
HEAD = "classification_heads.emotion_classification_head"

# Our modality -> the name that the goldens use.
GOLDEN_NAME = {"text": "text", "audio": "audio", "vision": "video"}

# Our nine CLS vectors have the golden's names. j_* are the queries of the six stacks: the first
# text frame (`<s>`), and CLS after the audio and the vision encoder.
CLS_NAMES = ("j_text", "j_aud", "j_vid", "t2a_r", "t2v_r", "a2t_r", "a2v_r", "v2t_r", "v2a_r")


def load_golden(name: str) -> dict[str, np.ndarray]:
    """All arrays of `tests/golden/NAME.npz`."""
    with np.load(GOLDEN_DIR / f"{name}.npz", allow_pickle=False) as npz:
        return dict(npz)


def draw(name: str, shape: tuple[int, ...], salt: str = "golden") -> np.ndarray:
    """Standard normal float32 of `shape` from the generator that `name` seeds."""
    return generator(name, salt).standard_normal(shape).astype(np.float32)


def generator(name: str, salt: str = "golden") -> np.random.RandomState:
    """The generator that `name` seeds."""
    return np.random.RandomState(zlib.crc32(f"{salt}:{name}".encode()) & 0x7FFFFFFF)


def sseft_config(npz: Mapping[str, np.ndarray]) -> dict:
    """The golden's sizes, as arguments of the network (order: text, audio, vision)."""
    c = ast.literal_eval(str(npz["config"]))
    return {
        "dims": c["dims"],
        "ffn": c["F"],
        "heads": c["H"],
        "sa_layers": c["L"],
        "ima_layers": c["X"],
        "outputs": c["C"],
        "max_positions": c["maxpos"],
    }


def sseft_state_dict(npz: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every parameter by its published name, the head's four (not in `param_names`) included."""
    shapes = {
        str(name): ast.literal_eval(str(shape))
        for name, shape in zip(npz["param_names"], npz["param_shapes"], strict=True)
    }
    width = sum(sseft_config(npz)["dims"])
    for layer, outputs in (("dense", width), ("out_proj", npz["logits"].shape[1])):
        shapes |= {f"{HEAD}.{layer}.weight": (outputs, width), f"{HEAD}.{layer}.bias": (outputs,)}
    return {name: sseft_parameter(name, shape) for name, shape in shapes.items()}


def sseft_parameter(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """One parameter, scaled by its kind so that activations keep a sensible size."""
    x = draw(name, shape)
    if "layer_norm" in name and name.endswith(".weight"):
        return 1 + np.float32(0.1) * x
    if name.endswith("bias"):
        return np.float32(0.05) * x
    x = x / np.float32(np.sqrt(shape[-1]))
    if name.startswith("embed_positions_"):
        x[1] = 0  # the row of padded frames
    return x


def sseft_batch(npz: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """{text, audio, vision} [B, T, D] float32 and {...}_mask [B, T] bool, True = a real frame.

    Lengths count the stream's own frames, without the CLS that the network adds. Padded frames
    hold random values on purpose: a network that reads them fails.
    """
    config = ast.literal_eval(str(npz["config"]))
    batch = {}
    for (ours, theirs), frames, width in zip(
        GOLDEN_NAME.items(), config["lens"], config["dims"], strict=True
    ):
        batch[ours] = draw(theirs, (config["B"], frames, width))
        batch[f"{ours}_mask"] = np.arange(frames) < npz[f"{theirs}_length"][:, None]
    return batch


def sseft_target(npz: Mapping[str, np.ndarray]) -> np.ndarray:
    """[B, C]; the golden's loss is mean |logits - target|."""
    return draw("target", npz["logits"].shape)


def encoder_state_dict(npz: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The parameters of `fabnet` or `wav2vec`, by the names of their projects."""
    shapes = {
        str(name): ast.literal_eval(str(shape))
        for name, shape in zip(npz["param_names"], npz["param_shapes"], strict=True)
    }
    return {n: encoder_parameter(n, shape) for n, shape in shapes.items() if "num_batches" not in n}


def encoder_parameter(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """One parameter, scaled by its kind so that activations keep a sensible size."""
    x = draw(name, shape)
    if name.endswith("running_var"):
        return 1 + np.float32(0.1) * np.abs(x)
    if name.endswith(("running_mean", "bias")):
        return np.float32(0.05) * x
    if len(shape) == 1:
        return 1 + np.float32(0.1) * x
    return x / np.float32(np.sqrt(np.prod(shape[1:])))


def fabnet_frames() -> np.ndarray:
    """[3, 256, 256, 3] float32 in [0, 1]; the golden draws them channels first."""
    frames = generator("frames").random_sample((3, 3, 256, 256)).astype(np.float32)
    return frames.transpose(0, 2, 3, 1)


def wav2vec_wave() -> np.ndarray:
    """[2, 16000]: two clips of a second."""
    return np.float32(0.1) * draw("wave", (2, 16000))


def mult_state_dict(npz: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The parameters of MulT by its own names; its buffers are left out."""
    shapes = {
        str(name): ast.literal_eval(str(shape))
        for name, shape in zip(npz["param_names"], npz["param_shapes"], strict=True)
    }
    buffers = ("version", "_float_tensor")
    return {n: mult_parameter(n, shape) for n, shape in shapes.items() if not n.endswith(buffers)}


def mult_parameter(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """One parameter, scaled by its kind so that activations keep a sensible size."""
    x = draw(name, shape)
    if "layer_norm" in name and name.endswith("weight"):
        return 1 + np.float32(0.1) * x
    if name.endswith("bias"):
        return np.float32(0.05) * x
    return x if len(shape) == 1 else x / np.float32(np.sqrt(np.prod(shape[1:])))
