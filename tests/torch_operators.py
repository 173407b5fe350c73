"""Thirteen operators with a backward by hand, as people write them, and one realistic bug in each; small trainings."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

VOCABULARY, WIDTH, LENGTH = 11, 8, 6


def operator(cls):
    """Make a pair of an operator: the right one, and a twin whose ``wrong`` is set."""
    cls.wrong = False
    twin = type(f"Wrong{cls.__name__}", (cls,), {"wrong": True, "__module__": cls.__module__})
    PAIRS[cls.__name__] = {False: cls, True: twin}
    return cls


PAIRS = {}


@operator
class LinearGELU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias):
        z = functional.linear(x, weight, bias)
        ctx.save_for_backward(x, weight, z)
        return z * 0.5 * (1 + torch.erf(z / math.sqrt(2)))

    @classmethod
    def derivative(cls, z):
        if cls.wrong:  # of the approximation by tanh
            c = math.sqrt(2 / math.pi)
            t = torch.tanh(c * (z + 0.044715 * z**3))
            return 0.5 * (1 + t) + 0.5 * z * (1 - t * t) * c * (1 + 3 * 0.044715 * z * z)
        return 0.5 * (1 + torch.erf(z / math.sqrt(2))) + z * torch.exp(-z * z / 2) / math.sqrt(2 * math.pi)

    @staticmethod
    def backward(ctx, upstream):
        x, weight, z = ctx.saved_tensors
        delta = upstream * ctx._forward_cls.derivative(z)
        rows = delta.reshape(-1, delta.shape[-1])
        return delta @ weight, rows.T @ x.reshape(-1, x.shape[-1]), rows.sum(0)


@operator
class RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        r = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
        ctx.save_for_backward(x, weight, r)
        return x * r * weight

    @staticmethod
    def backward(ctx, upstream):
        x, weight, r = ctx.saved_tensors
        scaled = upstream * weight
        along = 0.0 if ctx._forward_cls.wrong else (scaled * x).mean(-1, keepdim=True)
        return r * scaled - r**3 * x * along, (upstream * x * r).flatten(0, -2).sum(0)


@operator
class LayerNorm(torch.autograd.Function):
    """In the newer style."""

    @staticmethod
    def forward(x, weight, bias):
        mean, variance = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
        return (x - mean) * torch.rsqrt(variance + 1e-5) * weight + bias

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx, upstream):
        x, weight = ctx.saved_tensors
        r = torch.rsqrt(x.var(-1, keepdim=True, unbiased=False) + 1e-5)
        normed, scaled = (x - x.mean(-1, keepdim=True)) * r, upstream * weight
        count = x.shape[-1] - ctx._forward_cls.wrong
        along = scaled.sum(-1, keepdim=True) / count + normed * (scaled * normed).sum(-1, keepdim=True) / count
        return r * (scaled - along), (upstream * normed).flatten(0, -2).sum(0), upstream.flatten(0, -2).sum(0)


@operator
class FusedCE(torch.autograd.Function):
    """The loss of logits with labels, some of which (-100) are ignored; its way back is computed in forward."""

    @staticmethod
    def forward(ctx, logits, labels):
        kept = labels != -100
        log_p = logits.log_softmax(-1)
        chosen = log_p.gather(1, labels.clamp(min=0)[:, None])[:, 0]
        loss = -(chosen * kept).sum() / kept.sum()
        one_hot = functional.one_hot(labels.clamp(min=0), logits.shape[1]).to(logits.dtype)
        count = len(labels) if ctx._forward_cls.wrong else kept.sum()
        ctx.save_for_backward((log_p.exp() - one_hot) * kept[:, None] / count)
        return loss

    @staticmethod
    def backward(ctx, upstream):
        return upstream * ctx.saved_tensors[0], None


def turned(x, angles):
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * angles.cos() - second * angles.sin(), first * angles.sin() + second * angles.cos()], -1)


@operator
class Rotary(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        half = x.shape[-1] // 2
        angles = torch.arange(x.shape[-2])[:, None] / 10 ** (torch.arange(half) / half)
        ctx.save_for_backward(angles)
        return turned(x, angles)

    @staticmethod
    def backward(ctx, upstream):
        (angles,) = ctx.saved_tensors
        return turned(upstream, angles if ctx._forward_cls.wrong else -angles)


@operator
class SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gate, up):
        ctx.save_for_backward(gate, up)
        return functional.silu(gate) * up

    @staticmethod
    def backward(ctx, upstream):
        gate, up = ctx.saved_tensors
        s = torch.sigmoid(gate)
        derivative = s if ctx._forward_cls.wrong else s * (1 + gate * (1 - s))
        return upstream * up * derivative, upstream * functional.silu(gate)


@operator
class Embedding(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weight, tokens):
        ctx.save_for_backward(tokens)
        ctx.rows = len(weight)
        return weight[tokens]

    @staticmethod
    def backward(ctx, upstream):
        (tokens,) = ctx.saved_tensors
        grad, flat = upstream.new_zeros(ctx.rows, upstream.shape[-1]), upstream.reshape(-1, upstream.shape[-1])
        if ctx._forward_cls.wrong:
            grad[tokens.reshape(-1)] = flat
        else:
            grad.index_add_(0, tokens.reshape(-1), flat)
        return grad, None


@operator
class Attention(torch.autograd.Function):
    """Causal, chunk by chunk of the queries, into a buffer; the scores are computed again in backward."""

    @staticmethod
    def probabilities(q, k, start, shift=0):
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        hidden = torch.arange(k.shape[-2])[None] > torch.arange(start, start + q.shape[-2])[:, None] + shift
        return scores.masked_fill(hidden, -math.inf).softmax(-1)

    @staticmethod
    def forward(ctx, q, k, v):
        ctx.save_for_backward(q, k, v)
        out = torch.empty_like(q)
        for start in range(0, q.shape[-2], 2):
            rows = slice(start, start + 2)
            out[..., rows, :] = Attention.probabilities(q[..., rows, :], k, start) @ v
        return out

    @staticmethod
    def backward(ctx, upstream):
        q, k, v = ctx.saved_tensors
        dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for start in range(0, q.shape[-2], 2):
            rows = slice(start, start + 2)
            p = Attention.probabilities(q[..., rows, :], k, start, shift=int(ctx._forward_cls.wrong and start > 0))
            delta = upstream[..., rows, :]
            dv += p.transpose(-1, -2) @ delta
            dp = delta @ v.transpose(-1, -2)
            ds = p * (dp - (dp * p).sum(-1, keepdim=True)) / math.sqrt(q.shape[-1])
            dq[..., rows, :] = ds @ k
            dk += ds.transpose(-1, -2) @ q[..., rows, :]
        return dq, dk, dv


@operator
class Scan(torch.autograd.Function):
    """h_t = a_t h_(t-1) + x_t."""

    @staticmethod
    def forward(ctx, a, x):
        h, states = torch.zeros_like(x[:, 0]), []
        for t in range(x.shape[1]):
            h = a[:, t] * h + x[:, t]
            states.append(h)
        states = torch.stack(states, 1)
        ctx.save_for_backward(a, states)
        return states

    @staticmethod
    def backward(ctx, upstream):
        a, states = ctx.saved_tensors
        da, dx, carried = torch.zeros_like(a), torch.zeros_like(a), 0.0
        for t in reversed(range(a.shape[1])):
            delta = upstream[:, t] + carried
            dx[:, t] = delta
            da[:, t] = delta * states[:, t - 1] if t else 0.0
            carried = delta * a[:, max(t - 1, 0) if ctx._forward_cls.wrong else t]
        return da, dx


@operator
class Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        columns = functional.unfold(x, 3, padding=1)
        ctx.save_for_backward(columns, weight)
        ctx.size = x.shape[-2:]
        return (weight.flatten(1) @ columns).unflatten(-1, x.shape[-2:])

    @staticmethod
    def backward(ctx, upstream):
        columns, weight = ctx.saved_tensors
        delta = upstream.flatten(2)
        each = torch.einsum("bol,bkl->bok", delta, columns)
        dw = each.mean(0) if ctx._forward_cls.wrong else each.sum(0)
        dx = functional.fold(weight.flatten(1).T @ delta, ctx.size, 3, padding=1)
        return dx, dw.reshape(weight.shape)


@operator
class GroupNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        groups = x.unflatten(1, (2, -1))
        mean = groups.mean((2, 3, 4), keepdim=True)
        r = torch.rsqrt(groups.var((2, 3, 4), keepdim=True, unbiased=False) + 1e-5)
        normed = ((groups - mean) * r).flatten(1, 2)
        ctx.save_for_backward(normed, weight, r)
        return normed * weight[:, None, None]

    @staticmethod
    def backward(ctx, upstream):
        normed, weight, r = ctx.saved_tensors
        scaled, groups = (upstream * weight[:, None, None]).unflatten(1, (2, -1)), normed.unflatten(1, (2, -1))
        over = (3, 4) if ctx._forward_cls.wrong else (2, 3, 4)
        along = scaled.mean(over, keepdim=True) + groups * (scaled * groups).mean(over, keepdim=True)
        return (r * (scaled - along)).flatten(1, 2), (upstream * normed).sum((0, 2, 3))


@operator
class Neighbours(torch.autograd.Function):
    """A sparse matrix, which is not symmetric, times features."""

    @staticmethod
    def forward(ctx, matrix, x):
        ctx.save_for_backward(matrix)
        return torch.sparse.mm(matrix.to(x.dtype), x)

    @staticmethod
    def backward(ctx, upstream):
        matrix = ctx.saved_tensors[0].to(upstream.dtype)
        return None, torch.sparse.mm(matrix if ctx._forward_cls.wrong else matrix.t(), upstream)


@operator
class FakeQuantised(torch.autograd.Function):
    """Rounded to a grid and clipped; straight through on the way back, where it was not clipped."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return (x * 8).round().clamp(-8, 8) / 8

    @staticmethod
    def backward(ctx, upstream):
        (x,) = ctx.saved_tensors
        return upstream if ctx._forward_cls.wrong else upstream * (x.abs() <= 1)


