"""Time steps: recurrent networks, attention, dynamic programs."""

from __future__ import annotations

import numpy as np

from benchmarks.styles.collection import PURE, style


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


@style
def rnn_over_a_dict_of_states(rng):
    xs = rng.normal(size=(4, 2))

    def loss(p):
        h = {-1: np.zeros(3)}
        total = 0
        for t, x in enumerate(xs):
            h[t] = np.tanh(p["Wx"] @ x + p["Wh"] @ h[t - 1] + p["b"])
            total += h[t] @ p["v"] ** 2
        return total

    params = {"Wx": rng.normal(size=(3, 2)), "Wh": rng.normal(size=(3, 3)), "b": np.zeros(3), "v": rng.normal(size=3)}
    return loss, params, PURE


@style
def rnn_into_a_buffer_of_states(rng):
    x = rng.normal(size=(2, 4, 2))

    def rnn_forward(x, h0, Wx, Wh, b):
        N, T, _ = x.shape
        h = np.zeros((N, T, h0.shape[1]))
        prev_h = h0
        for t in range(T):
            prev_h = np.tanh(x[:, t, :] @ Wx + prev_h @ Wh + b)
            h[:, t, :] = prev_h
        return h

    def loss(p):
        return np.sum(rnn_forward(x, p["h0"], p["Wx"], p["Wh"], p["b"]) ** 2)

    params = {
        "h0": rng.normal(size=(2, 3)),
        "Wx": rng.normal(size=(2, 3)),
        "Wh": rng.normal(size=(3, 3)),
        "b": rng.normal(size=3),
    }
    return loss, params, PURE


@style
def rnn_state_read_from_its_own_buffer(rng):
    x = rng.normal(size=(4, 2))

    def loss(p):
        s = np.zeros((len(x) + 1, 3))
        o = np.zeros((len(x), 2))
        for t in np.arange(len(x)):
            s[t] = np.tanh(x[t] @ p["U"] + p["W"].dot(s[t - 1]))
            o[t] = p["V"].dot(s[t])
        return np.sum(np.log(np.sum(np.exp(o), axis=1)) - o[:, 0])

    return loss, {"U": rng.normal(size=(2, 3)), "W": rng.normal(size=(3, 3)), "V": rng.normal(size=(2, 3))}, PURE


@style
def lstm_with_gates_cut_by_slices(rng):
    x, H = rng.normal(size=(3, 2, 2)), 2

    def lstm_step(x, h, c, Wx, Wh, b):
        a = x @ Wx + h @ Wh + b
        i, f, o = sigmoid(a[:, :H]), sigmoid(a[:, H : 2 * H]), sigmoid(a[:, 2 * H : 3 * H])
        g = np.tanh(a[:, 3 * H :])
        c = f * c + i * g
        return o * np.tanh(c), c

    def loss(p):
        h = c = np.zeros((2, H))
        hidden = []
        for x_t in x:
            h, c = lstm_step(x_t, h, c, p["Wx"], p["Wh"], p["b"])
            hidden.append(h)
        return np.sum(np.stack(hidden, axis=1) ** 2)

    return loss, {"Wx": rng.normal(size=(2, 8)), "Wh": rng.normal(size=(2, 8)), "b": rng.normal(size=8)}, PURE


@style
def lstm_with_concatenated_input(rng):
    xs = rng.normal(size=(3, 2, 1))
    names = ("f", "i", "c", "o")

    def loss(p):
        h, C = np.zeros((2, 1)), np.zeros((2, 1))
        for x in xs:
            z = np.vstack((h, x))
            f, i, o = (sigmoid(np.dot(p[f"W_{k}"], z) + p[f"b_{k}"]) for k in "fio")
            C_bar = np.tanh(np.dot(p["W_c"], z) + p["b_c"])
            C = f * C + i * C_bar
            h = o * np.tanh(C)
        return np.sum(h * h)

    params = {f"W_{k}": rng.normal(size=(2, 4)) for k in names} | {f"b_{k}": rng.normal(size=(2, 1)) for k in names}
    return loss, params, PURE


