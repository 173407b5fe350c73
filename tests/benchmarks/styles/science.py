"""What is not a network, or not only: physics, statistics, graphs, clustering."""

from __future__ import annotations

import numpy as np

from benchmarks.styles.collection import PURE, style


@style
def variational_autoencoder(rng):
    x, eps = rng.normal(size=(3, 4)), rng.normal(size=(3, 2))

    def elbo(p):
        h = np.tanh(x @ p["enc"])
        mu, log_var = h @ p["mu"], h @ p["log_var"]
        z = mu + np.exp(0.5 * log_var) * eps
        x_hat = z @ p["dec"]
        reconstruction = 0.5 * np.sum((x - x_hat) ** 2, axis=1)
        kl = -0.5 * np.sum(1 + log_var - mu**2 - np.exp(log_var), axis=1)
        return np.mean(reconstruction + kl)

    params = {
        "enc": rng.normal(size=(4, 2)),
        "mu": rng.normal(size=(2, 2)),
        "log_var": rng.normal(size=(2, 2)) * 0.3,
        "dec": rng.normal(size=(2, 4)),
    }
    return elbo, params, PURE


@style
def ode_by_euler_steps(rng):
    observed = rng.normal(size=(6, 2))

    def loss(p):
        state, trajectory = np.array([1.0, 0.5]), []
        for _ in range(6):
            prey, predator = state
            derivative = np.array(
                [p["a"] * prey - p["b"] * prey * predator, -p["c"] * predator + p["d"] * prey * predator]
            )
            state = state + 0.1 * derivative
            trajectory.append(state)
        return np.mean((np.array(trajectory) - observed) ** 2)

    return loss, {"a": 1.1, "b": 0.4, "c": 0.4, "d": 0.1}, PURE


@style
def neural_ode_by_runge_kutta(rng):
    y0 = rng.normal(size=2)

    def loss(p):
        def f(y, t):
            return np.tanh(p["W"] @ y + p["b"]) * np.cos(t)

        y, h = y0, 0.25
        for k in range(4):
            t = k * h
            k1 = f(y, t)
            k2 = f(y + h / 2 * k1, t + h / 2)
            k3 = f(y + h / 2 * k2, t + h / 2)
            k4 = f(y + h * k3, t + h)
            y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return y @ y

    return loss, {"W": rng.normal(size=(2, 2)), "b": rng.normal(size=2)}, PURE


@style
def physics_informed_by_finite_differences(rng):
    t, h = np.linspace(0, 1, 6), 1e-2

    def loss(p):
        def u(t):
            return np.tanh(t[:, None] * p["w"] + p["b"]) @ p["v"]

        residual = (u(t + h) - 2 * u(t) + u(t - h)) / h**2 + u(t)
        return np.mean(residual**2) + (u(np.zeros(1))[0] - 1) ** 2

    return loss, {name: rng.normal(size=3) for name in "wbv"}, PURE


@style
def physics_informed_by_tangents(rng):
    """The derivative of the network for its input is carried along by hand."""
    x = np.linspace(-1, 1, 5)

    def loss(p):
        z = np.outer(x, p["w"]) + p["b"]
        u, du = np.tanh(z), (1 - np.tanh(z) ** 2) * p["w"]
        return np.sum((du @ p["v"] - u @ p["v"] * np.cos(x)) ** 2)

    return loss, {name: rng.normal(size=3) for name in "wbv"}, PURE


@style
def heat_equation_on_a_grid(rng):
    target = rng.normal(size=6)

    def loss(p):
        u = p["u0"].copy()
        for _ in range(3):
            u_new = u.copy()
            u_new[1:-1] = u[1:-1] + p["k"] * (u[2:] - 2 * u[1:-1] + u[:-2])
            u = u_new
        return np.sum((u - target) ** 2)

    return loss, {"u0": rng.normal(size=6), "k": 0.2}, PURE


