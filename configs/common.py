"""Every key there is, with its default: python -m imat_jax.train --config=configs/NAME.py

An experiment's `get_config` starts from here. `--config=FILE:key=value,…` picks the experiment,
`--config.key=value` sets a number; an unknown key is an error that lists the known ones.
"""

from __future__ import annotations

import ml_collections

# What the numbers of EXPECTED in the experiments were measured with.
MEASURED_WITH = {
    "packages": {"jax": "0.10.2", "jaxlib": "0.10.2", "flax": "0.12.8", "optax": "0.2.8",
                 "numpy": "2.4.6"},
    "python": "3.11.2",
    "devices": ["cpu"],
    "processes": 1,
}  # fmt: skip


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    parse(arg)
    c = ml_collections.ConfigDict()
    # Seed of parameters, dropout and the order of the examples; fixed in advance: 0, 1, 2, 3, 4.
    c.seed = 0
    # Directory of the dataset, as `imat_jax.build` wrote it.
    c.dataset = "data/tiny"
    # Which modalities the model sees, joined by "+"; "": all that the dataset has.
    c.modalities = ""
    # Passes over the training split.
    c.epochs = 20
    # Number of updates; 0: as `epochs` says.
    c.steps = 0
    # Examples an update, over all devices.
    c.batch_size = 32
    # Parts of a batch that go through the model one after the other: memory of one, update of all.
    c.accumulate = 1
    # Compute dtype, "float32" or "bfloat16"; parameters, LayerNorms and softmaxes stay float32.
    c.dtype = "float32"
    # Validation metric that selects the checkpoint; "": the task's own (`tasks.py`).
    c.selection = ""
    # Updates between validations; 0: one epoch. A checkpoint is saved at each.
    c.eval_steps = 0
    # Updates between log lines.
    c.log_steps = 10

    c.data = ml_collections.ConfigDict()
    # Subtract mean and divide by deviation of each feature, of the training split.
    c.data.standardize = True
    # Padded shapes to fit to the lengths, each a compiled program.
    c.data.buckets = 4
    # Frames of each modality that are used; the rest of a longer utterance is cut off.
    c.data.max_frames = ml_collections.ConfigDict({"text": 512, "audio": 1024, "vision": 512})
    # "corrected", or "published": SSE-FT's fixed padding, masks and crops (docs/sseft.md).
    c.data.mode = "corrected"
    # Train on mixtures of two utterances, shares from Beta(mixup, mixup); 0: no mixing.
    c.data.mixup = 0.0
    # Reading threads, and batches held ready.
    c.data.threads = 4
    c.data.ahead = 8
    # Reading processes; 0, threads only, is faster on few cores.
    c.data.workers = 0

    c.model = ml_collections.ConfigDict()
    # "imat" (projections to one width, an encoder for text too), "sseft" (as published), or a
    # baseline, "early", "late", "tfn", "lmf", "mult", "misa", "selfmm", "mbt"; docs/models.md says
    # which of these keys each of them has.
    c.model.name = "imat"
    # Feature widths that the dataset must have; 0: any.
    c.model.features = ml_collections.ConfigDict({"text": 0, "audio": 0, "vision": 0})
    # Common width of the streams; 0: each keeps its features' width.
    c.model.width = 64
    # Self-attention layers of each encoder, layers of each IMA stack, heads, feed-forward width.
    c.model.encoder_layers = 1
    c.model.ima_layers = 1
    c.model.heads = 4
    c.model.ffn = 128
    # Whether text has those self-attention layers too; the published system's text has none.
    c.model.text_encoder = True
    # Which modality learns from which: "all", "none", or such as "text<-audio,text<-vision".
    c.model.directions = "all"
    # Position 0 of each stream: "learned", "statistics" (a projection of the frames' mean and
    # deviation), or "first" (the first feature, such as <s>).
    c.model.cls_token = "learned"
    # "learned", "sinusoidal" or "none".
    c.model.positions = "sinusoidal"
    # LayerNorm on the stream before its first layer; it takes away how strong a frame is.
    c.model.input_norm = True
    # LayerNorm "pre" or "post" (published) each block.
    c.model.norm = "post"
    # What joins the IMA results of a query modality: "hadamard" (published), "concat", "gated".
    c.model.fusion = "concat"
    # Hidden width of the head; 0: its input's (published).
    c.model.head_width = 64
    # Dropout on blocks, attention weights, the features of each modality and the head.
    c.model.dropout = 0.1
    c.model.attention_dropout = 0.1
    c.model.input_dropout = ml_collections.ConfigDict({"text": 0.0, "audio": 0.0, "vision": 0.0})
    c.model.head_dropout = 0.0
    # Chance that a modality of an utterance is dropped in training.
    c.model.modality_dropout = 0.0
    # Utterances before each one, in its group, that its fused vector attends to; and after it too?
    c.model.context = 0
    c.model.bidirectional = False
    # What the encoder layers keep for the backward pass: "none" (nothing is computed twice), "dots"
    # (products with weights) or "layers" (the layers' inputs): less memory, up to a third slower.
    c.model.remat = "none"
    # Self-attention by "plain", "xla", "cudnn" (NVIDIA) or "flash" (TPU); "auto": one that pays.
    c.model.attention = "auto"
    # Initial weights: "lecun" or "published".
    c.model.init = "lecun"

    # What only one model has. Width of each modality's vector in the tensor product.
    c.model.tfn = ml_collections.ConfigDict({"tensor_width": 16})
    # Rank-one tensors that the fusion is a sum of.
    c.model.lmf = ml_collections.ConfigDict({"rank": 4})
    c.model.mult = ml_collections.ConfigDict()
    # Layers of each crossmodal and of each self-attention transformer (5 and 5 as published).
    c.model.mult.layers = 2
    c.model.mult.memory_layers = 2
    # Dropout on streams with their positions.
    c.model.mult.embed_dropout = 0.25
    # "corrected", or "reference": as published, without padding masks (docs/models.md).
    c.model.mult.mode = "corrected"
    # Weights of MISA's losses.
    c.model.misa = ml_collections.ConfigDict()
    c.model.misa.similarity = 1.0
    c.model.misa.difference = 0.3
    c.model.misa.reconstruction = 1.0
    # Largest absolute label that is generated for a single modality.
    c.model.selfmm = ml_collections.ConfigDict({"label_range": 3.0})
    # Layers with bottleneck tokens, 2 or more, after the encoder_layers; and how many tokens.
    c.model.mbt = ml_collections.ConfigDict({"fusion_layers": 2, "bottlenecks": 4})

    c.task = ml_collections.ConfigDict()
    # "l1" or "mse" for regressions, "ordinal" (six steps) for sentiment; "": l1.
    c.task.loss = ""
    # "balanced": rare classes count as much as frequent ones; "": every utterance counts the same.
    c.task.class_weights = ""
    # Gamma of the focal loss: what is told well counts less; 0: plain cross-entropy.
    c.task.focal = 0.0
    # Share of a class target that is spread over all classes.
    c.task.label_smoothing = 0.0
    # Decision threshold of multilabel, or midpoint of the scale of dimensions; -1: the default.
    c.task.threshold = -1.0

    c.optim = ml_collections.ConfigDict()
    # Peak learning rate; "constant", "linear" or "cosine" after a warm-up of this share of steps.
    c.optim.lr = 1e-3
    c.optim.schedule = "cosine"
    c.optim.warmup = 0.1
    # AdamW.
    c.optim.b1 = 0.9
    c.optim.b2 = 0.98
    c.optim.eps = 1e-6
    c.optim.weight_decay = 0.01
    # What decays: "kernels", or "all" (published: biases, norms and embeddings too).
    c.optim.decay = "kernels"
    # Largest global norm of a gradient; 0: no clipping.
    c.optim.clip = 1.0
    # Decay of the moving average of the parameters that is validated and kept; 0: the parameters.
    c.optim.ema = 0.0

    c.tune = ml_collections.ConfigDict()
    # Train the text encoder too: tokens of the transcripts go through it in the step.
    c.tune.text = False
    # Which, as `--encoders=text=` of extraction names it; "": the one that the dataset records.
    c.tune.text_encoder = ""
    # Its learning rate, as a multiple of all others'.
    c.tune.lr_scale = 0.1

    c.mesh = ml_collections.ConfigDict()
    # Devices along each axis; -1: all that are left. `data` splits the batch, `fsdp` the batch and
    # the parameters, `model` attention heads and feed-forward layers.
    c.mesh.data = -1
    c.mesh.fsdp = 1
    c.mesh.model = 1
    # Parameters of fewer elements are not split over fsdp: gathering them costs more than they do.
    c.mesh.fsdp_min = 2**14
    return c


def parse(arg: str, **defaults: str) -> ml_collections.ConfigDict:
    """The part after the colon, `key=value,key=value`, over `defaults`.

    Raises:
      ValueError: a key that is not among `defaults`; lists them.
    """
    values = ml_collections.ConfigDict(defaults)
    for item in filter(None, (arg or "").split(",")):
        key, equals, value = item.partition("=")
        if key not in values or not equals:
            known = ", ".join(f"{k}={v}" for k, v in defaults.items()) or "none"
            raise ValueError(f"unknown config argument {item!r}; known, with defaults: {known}")
        values[key] = value
    return values
