"""Both PyTorch networks against the published network's numbers, and against each other."""

import numpy as np
import pytest
import torch
from golden_arrays import (
    CLS_NAMES,
    GOLDEN_NAME,
    load_golden,
    sseft_batch,
    sseft_config,
    sseft_state_dict,
    sseft_target,
)
from torch_sseft import (
    SSEFT,
    STACKS,
    DenseSSEFT,
    DropoutAttention,
    FastSSEFT,
    additive,
    fused_adamw,
    plain_adam,
    random_keep,
)

BOTH = pytest.mark.parametrize("network", [DenseSSEFT, FastSSEFT])


class Run:
    """One golden, and what a network of ours makes of its weights and inputs."""

    def __init__(self, name: str, network: type[SSEFT]) -> None:
        self.golden = load_golden(name)
        model = network(**sseft_config(self.golden)).eval()
        weights = sseft_state_dict(self.golden)
        model.load_state_dict({k: torch.from_numpy(v) for k, v in weights.items()}, strict=True)
        self.batch = {k: torch.from_numpy(v) for k, v in sseft_batch(self.golden).items()}
        for modality in GOLDEN_NAME:
            self.batch[modality].requires_grad_()
        self.logits, self.cls = model(self.batch)
        self.loss = (self.logits - torch.from_numpy(sseft_target(self.golden))).abs().mean()
        self.loss.backward()
        self.gradients = {k: v.grad.numpy() for k, v in model.named_parameters()}


@pytest.fixture(scope="module", params=["sseft_tiny", "sseft_paper"])
def golden_name(request) -> str:
    return request.param


@pytest.fixture(scope="module", params=[DenseSSEFT, FastSSEFT])
def run(request, golden_name) -> Run:
    return Run(golden_name, request.param)


def close(ours: torch.Tensor, theirs: np.ndarray, atol: float) -> None:
    np.testing.assert_allclose(ours.detach().numpy(), theirs, rtol=0, atol=atol)


def test_outputs_match_the_golden(run):
    np.testing.assert_array_equal(sseft_target(run.golden), run.golden["target"])
    close(run.logits, run.golden["logits"], 2e-5)
    close(run.loss, run.golden["loss"], 2e-5)
    assert sorted(run.cls) == sorted(CLS_NAMES)
    for name in CLS_NAMES:
        close(run.cls[name], run.golden[f"cls/{name}"], 2e-5)


def test_parameter_gradients_match_the_golden(run):
    names = [str(name) for name in run.golden["grad_norm/names"]]
    norms = run.golden["grad_norm/values"]
    assert sorted(names) == sorted(run.gradients)
    # A relative tolerance means something for all of them: none is zero. (The only gradients that
    # are zero in exact arithmetic, of key biases, are a third of a packed tensor; see below.)
    assert norms.min() > 1e-2
    ours = np.array([np.linalg.norm(run.gradients[name].astype(np.float64)) for name in names])
    np.testing.assert_allclose(ours, norms, rtol=1e-3, atol=0)


def test_key_biases_have_no_gradient(run):
    """q . b_k is the same for every key, so softmax cancels it; only rounding may be left."""
    biases = {k: v for k, v in run.gradients.items() if k.endswith("in_proj_bias")}
    for name, gradient in biases.items():
        query, key, value = np.split(gradient, 3)
        assert np.abs(key).max() < 1e-5 * max(np.abs(query).max(), np.abs(value).max()), name


def test_input_gradients_match_the_golden(run):
    for ours, theirs in GOLDEN_NAME.items():
        gradient, golden = run.batch[ours].grad, run.golden[f"grad/{theirs}"]
        frames = golden.shape[1]  # a golden may hold the first frames only
        scale = np.abs(golden).max()
        close(gradient[:, :frames], golden, 1e-5 * scale)
        assert not gradient[~run.batch[f"{ours}_mask"]].any(), "padding has no influence"


def random_network_and_batch(seed: int, sa_layers: int = 2) -> tuple[dict, dict]:
    """Sizes of a network, and a float64 batch with padding, gaps and a missing modality."""
    rng = np.random.default_rng(seed)
    heads = int(rng.choice([1, 2, 3, 5]))
    dims = tuple(int(d) * heads for d in rng.permutation([2, 3, 7]))
    lengths = [int(n) for n in rng.integers(2, 12, 3)]
    sizes = {
        "dims": dims,
        "ffn": int(rng.integers(3, 20)),
        "heads": heads,
        "sa_layers": sa_layers,
        "ima_layers": int(rng.integers(1, 4)),
        "outputs": int(rng.integers(1, 5)),
        "max_positions": tuple(n + 1 for n in lengths),
        "dropout": 0.0,
    }
    batch, rows = {}, int(rng.integers(1, 5))
    for name, frames, width in zip(GOLDEN_NAME, lengths, dims, strict=True):
        batch[name] = torch.from_numpy(rng.standard_normal((rows, frames, width)))
        mask = rng.random((rows, frames)) < 0.7
        if name == "text":
            mask[:, 0] = True  # <s>
        else:
            mask[0] = False  # the first row has no audio and no vision
        batch[f"{name}_mask"] = torch.from_numpy(mask)
    return sizes, batch