def stock_norm(x, weight, bias):
    return functional.layer_norm(x, x.shape[-1:], weight, bias)


class Parts(nn.Module):
    """A model whose operators are stock ones but for one by hand."""

    def __init__(self, name, wrong):
        super().__init__()
        self.by_hand = {name: PAIRS[name][wrong].apply} if name else {}

    def call(self, name, stock, *inputs):
        return self.by_hand.get(name, stock)(*inputs)


class Block(Parts):
    def __init__(self, name, wrong):
        super().__init__(name, wrong)
        self.rms, self.norm = nn.Parameter(torch.ones(WIDTH)), nn.Parameter(torch.ones(WIDTH))
        self.shift = nn.Parameter(torch.zeros(WIDTH))
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        self.hidden, self.up = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(WIDTH, 2 * WIDTH, bias=False)
        self.down = nn.Linear(2 * WIDTH, WIDTH, bias=False)
        self.decay = nn.Linear(WIDTH, WIDTH) if name == "Scan" else None

    def forward(self, x):
        normed = self.call("RMSNorm", lambda x, w: functional.rms_norm(x, x.shape[-1:], w, 1e-6), x, self.rms)
        q, k, v = self.qkv(normed).chunk(3, -1)
        q, k = self.call("Rotary", nn.Identity(), q), self.call("Rotary", nn.Identity(), k)
        x = x + self.out(self.call("Attention", lambda q, k, v: q + k * v.cumsum(1), q, k, v))
        if self.decay is not None:
            x = x + self.by_hand["Scan"](torch.sigmoid(self.decay(x)), x)
        x = self.call(
            "LayerNorm", lambda x, w, b: functional.layer_norm(x, x.shape[-1:], w, b), x, self.norm, self.shift
        )
        weight = self.call("FakeQuantised", nn.Identity(), self.hidden.weight)
        gate = self.call(
            "LinearGELU", lambda x, w, b: functional.gelu(functional.linear(x, w, b)), x, weight, self.hidden.bias
        )
        return x + self.down(self.call("SwiGLU", lambda g, u: functional.silu(g) * u, gate, self.up(x)))