@style
def gru_with_np_split(rng):
    x = rng.normal(size=(3, 2, 2))

    def loss(p):
        h = np.zeros((2, 2))
        for t in range(len(x)):
            xz, xr, xn = np.split(x[t] @ p["W"] + p["b"], 3, axis=1)
            hz, hr, hn = np.split(h @ p["U"], 3, axis=1)
            z, r = sigmoid(xz + hz), sigmoid(xr + hr)
            h = (1 - z) * np.tanh(xn + r * hn) + z * h
        return h.sum() ** 2

    return loss, {"W": rng.normal(size=(2, 6)), "U": rng.normal(size=(2, 6)), "b": rng.normal(size=6)}, PURE


@style
def bidirectional_and_reversed(rng):
    x = rng.normal(size=(4, 2))

    def run(x, W, U):
        h, out = np.zeros(2), []
        for step in x:
            h = np.tanh(step @ W + h @ U)
            out.append(h)
        return np.array(out)

    def loss(p):
        forth = run(x, p["W1"], p["U1"])
        back = run(x[::-1], p["W2"], p["U2"])[::-1]
        return np.sum(np.concatenate([forth, back], axis=1) ** 2)

    return loss, {name: rng.normal(size=(2, 2)) for name in ("W1", "U1", "W2", "U2")}, PURE


@style
def embedding_lookup(rng):
    words, targets = np.array([[0, 3, 3], [1, 0, 2]]), np.array([1, 0])

    def loss(p):
        h = p["E"][words].mean(axis=1) @ p["W"]
        return np.mean(np.log(np.exp(h).sum(axis=1)) - h[np.arange(2), targets])

    return loss, {"E": rng.normal(size=(4, 2)), "W": rng.normal(size=(2, 2))}, PURE


@style
def embedding_by_one_hot_product(rng):
    words = np.array([0, 3, 3, 1])

    def loss(p):
        one_hot = np.zeros((4, 4))
        one_hot[np.arange(4), words] = 1
        return np.sum(np.tanh(one_hot @ p["E"] @ p["W"]))

    return loss, {"E": rng.normal(size=(4, 2)), "W": rng.normal(size=(2, 3))}, PURE


@style
def word2vec_negative_sampling(rng):
    center, outside, negatives = 1, 2, [0, 3, 3]

    def neg_sampling_loss(p):
        v = p["center"][center]
        loss = -np.log(sigmoid(np.dot(p["outside"][outside], v)))
        for k in negatives:
            loss -= np.log(sigmoid(-np.dot(p["outside"][k], v)))
        return loss

    return neg_sampling_loss, {"center": rng.normal(size=(4, 2)), "outside": rng.normal(size=(4, 2))}, PURE


@style
def attention_with_a_causal_mask(rng):
    x = rng.normal(size=(4, 3))

    def loss(p):
        q, k, v = x @ p["Wq"], x @ p["Wk"], x @ p["Wv"]
        scores = q @ k.T / np.sqrt(q.shape[-1])
        mask = np.triu(np.ones((4, 4)), k=1).astype(bool)
        scores[mask] = -np.inf
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        return np.sum((weights @ v) ** 2)

    return loss, {name: rng.normal(size=(3, 3)) for name in ("Wq", "Wk", "Wv")}, PURE


@style
def attention_masked_by_where(rng):
    x = rng.normal(size=(4, 3))

    def softmax(z):
        e = np.exp(z - z.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)

    def loss(p):
        q, k, v = np.split(x @ p["qkv"], 3, axis=-1)
        scores = np.where(np.tril(np.ones((4, 4))) == 1, q @ k.T, -np.inf)
        return np.mean((softmax(scores) @ v @ p["proj"]) ** 2)

    return loss, {"qkv": rng.normal(size=(3, 6)), "proj": rng.normal(size=(2, 2))}, PURE


@style
def attention_of_several_heads(rng):
    x = rng.normal(size=(2, 3, 4))

    def split_heads(t):
        return t.reshape(2, 3, 2, 2).transpose(0, 2, 1, 3)

    def loss(p):
        q, k, v = (split_heads(x @ p[name]) for name in "qkv")
        scores = q @ k.swapaxes(-1, -2) / np.sqrt(2)
        scores = scores + (1 - np.tri(3)) * -1e9
        a = np.exp(scores - np.max(scores, axis=-1, keepdims=True))
        a = a / np.sum(a, axis=-1, keepdims=True)
        out = (a @ v).transpose(0, 2, 1, 3).reshape(2, 3, 4)
        return np.sum(out * x)

    return loss, {name: rng.normal(size=(4, 4)) * 0.5 for name in "qkv"}, PURE


