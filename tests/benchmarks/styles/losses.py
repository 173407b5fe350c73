"""Loss functions in the spellings that people use."""

from __future__ import annotations

import numpy as np

from benchmarks.styles.collection import PURE, style


def classes(rng):
    return rng.normal(size=(5, 3)), rng.integers(3, size=5), rng.normal(size=(3, 3))


@style
def softmax_then_log_of_the_right_one(rng):
    X, y, W = classes(rng)

    def loss(W):
        z = X @ W
        probs = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
        return -np.log(probs[np.arange(len(y)), y]).mean()

    return loss, W, PURE


@style
def cross_entropy_by_one_hot(rng):
    X, y, W = classes(rng)
    Y = np.eye(3)[y]

    def loss(W):
        z = X @ W
        exps = np.exp(z - np.max(z, axis=1).reshape(-1, 1))
        probs = exps / np.sum(exps, axis=1)[:, None]
        return -np.sum(Y * np.log(probs + 1e-9)) / Y.shape[0]

    return loss, W, PURE


@style
def log_sum_exp_by_hand(rng):
    X, y, W = classes(rng)

    def logsumexp(z):
        m = np.max(z, axis=-1, keepdims=True)
        return m + np.log(np.sum(np.exp(z - m), axis=-1, keepdims=True))

    def loss(W):
        z = X @ W
        return -np.mean((z - logsumexp(z))[range(5), y])

    return loss, W, PURE


@style
def log_sum_exp_by_logaddexp_reduce(rng):
    X, y, W = classes(rng)

    def loss(W):
        z = X @ W
        return np.mean(np.logaddexp.reduce(z, axis=1) - z[np.arange(5), y])

    return loss, W, PURE


@style
def log_sum_exp_by_a_fold(rng):
    X, y, W = classes(rng)

    def loss(W):
        z = X @ W
        total = z[:, 0]
        for k in range(1, 3):
            total = np.logaddexp(total, z[:, k])
        return np.sum(total - z[np.arange(5), y])

    return loss, W, PURE


@style
def cross_entropy_sample_by_sample(rng):
    X, y, W = classes(rng)

    def loss(W):
        total = 0.0
        for i in range(len(X)):
            f = X[i].dot(W)
            f -= np.max(f)
            total += -f[y[i]] + np.log(np.sum(np.exp(f)))
        return total / len(X) + 0.05 * np.sum(W * W)

    return loss, W, PURE


@style
def cross_entropy_with_class_weights(rng):
    X, y, W = classes(rng)
    class_weights = np.array([1.0, 2.0, 0.5])

    def loss(W):
        z = X @ W
        z = z - z.max(1, keepdims=True)
        nll = np.log(np.exp(z).sum(1)) - z[np.arange(5), y]
        w = class_weights[y]
        return np.dot(w, nll) / w.sum()

    return loss, W, PURE


@style
def focal_loss(rng):
    X, y = rng.normal(size=(5, 3)), rng.integers(2, size=5)

    def loss(w):
        p = 1 / (1 + np.exp(-X @ w))
        pt = np.where(y == 1, p, 1 - p)
        return np.mean(-((1 - pt) ** 2) * np.log(pt))

    return loss, rng.normal(size=3), PURE


@style
def binary_cross_entropy_from_logits(rng):
    X, y = rng.normal(size=(5, 3)), rng.integers(2, size=5)

    def loss(w):
        z = X @ w
        return np.mean(np.maximum(z, 0) - z * y + np.log(1 + np.exp(-np.abs(z))))

    return loss, rng.normal(size=3), PURE


@style
def logistic_of_signs(rng):
    X, y = rng.normal(size=(5, 3)), np.array([1, -1, 1, 1, -1])
    return lambda w: np.logaddexp(0, -y * (X @ w)).sum() + 0.5 * w @ w, rng.normal(size=3), PURE


@style
def hinge_and_squared_hinge(rng):
    X, y = rng.normal(size=(5, 3)), np.array([1, -1, 1, 1, -1])

    def loss(w):
        margins = 1 - y * X.dot(w)
        return np.maximum(0, margins).mean() + np.sum(np.clip(margins, 0, None) ** 2)

    return loss, rng.normal(size=3), PURE


@style
def huber_by_where(rng):
    X, y = rng.normal(size=(6, 3)), 2 * rng.normal(size=6)

    def loss(w, delta=1.0):
        r = X @ w - y
        a = np.abs(r)
        return np.sum(np.where(a <= delta, 0.5 * r**2, delta * (a - 0.5 * delta)))

    return loss, rng.normal(size=3), PURE


@style
def pinball_and_expectile(rng):
    X, y = rng.normal(size=(6, 3)), rng.normal(size=6)

    def loss(w, tau=0.3):
        r = y - X @ w
        return np.mean(np.maximum(tau * r, (tau - 1) * r)) + np.mean(np.abs(tau - (r < 0)) * r**2)

    return loss, rng.normal(size=3), PURE


@style
def triplet_margin(rng):
    anchor, positive, negative = rng.normal(size=(3, 4, 3))

    def loss(W):
        a, p, n = anchor @ W, positive @ W, negative @ W
        d = np.sqrt(((a - p) ** 2).sum(1)) - np.sqrt(((a - n) ** 2).sum(1)) + 1.0
        return np.mean(np.maximum(d, 0))

    return loss, rng.normal(size=(3, 2)), PURE