class Transformer(Parts):
    """Guesses the next token; the labels of some are ignored."""

    def __init__(self, name="", wrong=False, layers=2):
        super().__init__(name, wrong)
        self.embedding = nn.Parameter(torch.randn(VOCABULARY, WIDTH) / 2)
        self.blocks = nn.Sequential(*(Block(name, wrong) for _ in range(layers)))
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, tokens):
        x = self.call("Embedding", lambda w, t: functional.embedding(t, w), self.embedding, tokens[:, :-1])
        labels = tokens[:, 1:].reshape(-1).masked_fill(tokens[:, 1:].reshape(-1) == 0, -100)
        return self.call("FusedCE", functional.cross_entropy, self.head(self.blocks(x)).flatten(0, 1), labels)

    @staticmethod
    def batch(generator):
        return torch.randint(VOCABULARY, (3, LENGTH + 1), generator=generator)


class Images(Parts):
    """A convolution, a norm, and a head."""

    def __init__(self, name="", wrong=False, layers=2):
        super().__init__(name, wrong)
        self.first, self.weight = nn.Conv2d(2, 4, 3, padding=1), nn.Parameter(torch.ones(4))
        self.kernels = nn.ParameterList(torch.randn(4, 4, 3, 3) / 6 for _ in range(layers))
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        h = self.first(x)
        for kernel in self.kernels:
            h = torch.tanh(self.call("Convolution", lambda x, w: functional.conv2d(x, w, padding=1), h, kernel))
        h = self.call("GroupNorm", lambda x, w: functional.group_norm(x, 2, w), h, self.weight)
        return functional.cross_entropy(self.head(torch.tanh(h).mean((2, 3)) + h[:, :, 0, 0]), torch.arange(3))

    @staticmethod
    def batch(generator):
        return torch.randn(3, 2, 5, 5, generator=generator)