def same_function(dense: SSEFT, fast: SSEFT, batch: dict) -> None:
    """Same outputs and same gradients of every parameter and input, to 1e-10."""
    # PyTorch's initialisation is too tame to test with: biases and CLS start at 0.
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: torch.randn(value.shape, generator=generator, dtype=torch.float64) * 0.4
        for name, value in dense.state_dict().items()
    }
    results = []
    for network in (dense.double(), fast.double()):
        network.load_state_dict(weights, strict=True)
        inputs = {k: v.clone().requires_grad_(v.is_floating_point()) for k, v in batch.items()}
        logits, cls = network(inputs)
        (logits.square().sum() + sum(v.sin().sum() for v in cls.values())).backward()
        gradients = {f"d {k}": v.grad for k, v in network.named_parameters()}
        gradients |= {f"d {k}": inputs[k].grad for k in GOLDEN_NAME}
        results.append({"logits": logits, **cls, **gradients})
    assert results[0].keys() == results[1].keys()
    for name, expected in results[0].items():
        scale = max(1.0, expected.abs().max().item())
        torch.testing.assert_close(
            results[1][name],
            expected,
            rtol=0,
            atol=1e-10 * scale,
            msg=lambda m, n=name: f"{n}: {m}",
        )


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("training", [False, True])
def test_dense_and_fast_are_the_same_function(seed, training):
    sizes, batch = random_network_and_batch(seed)
    same_function(DenseSSEFT(**sizes).train(training), FastSSEFT(**sizes).train(training), batch)


@BOTH
def test_a_gap_in_a_mask_uses_up_no_position(network):
    """Real frames with padding among them count as the same frames with the padding at the end."""
    sizes, batch = random_network_and_batch(4)
    model = network(**sizes).double().eval()
    packed = dict(batch)
    for m in GOLDEN_NAME:
        order = batch[f"{m}_mask"].int().argsort(dim=1, descending=True, stable=True)
        packed[f"{m}_mask"] = batch[f"{m}_mask"].gather(1, order)
        packed[m] = batch[m].gather(1, order[..., None].expand_as(batch[m]))
    assert not all(torch.equal(packed[m], batch[m]) for m in ("audio", "vision"))
    torch.testing.assert_close(model(packed)[0], model(batch)[0], rtol=0, atol=1e-12)


def test_absorbed_values_keep_their_bias_under_attention_dropout(monkeypatch):
    """Dropped-out weights do not sum to 1. Scaling stands in for dropout, to be repeatable."""
    sizes, batch = random_network_and_batch(1, sa_layers=0)
    for network in (DenseSSEFT, FastSSEFT):
        monkeypatch.setattr(network, "drop", lambda self, x: 0.7 * x)
    same_function(DenseSSEFT(**sizes), FastSSEFT(**sizes), batch)


def test_dropout_attention_is_softmax_dropout_matmul():
    """Outputs and gradients as autograd has them for the plain formula with the same masks."""
    generator = torch.Generator().manual_seed(0)
    b, t, h, width, p = 3, 7, 2, 5, 0.3
    qkv = torch.randn(b, t, 3, h, width, generator=generator, dtype=torch.float64)
    mask = torch.arange(t) < torch.tensor([[7], [4], [1]])
    bias = additive(mask, torch.float64)
    cotangent = torch.randn(b, t, h, width, generator=generator, dtype=torch.float64)

    ours, plain = qkv.clone().requires_grad_(), qkv.clone().requires_grad_()
    torch.manual_seed(1)
    out = DropoutAttention.apply(ours, bias, p)
    out.backward(cotangent)

    torch.manual_seed(1)
    draws = [random_keep((h, t, t), p) for _ in range(b)]
    noise = torch.stack([keep.double() * factor for keep, factor in draws])
    q, k, v = plain.permute(2, 0, 3, 1, 4)
    weights = torch.softmax(q @ k.mT * width**-0.5 + bias[:, None], -1) * noise
    expected = (weights @ v).transpose(1, 2)
    expected.backward(cotangent)

    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(ours.grad, plain.grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_random_keep_drops_independently_at_the_rate(p):
    torch.manual_seed(0)
    keep, factor = random_keep((403, 501), p)
    n, kept = keep.numel(), keep.double()
    assert abs(factor - 1 / (1 - p)) < 1e-4
    assert abs(kept.mean().item() - (1 - p)) < 5 * (p * (1 - p) / n) ** 0.5
    # Elements that share a 64-bit draw, or are neighbours across two, are uncorrelated; and each of
    # the four places in a draw drops at the rate (a draw without its sign bit would not).
    flat = kept.flatten()
    for lag in (1, 2, 3, 4):
        pair = torch.stack([flat[:-lag], flat[lag:]])
        assert abs(torch.corrcoef(pair)[0, 1].item()) < 5 * n**-0.5
    for place in range(4):
        assert abs(flat[place::4].mean().item() - (1 - p)) < 5 * (p * (1 - p) / (n / 4)) ** 0.5


@BOTH
def test_dropout_only_when_training(network):
    sizes, batch = random_network_and_batch(3)
    model = network(**(sizes | {"dropout": 0.5})).double()
    assert not torch.equal(model.train()(batch)[0], model(batch)[0])
    assert torch.equal(model.eval()(batch)[0], model(batch)[0])


@BOTH
def test_published_size_and_start(network):
    model = network()
    assert sum(p.numel() for p in model.parameters()) == 42_667_009
    for m in "av":
        assert not getattr(model, f"SE_embeddings_{m}").weight.any()
        assert not getattr(model, f"embed_positions_{m}").weight[1].any()
    assert sorted(STACKS) == sorted(q + k for q in "tav" for k in "tav" if q != k)


def test_optimisers_agree():
    sizes, batch = random_network_and_batch(2)
    models = [FastSSEFT(**sizes).double() for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    for model, optimiser in zip(models, (fused_adamw, plain_adam), strict=True):
        step = optimiser(model, lr=1e-2)
        for _ in range(3):
            step.zero_grad()
            model(batch)[0].square().sum().backward()
            step.step()
    for ours, plain in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-6, atol=1e-9)