@style
def heads_in_a_list_as_in_a_tiny_gpt(rng):
    tokens = np.array([0, 2, 1])

    def layer_norm(x, g, b, eps=1e-5):
        mean, variance = np.mean(x, axis=-1, keepdims=True), np.var(x, axis=-1, keepdims=True)
        return g * (x - mean) / np.sqrt(variance + eps) + b

    def gelu(x):
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    def attention(q, k, v, mask):
        z = q @ k.T / np.sqrt(q.shape[-1]) + mask
        e = np.exp(z - np.max(z, axis=-1, keepdims=True))
        return e / np.sum(e, axis=-1, keepdims=True) @ v

    def loss(p):
        x = p["wte"][tokens] + p["wpe"][range(len(tokens))]
        h = layer_norm(x, p["ln"]["g"], p["ln"]["b"]) @ p["attn"]
        heads = [np.split(t, 2, axis=-1) for t in np.split(h, 3, axis=-1)]
        mask = (1 - np.tri(3, dtype=x.dtype)) * -1e10
        x = x + np.hstack([attention(q, k, v, mask) for q, k, v in zip(*heads, strict=True)])
        x = x + gelu(x @ p["mlp"])
        logits = x @ p["wte"].T
        logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        return -np.mean(logp[np.arange(2), tokens[1:]])

    params = {
        "wte": rng.normal(size=(3, 2)),
        "wpe": rng.normal(size=(3, 2)) * 0.1,
        "ln": {"g": np.array([1.0, 0.75]), "b": np.array([0.1, -0.2])},
        "attn": rng.normal(size=(2, 6)),
        "mlp": rng.normal(size=(2, 2)),
    }
    return loss, params, PURE


@style
def rotary_positions(rng):
    x, angles = rng.normal(size=(3, 4)), np.outer(np.arange(3), [1.0, 0.1])

    def rotate(t):
        even, odd = t[:, 0::2], t[:, 1::2]
        out = np.empty_like(t)
        out[:, 0::2] = even * np.cos(angles) - odd * np.sin(angles)
        out[:, 1::2] = even * np.sin(angles) + odd * np.cos(angles)
        return out

    return (
        lambda p: np.sum(np.exp(rotate(x @ p["q"]) @ rotate(x @ p["k"]).T / 4)),
        {
            "q": rng.normal(size=(4, 4)) * 0.3,
            "k": rng.normal(size=(4, 4)) * 0.3,
        },
        PURE,
    )


@style
def greedy_decoding_with_fed_back_outputs(rng):
    """A sequence that is made step by step; the choice is a constant, the state is not."""

    def loss(p):
        h, token, total = np.zeros(3), 0, 0.0
        for _ in range(4):
            h = np.tanh(p["E"][token] + h @ p["U"])
            logits = h @ p["V"]
            token = int(np.argmax(logits))
            total += np.log(np.sum(np.exp(logits))) - logits[token]
        return total

    return loss, {"E": rng.normal(size=(3, 3)), "U": rng.normal(size=(3, 3)), "V": rng.normal(size=(3, 3))}, PURE


@style
def sampling_with_fixed_noise(rng):
    """Reparametrised samples, each from the one before (autoregressive)."""
    noise = rng.normal(size=4)

    def loss(p):
        value, samples = 0.5, []
        for eps in noise:
            mu, log_sigma = np.tanh(p["a"] * value + p["b"]), p["c"] * value
            value = mu + np.exp(log_sigma) * eps
            samples.append(value)
        return np.sum(np.array(samples) ** 2)

    return loss, {"a": 0.75, "b": -0.25, "c": 0.25}, PURE


@style
def crf_forward_algorithm(rng):
    X, tags = rng.normal(size=(4, 2)), [0, 2, 1, 1]

    def logsumexp(a, axis):
        m = a.max(axis=axis, keepdims=True)
        return np.squeeze(m, axis) + np.log(np.sum(np.exp(a - m), axis=axis))

    def nll(p):
        emissions = X @ p["W"]
        alpha = emissions[0]
        score = emissions[0, tags[0]]
        for t in range(1, len(tags)):
            alpha = logsumexp(alpha[:, None] + p["T"] + emissions[t][None, :], axis=0)
            score += p["T"][tags[t - 1], tags[t]] + emissions[t, tags[t]]
        return logsumexp(alpha, axis=0) - score

    return nll, {"W": rng.normal(size=(2, 3)), "T": rng.normal(size=(3, 3))}, PURE