@style
def forces_between_particles(rng):
    def energy(positions):
        total = 0.0
        for i in range(len(positions)):
            for j in range(i + 1, len(positions)):
                r = np.linalg.norm(positions[i] - positions[j])
                total += 4 * (1 / r**12 - 1 / r**6)
        return total

    return energy, np.array([[0.0, 0, 0], [1.1, 0, 0.1], [0, 1.2, 0.1], [0.2, 0.1, 1.15]]), PURE


@style
def pairs_by_upper_indices(rng):
    x, target = np.arange(8.0).reshape(4, 2), rng.random(6) + 0.5
    i, j = np.triu_indices(4, k=1)

    def stress(p):
        y = np.sin(x) + p
        return np.sum((np.sqrt(np.sum((y[i] - y[j]) ** 2, axis=-1)) - target) ** 2)

    return stress, rng.normal(size=(4, 2)), PURE


@style
def graph_convolution(rng):
    A = np.array([[0, 1, 1, 0], [1, 0, 0, 1], [1, 0, 0, 0], [0, 1, 0, 0]]) + np.eye(4)
    D = np.diag(A.sum(1) ** -0.5)
    A_hat, X, y = D @ A @ D, rng.normal(size=(4, 2)), np.array([0, 1, 0, 1])

    def loss(p):
        h = np.maximum(A_hat @ X @ p["W0"], 0)
        z = A_hat @ h @ p["W1"]
        logp = z - np.log(np.sum(np.exp(z), axis=1, keepdims=True))
        return -logp[np.arange(2), y[:2]].mean()

    return loss, {"W0": rng.normal(size=(2, 3)), "W1": rng.normal(size=(3, 2))}, PURE


@style
def graph_attention_over_edges(rng):
    source, target = np.array([0, 1, 2, 0, 2]), np.array([1, 0, 1, 2, 2])
    X = rng.normal(size=(3, 2))

    def loss(p):
        h = X @ p["W"]
        e = np.concatenate([h[source], h[target]], axis=1) @ p["a"]
        e = np.exp(np.where(e > 0, e, 0.2 * e))
        total = np.zeros(3)
        np.add.at(total, target, e)
        alpha = e / total[target]
        out = np.zeros((3, 2))
        np.add.at(out, target, alpha[:, None] * h[source])
        return np.sum(out**2)

    return loss, {"W": rng.normal(size=(2, 2)), "a": rng.normal(size=4)}, PURE


@style
def soft_k_means(rng):
    X = rng.normal(size=(6, 2))

    def loss(centers):
        d = ((X[:, None] - centers[None]) ** 2).sum(-1)
        r = np.exp(-2 * d)
        r = r / r.sum(1, keepdims=True)
        return (r * d).sum()

    return loss, rng.normal(size=(3, 2)), PURE


@style
def hard_k_means(rng):
    X = rng.normal(size=(6, 2))

    def inertia(centers):
        d = np.linalg.norm(X[:, None] - centers, axis=2)
        labels = d.argmin(axis=1)
        return sum(np.sum((X[labels == k] - centers[k]) ** 2) for k in range(len(centers)))

    return inertia, rng.normal(size=(3, 2)), PURE


@style
def matrix_factorisation_of_observed_entries(rng):
    ratings = [(0, 1, 4.0), (2, 0, 3.0), (1, 1, 5.0), (2, 2, 1.0)]

    def loss(p):
        error = 0
        for user, item, rating in ratings:
            error += (rating - p["mu"] - p["bu"][user] - np.dot(p["P"][user], p["Q"][item])) ** 2
            error += 0.02 * (np.sum(p["P"][user] ** 2) + p["bu"][user] ** 2)
        return error

    params = {"mu": 3.0, "bu": rng.normal(size=3), "P": rng.normal(size=(3, 2)), "Q": rng.normal(size=(3, 2))}
    return loss, params, PURE


@style
def factorisation_machine(rng):
    X, y = rng.normal(size=(4, 3)), np.array([1, -1, 1, 1])

    def loss(p):
        linear = X @ p["w"] + p["w0"]
        pairs = 0.5 * np.sum((X @ p["V"]) ** 2 - (X**2) @ (p["V"] ** 2), axis=1)
        return np.mean(np.log(1 + np.exp(-y * (linear + pairs))))

    return loss, {"w0": 0.1, "w": rng.normal(size=3), "V": rng.normal(size=(3, 2))}, PURE