@style
def cosine_similarity(rng):
    X, Y = rng.normal(size=(4, 3)), rng.normal(size=(4, 2))

    def loss(W):
        Z = X @ W
        cos = np.sum(Z * Y, axis=1) / (np.linalg.norm(Z, axis=1) * np.linalg.norm(Y, axis=1))
        return 1 - cos.mean()

    return loss, rng.normal(size=(3, 2)), PURE


@style
def info_nce(rng):
    A, B = rng.normal(size=(4, 3)), rng.normal(size=(4, 3))

    def loss(p):
        a, b = A @ p["f"], B @ p["g"]
        a, b = a / np.linalg.norm(a, axis=1)[:, None], b / np.linalg.norm(b, axis=1)[:, None]
        logits = a @ b.T * np.exp(p["t"])
        rows = np.diag(logits) - np.log(np.exp(logits).sum(axis=1))
        columns = np.diag(logits) - np.log(np.exp(logits).sum(axis=0))
        return -(rows + columns).mean() / 2

    return loss, {"f": rng.normal(size=(3, 2)), "g": rng.normal(size=(3, 2)), "t": 0.5}, PURE


@style
def kl_divergence_of_two_softmaxes(rng):
    X, teacher = rng.normal(size=(4, 3)), rng.dirichlet(np.ones(3), size=4)

    def log_softmax(z):
        return z - np.log(np.sum(np.exp(z), axis=1, keepdims=True))

    return lambda W: np.sum(teacher * (np.log(teacher) - log_softmax(X @ W / 2.0))), rng.normal(size=(3, 3)), PURE


@style
def label_smoothing(rng):
    X, y, W = classes(rng)

    def loss(W):
        z = X @ W
        logp = z - np.log(np.exp(z).sum(1, keepdims=True))
        targets = np.full((5, 3), 0.1 / 2)
        targets[np.arange(5), y] = 0.9
        return -(targets * logp).sum(1).mean()

    return loss, W, PURE


@style
def dice_and_iou(rng):
    X, mask = rng.normal(size=(8, 3)), rng.integers(2, size=8)

    def loss(w):
        p = 1 / (1 + np.exp(-(X @ w)))
        intersection = np.sum(p * mask)
        return 2 - 2 * intersection / (p.sum() + mask.sum()) - intersection / np.sum(p + mask - p * mask)

    return loss, rng.normal(size=3), PURE


@style
def gaussian_likelihood_of_two_heads(rng):
    X, y = rng.normal(size=(5, 2)), rng.normal(size=5)

    def nll(p):
        h = np.tanh(X @ p["W"])
        mu, log_var = h @ p["mu"], h @ p["log_var"]
        return 0.5 * np.mean(np.log(2 * np.pi) + log_var + (y - mu) ** 2 / np.exp(log_var))

    return nll, {"W": rng.normal(size=(2, 3)), "mu": rng.normal(size=3), "log_var": rng.normal(size=3)}, PURE


@style
def log_probability_of_a_mixture(rng):
    x = rng.normal(size=6)

    def nll(p):
        log_weights = p["logits"] - np.log(np.sum(np.exp(p["logits"])))
        z = (x[:, None] - p["means"]) * np.exp(-p["log_scales"])
        log_prob = -0.5 * z**2 - p["log_scales"] - 0.5 * np.log(2 * np.pi) + log_weights
        m = log_prob.max(axis=1, keepdims=True)
        return -np.sum(m[:, 0] + np.log(np.exp(log_prob - m).sum(axis=1)))

    return nll, {name: rng.normal(size=2) for name in ("logits", "means", "log_scales")}, PURE


@style
def ranking_by_pairs(rng):
    X, relevance = rng.normal(size=(5, 3)), np.array([2, 0, 1, 2, 0])

    def loss(w):
        s, total, pairs = X @ w, 0.0, 0
        for i in range(5):
            for j in range(5):
                if relevance[i] > relevance[j]:
                    total += np.log1p(np.exp(-(s[i] - s[j])))
                    pairs += 1
        return total / pairs

    return loss, rng.normal(size=3), PURE


@style
def elastic_net(rng):
    X, y = rng.normal(size=(6, 4)), rng.normal(size=6)

    def objective(w):
        r = y - X @ w
        return (r @ r) / (2 * len(y)) + 0.1 * np.linalg.norm(w, 1) + 0.05 * np.linalg.norm(w, 2) ** 2

    return objective, rng.normal(size=4), PURE


@style
def policy_gradient_surrogate(rng):
    states, actions, advantages = rng.normal(size=(6, 3)), rng.integers(2, size=6), rng.normal(size=6)
    old = np.log(np.full(6, 0.4))

    def ppo(W):
        z = states @ W
        logp = (z - np.log(np.exp(z).sum(-1, keepdims=True)))[np.arange(6), actions]
        ratio = np.exp(logp - old)
        clipped = np.clip(ratio, 0.8, 1.2)
        return -np.minimum(ratio * advantages, clipped * advantages).mean()

    return ppo, rng.normal(size=(3, 2)), PURE
