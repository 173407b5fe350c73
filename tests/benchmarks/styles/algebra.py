"""Linear algebra, norms, Fourier transforms, complex numbers, special functions."""

from __future__ import annotations

import numpy as np

from benchmarks.styles.collection import PURE, style


def positive(rng, n=3):
    A = rng.normal(size=(n, n))
    return A @ A.T + n * np.eye(n)


@style
def solve(rng):
    A, b = positive(rng), rng.normal(size=3)
    return lambda W: np.sum(np.linalg.solve(A + W, b) ** 2), rng.normal(size=(3, 3)), PURE


@style
def inverse(rng):
    A = positive(rng)
    return lambda W: np.sum(np.linalg.inv(A + W) ** 2) * 10, rng.normal(size=(3, 3)), PURE


@style
def determinants(rng):
    A = positive(rng)

    def loss(W):
        sign, logdet = np.linalg.slogdet(A + W)
        return sign * logdet + np.linalg.det(A + W.T) / 50

    return loss, rng.normal(size=(3, 3)), PURE


@style
def cholesky_of_a_gaussian_process(rng):
    X, y = rng.normal(size=(4, 2)), rng.normal(size=4)

    def negative_log_likelihood(p):
        d2 = np.sum((X[:, None, :] - X[None, :, :]) ** 2 / np.exp(2 * p["log_scale"]), axis=-1)
        K = np.exp(p["log_signal"]) * np.exp(-0.5 * d2) + np.exp(p["log_noise"]) * np.eye(4)
        L = np.linalg.cholesky(K)
        alpha = np.linalg.solve(L.T, np.linalg.solve(L, y))
        return 0.5 * y @ alpha + np.log(np.diag(L)).sum() + 2 * np.log(2 * np.pi)

    return negative_log_likelihood, {"log_scale": np.array([0.25, -0.1]), "log_signal": 0.5, "log_noise": -1.5}, PURE


@style
def eigenvalues_of_a_symmetric_matrix(rng):
    A = positive(rng)

    def loss(W):
        values, vectors = np.linalg.eigh(A + W @ W.T)
        return np.sum(np.log(values)) + np.sum((vectors[:, -1] ** 2) * np.arange(3)) + np.linalg.eigvalsh(W + W.T)[0]

    return loss, rng.normal(size=(3, 3)), PURE


@style
def singular_values(rng):
    X = rng.normal(size=(4, 3))

    def loss(W):
        s = np.linalg.svd(X @ W, compute_uv=False)
        return s.sum() + s[0] / s[-1]

    return loss, rng.normal(size=(3, 2)), PURE


@style
def low_rank_by_svd(rng):
    X = rng.normal(size=(4, 3))

    def loss(W):
        U, s, Vt = np.linalg.svd(X * W, full_matrices=False)
        return np.sum((U[:, :2] * s[:2] @ Vt[:2]) ** 3)

    return loss, rng.normal(size=(4, 3)), PURE


@style
def pseudo_inverse_and_least_squares(rng):
    X, y = rng.normal(size=(5, 2)), rng.normal(size=5)

    def loss(W):
        Z = np.tanh(X @ W)
        return np.sum((Z @ (np.linalg.pinv(Z) @ y) - y) ** 2)

    return loss, rng.normal(size=(2, 2)), PURE


@style
def least_squares_by_lstsq(rng):
    X, y = rng.normal(size=(5, 2)), rng.normal(size=5)

    def loss(W):
        return np.sum(np.linalg.lstsq(np.tanh(X @ W), y, rcond=None)[0] ** 2)

    return loss, rng.normal(size=(2, 2)), PURE


@style
def qr_for_an_orthogonal_basis(rng):
    X = rng.normal(size=(4, 3))

    def loss(W):
        Q, R = np.linalg.qr(X @ W)
        return np.sum((Q**2) * np.arange(4)[:, None]) + np.sum(np.log(np.abs(np.diag(R))))

    return loss, rng.normal(size=(3, 2)), PURE


@style
def gram_schmidt_by_hand(rng):
    target = rng.normal(size=(3, 3))

    def loss(W):
        basis = []
        for v in W:
            for u in basis:
                v = v - (v @ u) * u
            basis.append(v / np.sqrt(v @ v))
        return np.sum((np.stack(basis) - target) ** 2)

    return loss, rng.normal(size=(3, 3)), PURE