@style
def t_sne(rng):
    P = rng.random((4, 4))
    np.fill_diagonal(P, 0)
    P = (P + P.T) / np.sum(P + P.T)

    def kl(Y):
        sum_y = np.sum(np.square(Y), 1)
        num = 1 / (1 + np.add(np.add(-2 * np.dot(Y, Y.T), sum_y).T, sum_y))
        num[range(4), range(4)] = 0
        Q = np.maximum(num / np.sum(num), 1e-12)
        return np.sum(P * np.log(np.maximum(P, 1e-12) / Q))

    return kl, rng.normal(size=(4, 2)), PURE


@style
def radial_basis_functions(rng):
    x, y = rng.normal(size=(5, 2)), rng.normal(size=5)

    def loss(p):
        phi = np.zeros((5, 3))
        for k, c in enumerate(p["centers"]):
            phi[:, k] = np.exp(-(p["gamma"][k] ** 2) * np.sum((x - c) ** 2, axis=1))
        return np.mean((phi.dot(p["w"]) - y) ** 2)

    return loss, {"centers": rng.normal(size=(3, 2)), "gamma": rng.normal(size=3), "w": rng.normal(size=3)}, PURE


@style
def kernel_ridge(rng):
    X, y = rng.normal(size=(4, 2)), rng.normal(size=4)

    def loss(alpha):
        K = np.exp(-0.5 * ((X[:, None] - X[None]) ** 2).sum(-1))
        return np.sum((K @ alpha - y) ** 2) + 0.1 * alpha.T.dot(K).dot(alpha)

    return loss, rng.normal(size=4), PURE


@style
def rendering_a_ray(rng):
    deltas = rng.random(5)

    def loss(p):
        sigma = np.log1p(np.exp(p["density"]))
        alpha = 1 - np.exp(-sigma * deltas)
        T = np.cumprod(np.concatenate([np.ones(1), 1 - alpha[:-1] + 1e-10]))
        color = np.sum((T * alpha)[:, None] / (1 + np.exp(-p["color"])), axis=0)
        return np.sum((color - 0.5) ** 2)

    return loss, {"density": rng.normal(size=5), "color": rng.normal(size=(5, 3))}, PURE


@style
def normalizing_flow(rng):
    x = rng.normal(size=(4, 2))

    def nll(p):
        x1, x2 = x[:, :1], x[:, 1:]
        s, t = np.tanh(x1 * p["s"]), x1 * p["t"]
        z = np.concatenate([x1, x2 * np.exp(s) + t], axis=1)
        u = p["u"] + (np.log1p(np.exp(p["w"] @ p["u"])) - 1 - p["w"] @ p["u"]) * p["w"] / (p["w"] @ p["w"])
        h = np.tanh(z @ p["w"] + p["b"])
        log_det = s[:, 0] + np.log(np.abs(1 + (1 - h**2) * (u @ p["w"])))
        z = z + np.outer(h, u)
        return np.mean(0.5 * np.sum(z**2, axis=1) - log_det)

    return nll, {"s": 0.5, "t": -0.5, "u": rng.normal(size=2), "w": rng.normal(size=2), "b": 0.25}, PURE


@style
def logistic_growth_by_fixed_point(rng):
    data = rng.random(5)

    def loss(p):
        x = np.full(5, 0.5)
        for _ in range(8):
            x = 1 / (1 + np.exp(-(p["w"] * x + p["b"] * data)))
        return x.sum()

    return loss, {"w": 1.5, "b": -0.5}, PURE


@style
def root_by_newton_until_it_converges(rng):
    def loss(p):
        x = 1.0
        for _ in range(50):
            step = (x**3 + p["a"] * x - p["b"]) / (3 * x**2 + p["a"])
            x = x - step
            if abs(step) < 1e-15:
                break
        return x**2

    return loss, {"a": 1.5, "b": 2.5}, PURE


