"""The SSE-FT fusion network in PyTorch, twice: as published, and as fast as we can make it.

SSE-FT (Siriwardhana et al., IEEE Access 8, 2020) reads frozen features of three streams:

    text   [B, T, 1024] --------------------------------------------.
    audio  [B, T, 512]  + CLS, positions, LN -> 2 self-attention ---+--> six stacks of two
    vision [B, T, 256]  + CLS, positions, LN -> 2 self-attention ---'    inter-modality layers
    h = [ta * tv, vt * va, at * av] at position 0 -> Dense -> tanh -> Dense -> [B, C]

`DenseSSEFT` computes it the published way; `FastSSEFT` is the same function without the work that
nobody reads, and is what a JAX version has to be compared with. Both have the parameter names of
the published checkpoints, less the prefix `decoder.sentence_encoder.`, and load them strictly.
Numbers in brackets are sections of the project's notes on SSE-FT.

Letters: B batch, T/S query/key frames, D/E query/key width, H heads, K = D/H, C outputs.
The stack `ta` is text <- audio, and its result is `t2a_r`. Each row needs a real text frame.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Batch = Mapping[str, Tensor]  # text, audio, vision [B, T, D]; *_mask [B, T], True = a real frame
Streams = dict[str, tuple[Tensor, Tensor]]  # "t", "a", "v" -> x [B, T, D], mask [B, T]

HEAD = "emotion_classification_head"
STACKS = ("ta", "tv", "at", "av", "vt", "va")
PADDING_ROW = 1  # of the position tables: stays zero; row 0 is never read, CLS reads row 2


class Attention(nn.Module):
    """Weights of one attention (3.3, 3.4): packed [3D, D], or apart when the key width differs."""

    def __init__(self, width: int, key_width: int | None = None) -> None:
        super().__init__()
        if key_width is None:
            self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width).normal_(0, 0.02))
        else:
            for name, columns in (("q", width), ("k", key_width), ("v", key_width)):
                weight = nn.init.xavier_uniform_(torch.empty(width, columns))
                self.register_parameter(f"{name}_proj_weight", nn.Parameter(weight))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))  # query, key, value
        self.out_proj = nn.Linear(width, width)


class Block(nn.Module):
    """Weights of a post-LN transformer block; with `key_width`, one that reads another stream."""

    def __init__(self, width: int, inner: int, key_width: int | None = None) -> None:
        super().__init__()
        self.self_attn = Attention(width, key_width)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)
        self.final_layer_norm = nn.LayerNorm(width)
        for linear in (self.self_attn.out_proj, self.fc1, self.fc2):
            nn.init.normal_(linear.weight, 0, 0.02)
            nn.init.zeros_(linear.bias)


class SSEFT(nn.Module):
    """Everything but attention. Subclasses add `self_attend` and `stacks`."""

    def __init__(
        self,
        dims: tuple[int, int, int] = (1024, 512, 256),
        ffn: int = 1024,
        heads: int = 4,
        sa_layers: int = 2,
        ima_layers: int = 2,
        outputs: int = 1,
        max_positions: tuple[int, int, int] = (512, 936, 301),
        dropout: float = 0.1,
    ) -> None:
        """`dims`, `max_positions`: text, audio, vision; positions count CLS, text's are unused."""
        super().__init__()
        self.heads, self.dropout = heads, dropout
        width = dict(zip("tav", dims, strict=True))
        for m, positions in zip("av", max_positions[1:], strict=True):
            cls = nn.Embedding.from_pretrained(torch.zeros(1, width[m]), freeze=False)  # 3.7
            table = nn.Embedding(positions + 2, width[m], padding_idx=PADDING_ROW)
            nn.init.normal_(table.weight, 0, 0.02)
            nn.init.zeros_(table.weight[PADDING_ROW])
            setattr(self, f"SE_embeddings_{m}", cls)
            setattr(self, f"embed_positions_{m}", table)
            setattr(self, f"emb_layer_norm_{m}", nn.LayerNorm(width[m]))
            blocks = [Block(width[m], ffn) for _ in range(sa_layers)]
            setattr(self, f"layers_{m}", nn.ModuleList(blocks))
        for q, k in STACKS:
            blocks = [Block(width[q], ffn, width[k]) for _ in range(ima_layers)]
            setattr(self, f"layers_{q}{k}", nn.ModuleList(blocks))
        head = {"dense": nn.Linear(sum(dims), sum(dims)), "out_proj": nn.Linear(sum(dims), outputs)}
        self.classification_heads = nn.ModuleDict({HEAD: nn.ModuleDict(head)})

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits [B, C] and nine vectors [B, D] at position 0: stack inputs j_*, results *2*_r."""
        text, mask = batch["text"], batch["text_mask"]
        streams = {"t": (self.blank(text, mask), mask)}
        for m, name in (("a", "audio"), ("v", "vision")):
            x, mask = self.embed(m, batch[name], batch[f"{name}_mask"])
            for block in getattr(self, f"layers_{m}"):
                x = self.finish(block, x, self.self_attend(block.self_attn, x, mask))
            streams[m] = x, mask
        cls = {f"{q}2{k}_r": x for (q, k), x in self.stacks(streams).items()}
        fused = [cls["t2a_r"] * cls["t2v_r"], cls["v2t_r"] * cls["v2a_r"]]
        fused.append(cls["a2t_r"] * cls["a2v_r"])  # text, vision, audio: the head's order (3.5)
        head = self.classification_heads[HEAD]
        logits = head["out_proj"](torch.tanh(head["dense"](torch.cat(fused, dim=1))))
        inputs = zip(("j_text", "j_aud", "j_vid"), streams.values(), strict=True)
        return logits, cls | {name: x[:, 0] for name, (x, _) in inputs}

    def embed(self, m: str, frames: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Frames [B, T, D] -> CLS + frames, normalised [B, T+1, D], and mask [B, T+1] (3.2)."""
        cls = getattr(self, f"SE_embeddings_{m}").weight
        x = torch.cat([cls.expand(frames.shape[0], 1, -1), frames], dim=1)
        mask = F.pad(mask, (1, 0), value=True)
        # A position counts the real frames before it, so a gap in a mask uses up no rows.
        rows = torch.where(mask, mask.cumsum(1) + PADDING_ROW, PADDING_ROW)
        x = getattr(self, f"emb_layer_norm_{m}")(x + getattr(self, f"embed_positions_{m}")(rows))
        return self.blank(self.drop(x), mask), mask

    def finish(self, block: Block, x: Tensor, attended: Tensor) -> Tensor:
        """What follows attention in a block: x, attended [..., D] -> [..., D]."""
        x = block.self_attn_layer_norm(x + self.drop(block.self_attn.out_proj(attended)))
        return block.final_layer_norm(x + self.drop(block.fc2(F.gelu(block.fc1(x)))))  # erf GELU

    def drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)

    def blank(self, x: Tensor, mask: Tensor) -> Tensor:
        """Padded frames set to 0 (3.2)."""
        return x * mask[..., None]