@style
def matrix_power(rng):
    x = rng.normal(size=3)
    return lambda W: np.sum((np.linalg.matrix_power(W, 4) @ x) ** 2), rng.normal(size=(3, 3)) * 0.5, PURE


@style
def matrix_exponential_by_taylor(rng):
    x = rng.normal(size=3)

    def expm(A, terms=12):
        total = term = np.eye(3)
        for k in range(1, terms):
            term = term @ A / k
            total = total + term
        return total

    return lambda W: np.sum((expm(W - W.T) @ x - 1) ** 2) + np.trace(expm(W)), rng.normal(size=(3, 3)) * 0.5, PURE


@style
def matrix_exponential_by_scipy(rng):
    from scipy.linalg import expm

    return lambda W: np.sum(expm(W) ** 2), rng.normal(size=(2, 2)) * 0.5, PURE


@style
def triangular_solve_by_scipy(rng):
    from scipy.linalg import solve_triangular

    b = rng.normal(size=3)

    def loss(W):
        return np.sum(solve_triangular(np.tril(W) + 3 * np.eye(3), b, lower=True) ** 2)

    return loss, rng.normal(size=(3, 3)), PURE


@style
def norms_of_several_orders(rng):
    X = rng.normal(size=(4, 3))

    def loss(W):
        z = X @ W
        return (
            np.linalg.norm(z)
            + np.linalg.norm(z, "fro") ** 2
            + np.linalg.norm(W[:, 0], 1)
            + np.linalg.norm(z, axis=1).sum()
            + np.linalg.norm(W.ravel(), 3)
        )

    return loss, rng.normal(size=(3, 2)), PURE


@style
def norms_of_the_largest(rng):
    def loss(W):
        return (
            np.linalg.norm(W[0], np.inf)
            + np.linalg.norm(W, np.inf)
            + np.linalg.norm(W, 1)
            + np.linalg.norm(W[:, 0], -np.inf)
        )

    return loss, rng.normal(size=(3, 3)), PURE


@style
def nuclear_and_spectral_norm(rng):
    X = rng.normal(size=(4, 3))
    return lambda W: np.linalg.norm(X @ W, "nuc") + np.linalg.norm(X @ W, 2) ** 2, rng.normal(size=(3, 2)), PURE


@style
def power_iteration_for_the_spectral_norm(rng):
    u0 = rng.normal(size=3)

    def loss(W):
        u = u0
        for _ in range(3):
            v = W.T @ u
            v /= np.linalg.norm(v)
            u = W @ v
            u = u / np.linalg.norm(u)
        return u @ W @ v

    return loss, rng.normal(size=(3, 2)), PURE


@style
def newton_schulz(rng):
    def loss(G):
        X = G / (np.linalg.norm(G) + 1e-7)
        for _ in range(3):
            A = X @ X.T
            X = 1.5 * X - 0.5 * A @ X
        return np.sum(X**3) + np.sum(X[0])

    return loss, rng.normal(size=(2, 3)), PURE


@style
def stacked_matrices(rng):
    A, b = np.stack([positive(rng, 2) for _ in range(3)]), rng.normal(size=(3, 2, 1))
    return lambda W: np.sum(np.linalg.solve(A + W, b) ** 2) + np.linalg.inv(A + W).sum(), rng.normal(size=(2, 2)), PURE


@style
def power_spectrum(rng):
    x = rng.normal(size=8)
    return lambda w: np.sum(np.log1p(np.abs(np.fft.fft(x * w)) ** 2)), rng.normal(size=8), PURE


@style
def power_spectrum_by_real_and_imaginary_parts(rng):
    x = rng.normal(size=6)

    def loss(w):
        f = np.fft.rfft(x * w)
        return np.sum((f.real**2 + f.imag**2) * np.arange(4)) + np.sum(np.real(np.fft.ifft(f)) ** 2)

    return loss, rng.normal(size=6), PURE


@style
def fft_in_two_dimensions(rng):
    x = rng.normal(size=(3, 4))

    def loss(w):
        f = np.fft.fftshift(np.fft.fft2(x * w))
        return np.sum(np.abs(f) * np.arange(4)) + np.real(np.fft.ifft2(f)).sum()

    return loss, rng.normal(size=(3, 4)), PURE


