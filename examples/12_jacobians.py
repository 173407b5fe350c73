"""Jacobians: of a fit, of a sparse system of 2,000 equations, of products with vectors, and a Hessian.

Run it with ``python examples/12_jacobians.py``; it needs SciPy and takes a second.
"""

from __future__ import annotations

import numpy as np
from scipy import optimize, sparse
from scipy.sparse.linalg import LinearOperator

from gc_hooks import check_hessian, check_jacobian

T = np.linspace(0, 2, 25)
DATA = 3 * np.exp(-1.5 * T) * np.cos(4 * T)
N = 2000


def residuals(p):
    size, decay, frequency = p
    return size * np.exp(-decay * T) * np.cos(frequency * T) - DATA


def jacobian(p):
    size, decay, frequency = p
    wave, turned = np.exp(-decay * T) * np.cos(frequency * T), np.exp(-decay * T) * np.sin(frequency * T)
    return np.stack([wave, -T * size * wave, size * turned], axis=1)  # the last one should be times -T


def chain(u):
    """Return the forces on 2,000 springs in a row, which stiffen."""
    stretched = np.concatenate([u[1:], [0.0]]) - 2 * u + np.concatenate([[0.0], u[:-1]])
    return stretched - 0.1 * u**3


def slopes_of_chain(u, forgotten=None):
    matrix = sparse.diags([np.ones(N - 1), -2 - 0.3 * u**2, np.ones(N - 1)], [-1, 0, 1]).tolil()
    if forgotten is not None:
        matrix[forgotten] = 0.0
    return matrix.tocsr()


def main():
    guess = np.array([2.0, 1.0, 3.0])
    reports = {"a fit": check_jacobian(residuals, guess, jacobian)}
    error = optimize.check_grad(residuals, jacobian, guess)
    print(f"scipy.optimize.check_grad says {error:.1e}, and not where")

    u = np.random.default_rng(0).normal(size=N)
    reports["sparse"] = check_jacobian(chain, u, slopes_of_chain)
    reports["sparse, one neighbour forgotten"] = check_jacobian(chain, u, slopes_of_chain(u, forgotten=(701, 700)))

    right, wrong = slopes_of_chain(u), slopes_of_chain(u, forgotten=(701, 700))
    products = LinearOperator((N, N), matvec=lambda v: right @ v, rmatvec=lambda v: wrong.T @ v)
    reports["products"] = check_jacobian(chain, u, products)

    def without_last_term(p):
        return 2 * np.outer(p, p) + 2 * p @ p * np.eye(3) - np.diag([2.0, 0.0, 0.0])

    def slope(p):  # of (p.p)^2 / 2
        return 2 * (p @ p) * p

    reports["a Hessian"] = check_hessian(slope, guess, without_last_term)
    for name, report in reports.items():
        print(f"--- {name}\n{report}")
    return reports


if __name__ == "__main__":
    main()