@style
def ctc_by_lists(rng):
    X, label = rng.normal(size=(5, 2)), [1, 2]

    def nll(W):
        z = X @ W
        probs = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
        extended = [0]
        for symbol in label:
            extended += [symbol, 0]
        alpha = [probs[0, extended[0]], probs[0, extended[1]]] + [0.0] * (len(extended) - 2)
        for t in range(1, len(X)):
            new = []
            for s in range(len(extended)):
                a = alpha[s]
                if s > 0:
                    a = a + alpha[s - 1]
                if s > 1 and extended[s] != 0 and extended[s] != extended[s - 2]:
                    a = a + alpha[s - 2]
                new.append(a * probs[t, extended[s]])
            alpha = new
        return -np.log(alpha[-1] + alpha[-2])

    return nll, rng.normal(size=(2, 3)), PURE


@style
def hidden_markov_model(rng):
    observed = [0, 1, 1, 0]

    def nll(p):
        A = np.exp(p["A"]) / np.exp(p["A"]).sum(axis=1, keepdims=True)
        B = np.exp(p["B"]) / np.exp(p["B"]).sum(axis=1, keepdims=True)
        alpha, ll = np.full(2, 0.5) * B[:, observed[0]], 0.0
        for symbol in observed[1:]:
            scale = alpha.sum()
            ll += np.log(scale)
            alpha = (alpha / scale) @ A * B[:, symbol]
        return -(ll + np.log(alpha.sum()))

    return nll, {"A": rng.normal(size=(2, 2)), "B": rng.normal(size=(2, 2))}, PURE


@style
def soft_dynamic_time_warping(rng):
    a, b = rng.normal(size=3), rng.normal(size=4)

    def softmin(values):
        return -np.log(np.sum(np.exp(-np.array(values))))

    def loss(p):
        x = a * p["scale"] + p["shift"]
        D = np.full((4, 5), 1e3)
        D[0, 0] = 0
        for i in range(1, 4):
            for j in range(1, 5):
                D[i, j] = (x[i - 1] - b[j - 1]) ** 2 + softmin([D[i - 1, j], D[i, j - 1], D[i - 1, j - 1]])
        return D[3, 4]

    return loss, {"scale": rng.normal(size=3), "shift": 0.25}, PURE


@style
def dynamic_time_warping_by_min(rng):
    a, b = rng.normal(size=3), rng.normal(size=3)

    def loss(w):
        x = a * w
        D = [[0.0] * 4 for _ in range(4)]
        for k in range(1, 4):
            D[k][0] = D[0][k] = np.inf
        for i in range(1, 4):
            for j in range(1, 4):
                D[i][j] = abs(x[i - 1] - b[j - 1]) + min(D[i - 1][j], D[i][j - 1], D[i - 1][j - 1])
        return D[3][3]

    return loss, rng.normal(size=3), PURE


@style
def recursion_over_a_tree(rng):
    tree = ((0, 1), (2, (1, 0)))

    def loss(p):
        def compose(node):
            if isinstance(node, int):
                return p["leaves"][node]
            left, right = map(compose, node)
            return np.tanh(p["W"] @ np.concatenate([left, right]) + p["b"])

        return np.sum(compose(tree) ** 2)

    return loss, {"leaves": rng.normal(size=(3, 2)), "W": rng.normal(size=(2, 4)), "b": rng.normal(size=2)}, PURE


@style
def linear_recurrence_of_a_state_space(rng):
    u = rng.normal(size=6)

    def loss(p):
        A = -np.exp(p["log_A"])
        x, ys = np.zeros(3), []
        for step in u:
            x = np.exp(0.5 * A) * x + 0.5 * p["B"] * step
            ys.append((p["C"] * x).sum())
        return np.mean(np.square(np.hstack(ys)))

    return loss, {name: rng.normal(size=3) for name in ("log_A", "B", "C")}, PURE