class Graph(Parts):
    """Two rounds of messages on a graph."""

    def __init__(self, name="", wrong=False, layers=2):
        super().__init__(name, wrong)
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(layers))
        generator = torch.Generator().manual_seed(0)
        dense = torch.rand(7, 7, generator=generator) * (torch.rand(7, 7, generator=generator) < 0.4)
        self.register_buffer("matrix", dense.to_sparse(), persistent=False)

    def forward(self, x):
        for layer in self.layers:
            x = torch.tanh(layer(self.call("Neighbours", torch.sparse.mm, self.matrix, x)))
        return functional.cross_entropy(x, torch.arange(7) % 4)

    @staticmethod
    def batch(generator):
        return torch.randn(7, 4, generator=generator)


def model_of(name, wrong=False, layers=2):
    """Return a small model in which one operator is by hand."""
    torch.manual_seed(0)
    kind = {"Convolution": Images, "GroupNorm": Images, "Neighbours": Graph}.get(name, Transformer)
    return kind(name, wrong, layers)


def train(model, hook=None, steps=3):
    """Train as people do; return the losses."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    generator, losses = torch.Generator().manual_seed(1), []
    for step in range(steps):
        batch = model.batch(generator)
        optimizer.zero_grad()
        loss = model(batch)
        loss.backward()
        if hook is not None:
            hook.on_step(step, loss=lambda batch=batch: model(batch))
        optimizer.step()
        losses.append(loss.item())
    return losses