class DenseSSEFT(SSEFT):
    """The published computation: every stack runs over the full padded length of its query."""

    def self_attend(self, attn: Attention, x: Tensor, mask: Tensor) -> Tensor:
        qkv = F.linear(x, attn.in_proj_weight, attn.in_proj_bias).chunk(3, dim=-1)
        return self.attend(*qkv, mask)

    def stacks(self, streams: Streams) -> dict[str, Tensor]:
        results = {}
        for stack in STACKS:
            x, (source, mask) = streams[stack[0]][0], streams[stack[1]]
            for block in getattr(self, f"layers_{stack}"):
                attn = block.self_attn
                bq, bk, bv = attn.in_proj_bias.chunk(3)
                q = F.linear(x, attn.q_proj_weight, bq)
                k = F.linear(source, attn.k_proj_weight, bk)  # of the stream as it entered (3.4)
                v = F.linear(source, attn.v_proj_weight, bv)
                x = self.finish(block, x, self.attend(q, k, v, mask))
            results[stack] = x[:, 0]
        return results

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        """q [B, T, D], k and v [B, S, D], mask [B, S] -> [B, T, D]."""
        q, k, v = (x.unflatten(2, (self.heads, -1)).transpose(1, 2) for x in (q, k, v))
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(2, 3)
        scores = scores.masked_fill(~mask[:, None, None, :], -torch.inf)
        return (self.drop(torch.softmax(scores, -1)) @ v).transpose(1, 2).flatten(2)