@style
def gradient_descent_unrolled(rng):
    X, y = rng.normal(size=(4, 2)), rng.normal(size=4)

    def meta_loss(p):
        w = p["w0"]
        for _ in range(3):
            gradient = X.T @ (X @ w - y) / len(y)
            w = w - np.exp(p["log_rate"]) * gradient
        return np.sum((X @ w - y) ** 2)

    return meta_loss, {"w0": rng.normal(size=2), "log_rate": -1.5}, PURE


@style
def sinkhorn_distance(rng):
    x, y = rng.normal(size=(3, 2)), rng.normal(size=(4, 2))

    def loss(W):
        C = np.sum((x[:, None] @ W - y[None]) ** 2, axis=-1)
        K = np.exp(-C / 4)
        u, v = np.ones(3) / 3, np.ones(4) / 4
        for _ in range(5):
            u = (1 / 3) / (K @ v)
            v = (1 / 4) / (K.T @ u)
        return np.sum(np.diag(u) @ K @ np.diag(v) * C)

    return loss, rng.normal(size=(2, 2)) * 0.5, PURE


@style
def kalman_filter(rng):
    y = rng.normal(size=5)

    def nll(p):
        q, r = np.exp(p["log_q"]), np.exp(p["log_r"])
        F, H = np.array([[1.0, 1.0], [0.0, p["decay"]]]), np.array([[1.0, 0.0]])
        m, P, total = np.zeros(2), np.eye(2), 0.0
        for k in range(len(y)):
            m, P = F @ m, F @ P @ F.T + q * np.eye(2)
            S = (H @ P @ H.T)[0, 0] + r
            K = (P @ H.T)[:, 0] / S
            v = y[k] - m[0]
            total += 0.5 * (np.log(2 * np.pi * S) + v**2 / S)
            m, P = m + K * v, P - np.outer(K, K) * S
        return total

    return nll, {"log_q": -1.0, "log_r": -0.5, "decay": 0.75}, PURE


@style
def garch_variances(rng):
    returns = rng.normal(size=6)

    def nll(theta):
        omega, alpha, beta = np.exp(theta)
        sigma2 = np.empty(len(returns))
        sigma2[0] = returns.var()
        for t in range(1, len(returns)):
            sigma2[t] = omega + alpha * returns[t - 1] ** 2 + beta * sigma2[t - 1]
        return 0.5 * np.sum(np.log(sigma2) + returns**2 / sigma2)

    return nll, np.array([-1.0, -2.0, -0.75]), PURE


@style
def cox_partial_likelihood(rng):
    X, event = rng.normal(size=(5, 2)), np.array([1, 0, 1, 1, 0])

    def nll(beta):
        risk = X @ beta
        at_risk = np.log(np.cumsum(np.exp(risk)[::-1])[::-1])
        return -np.sum((risk - at_risk)[event == 1])

    return nll, rng.normal(size=2), PURE


@style
def neural_style_gram_matrices(rng):
    target = rng.normal(size=(3, 3))

    def loss(features):
        F = features.reshape(3, -1)
        gram = np.dot(F, F.T) / F.size
        return np.sum((gram - target) ** 2) / 4 + 0.1 * np.sum(np.abs(features[:, 1:] - features[:, :-1]))

    return loss, rng.normal(size=(3, 2, 2)), PURE


@style
def hyperbolic_distances(rng):
    u = rng.normal(size=(3, 2)) * 0.2

    def loss(v):
        squared = np.sum((u - v) ** 2, axis=-1)
        inner = (1 - np.sum(u**2, -1)) * (1 - np.sum(v**2, -1))
        return np.sum(np.arccosh(1 + 2 * squared / inner))

    return loss, rng.normal(size=(3, 2)) * 0.3, PURE


@style
def differentiable_sorting(rng):
    def loss(s):
        d = np.abs(s[:, None] - s[None, :])
        b = d.sum(axis=1)
        n = len(s)
        scaling = n + 1 - 2 * (np.arange(n) + 1)
        P = np.exp((scaling[:, None] * s[None, :] - b[None, :]) / 2.0)
        P = P / P.sum(axis=1, keepdims=True)
        return np.sum((P @ s) * np.arange(n))

    return loss, rng.normal(size=4), PURE