@style
def fnet_mixing(rng):
    x = rng.normal(size=(3, 4))
    return (
        lambda p: np.sum(np.tanh(np.fft.fft2(x @ p["W"]).real @ p["V"])),
        {
            "W": rng.normal(size=(4, 2)) * 0.3,
            "V": rng.normal(size=(2, 2)) * 0.3,
        },
        PURE,
    )


@style
def complex_phases(rng):
    t = np.arange(5.0)

    def loss(p):
        z = p["amplitude"] * np.exp(1j * (p["omega"] * t + p["phase"]))
        return np.sum(np.abs(z - 1) ** 2) + np.sum((z * np.conj(z)).real) + np.sum(np.imag(z))

    return loss, {"amplitude": 0.75, "omega": 1.25, "phase": 0.5}, PURE


@style
def quantum_circuit(rng):
    X, Y = np.array([[0, 1], [1, 0]], complex), np.array([[0, -1j], [1j, 0]])

    def rotation(generator, angle):
        return np.cos(angle / 2) * np.eye(2) - 1j * np.sin(angle / 2) * generator

    def energy(theta):
        state = np.kron(np.array([1, 0], complex), np.array([1, 0], complex))
        state = np.kron(rotation(Y, theta[0]), rotation(X, theta[1])) @ state
        state[3] *= -1
        state = np.kron(rotation(X, theta[2]), rotation(Y, theta[3])) @ state
        return np.real(np.conj(state) @ (np.kron(X, X) + np.kron(Y, Y)) @ state)

    return energy, rng.normal(size=4), PURE


@style
def special_expit_and_logsumexp(rng):
    from scipy.special import expit, logsumexp

    X, y = rng.normal(size=(4, 3)), rng.integers(3, size=4)

    def loss(W):
        z = X @ W
        return np.mean(logsumexp(z, axis=1) - z[np.arange(4), y]) + expit(z).sum()

    return loss, rng.normal(size=(3, 3)), PURE


@style
def special_softmax_and_xlogy(rng):
    from scipy.special import log_softmax, softmax, xlogy

    X, Y = rng.normal(size=(4, 3)), np.eye(3)[rng.integers(3, size=4)]

    def loss(W):
        p = softmax(X @ W, axis=1)
        return -xlogy(Y, p).sum() - np.sum(Y * log_softmax(X @ W, axis=1))

    return loss, rng.normal(size=(3, 3)), PURE


@style
def special_erf_for_an_exact_gelu(rng):
    from scipy.special import erf

    X = rng.normal(size=(4, 3))

    def loss(W):
        z = X @ W
        return np.sum(0.5 * z * (1 + erf(z / np.sqrt(2))))

    return loss, rng.normal(size=(3, 2)), PURE


@style
def special_gammaln_of_a_likelihood(rng):
    from scipy.special import betaln, digamma, gammaln

    counts = rng.integers(0, 5, size=6)

    def negative_binomial(p):
        r, q = np.exp(p["log_r"]), 1 / (1 + np.exp(-p["logit"]))
        ll = gammaln(counts + r) - gammaln(r) - gammaln(counts + 1) + counts * np.log(q) + r * np.log1p(-q)
        return -np.sum(ll) + digamma(r) + betaln(r, q)

    return negative_binomial, {"log_r": 0.5, "logit": -0.25}, PURE


@style
def special_logit_and_normal_cdf(rng):
    from scipy.special import expit, log_expit, logit, ndtr

    X = rng.normal(size=(4, 2))

    def loss(w):
        z = X @ w
        return -np.sum(np.log(ndtr(z))) - np.sum(log_expit(-z)) + logit(expit(z) * 0.9).sum()

    return loss, rng.normal(size=2), PURE


@style
def scipy_stats_of_a_normal(rng):
    from scipy.stats import norm

    y = rng.normal(size=5)
    return lambda p: -np.sum(norm.logpdf(y, p["mu"], np.exp(p["s"]))), {"mu": 0.25, "s": 0.5}, PURE


@style
def sparse_features(rng):
    from scipy.sparse import csr_matrix

    X, y = csr_matrix(rng.normal(size=(5, 4)) * (rng.random((5, 4)) < 0.5)), rng.normal(size=5)
    return lambda w: np.sum((X @ w - y) ** 2) + np.sum(X.dot(w) ** 3), rng.normal(size=4), PURE