class FastSSEFT(SSEFT):
    """The same function: one query per stack, keys and values never formed, fused kernels.

    Measured on 2 CPU cores (batch 4, full lengths, float32; medians, alternating) as multiples of
    this class's forward, and gradients with dropout: Dense 4.7, 5.4; keys and values formed 1.6,
    1.4; SDPA + F.dropout in the encoders 1.0, 1.3; matmul + softmax + `random_keep` there 1.0, 0.9
    to 1.1 between runs. Plain AdamW takes 3.6 times the fused one.
    """

    def blank(self, x: Tensor, mask: Tensor) -> Tensor:
        """Nothing to do: padded frames weigh exactly 0 as keys, and are not read as queries."""
        return x

    def drop(self, x: Tensor) -> Tensor:
        if not self.training or self.dropout == 0 or x.device.type != "cpu":
            return super().drop(x)
        keep, factor = random_keep(x.shape, self.dropout)
        return x * keep.to(x.dtype).mul_(factor)

    def self_attend(self, attn: Attention, x: Tensor, mask: Tensor) -> Tensor:
        qkv = F.linear(x, attn.in_proj_weight, attn.in_proj_bias)
        qkv, bias = qkv.unflatten(2, (3, self.heads, -1)), additive(mask, x.dtype)
        p = self.dropout if self.training else 0.0
        if p and x.device.type == "cpu":
            return DropoutAttention.apply(qkv, bias, p).flatten(2)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias[:, None], dropout_p=p)
        return out.transpose(1, 2).flatten(2)

    def stacks(self, streams: Streams) -> dict[str, Tensor]:
        """Position 0 of a stack depends on position 0 of its query alone (3.4)."""
        results = {}
        for key, (source, mask) in streams.items():
            pair = [stack for stack in STACKS if stack[1] == key]
            queries = [streams[stack[0]][0][:, 0] for stack in pair]
            bias = additive(mask, source.dtype)
            for blocks in zip(*(getattr(self, f"layers_{stack}") for stack in pair), strict=True):
                queries = self.cross_layer(blocks, queries, source, bias)
            results |= zip(pair, queries, strict=True)
        return results

    def cross_layer(
        self, blocks: tuple[Block, ...], queries: list[Tensor], source: Tensor, bias: Tensor
    ) -> list[Tensor]:
        """One layer of both stacks that read `source`: queries 2 x [B, D], source [B, S, E].

        score_j = (W_k' q) . x_j and out = W_v (sum_j p_j x_j) + b_v sum_j p_j, so keys and values
        are never formed: q . b_k is the same for every j and cancels. Dropout makes sum p != 1.
        """
        split, probes = (self.heads, -1), []
        for block, x in zip(blocks, queries, strict=True):
            attn, width = block.self_attn, x.shape[1]
            q = F.linear(x, attn.q_proj_weight, attn.in_proj_bias[:width])
            q = (q * (width // self.heads) ** -0.5).unflatten(1, split)
            probes.append(torch.einsum("bhk,hke->bhe", q, attn.k_proj_weight.unflatten(0, split)))
        scores = torch.baddbmm(bias, torch.cat(probes, dim=1), source.transpose(1, 2))
        weights = self.drop(torch.softmax(scores, -1))  # [B, 2H, S]
        means = torch.bmm(weights, source).chunk(2, dim=1)  # 2 x [B, H, E]
        totals = weights.sum(-1, keepdim=True).chunk(2, dim=1)
        results = []
        for block, x, mean, total in zip(blocks, queries, means, totals, strict=True):
            attn, bv = block.self_attn, block.self_attn.in_proj_bias[2 * x.shape[1] :]
            out = torch.einsum("bhe,hke->bhk", mean, attn.v_proj_weight.unflatten(0, split))
            out = (out + total * bv.unflatten(0, split)).flatten(1)
            results.append(self.finish(block, x, out))
        return results


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """[B, S] bool -> [B, 1, S], 0 for real frames and -inf for padding."""
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, -torch.inf)[:, None]


def random_keep(shape: tuple[int, ...], p: float) -> tuple[Tensor, float]:
    """A CPU dropout mask, True = keep, and 1/(1-p); p is rounded to a multiple of 2^-16.

    Four elements share a 64-bit draw: `bernoulli_` takes most of the time of a CPU dropout.
    """
    n, dropped = torch.Size(shape).numel(), round(p * 2**16)
    bits = torch.empty((n + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    keep = bits.view(torch.int16)[:n].view(shape) >= dropped - 2**15
    return keep, 2**16 / (2**16 - dropped)


class DropoutAttention(torch.autograd.Function):
    """softmax(Q K' / sqrt(K) + bias), dropped out, times V: on a CPU, one row of B at a time.

    PyTorch's fused CPU attention has no dropout; its fallback makes many passes over [B, H, T, T].
    Here one array of that size exists, for the backward pass: the weights, negative where dropped.
    """

    @staticmethod
    def forward(ctx, qkv: Tensor, bias: Tensor, p: float) -> Tensor:
        """qkv [B, T, 3, H, K], bias [B, 1, T] (0 or -inf) -> [B, T, H, K]."""
        b, t, _, h, width = qkv.shape
        out, saved, scores = qkv.new_empty(b, h, t, width), qkv.new_empty(b, h, t, t), None
        for i in range(b):
            q, k, v = qkv[i].permute(1, 2, 0, 3)  # [H, T, K] each
            scores = torch.baddbmm(bias[i], q, k.mT, alpha=width**-0.5, out=scores)
            torch.softmax(scores, -1, out=scores)
            keep, factor = random_keep(scores.shape, p)
            torch.where(keep, scores, scores.neg(), out=saved[i])
            torch.bmm(torch.clamp_min(saved[i], 0, out=scores), v, out=out[i])
        ctx.save_for_backward(qkv, saved, out.mul_(factor))
        ctx.factor = factor
        return out.transpose(1, 2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        qkv, saved, out = ctx.saved_tensors
        inner = -(grad.transpose(1, 2) * out).sum(-1, keepdim=True)  # the softmax's own term
        grad = grad.transpose(1, 2) * ctx.factor
        dqkv, scores, weights = qkv.new_empty(3, *out.shape), None, None
        for i, (g, (dq, dk, dv)) in enumerate(zip(grad, dqkv.unbind(1), strict=True)):
            q, k, v = qkv[i].permute(1, 2, 0, 3)
            weights = torch.clamp_min(saved[i], 0, out=weights)
            torch.bmm(weights.mT, g, out=dv)
            scores = torch.bmm(g, v.mT, out=scores).mul_(weights)
            scores.addcmul_(torch.abs(saved[i], out=weights), inner[i])
            torch.bmm(scores, k, out=dq)
            torch.bmm(scores.mT, q, out=dk)
        dqkv[:2] *= qkv.shape[-1] ** -0.5
        return dqkv.permute(1, 3, 0, 2, 4), None, None


def fused_adamw(model: nn.Module, lr: float = 1e-3) -> torch.optim.AdamW:
    """The published update (4.2: decoupled decay of every tensor) in one pass over memory."""
    return torch.optim.AdamW(model.parameters(), lr, (0.9, 0.98), 1e-6, 0.1, fused=True)


def plain_adam(model: nn.Module, lr: float = 1e-3) -> torch.optim.AdamW:
    """The same update as PyTorch runs it when nothing is asked for (foreach on a GPU)."""
    return torch.optim.AdamW(model.parameters(), lr, (0.9, 0.98), 1e-6, 0.1)
