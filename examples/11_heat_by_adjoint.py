"""A heater is steered by an adjoint that is off by one in time: SciPy's check sees nothing, and this one says so.

A rod in a furnace is heated at one place; `power` is that of the heater at 30 times, and the loss how far the rod is
from the temperatures that are wanted. Its gradient is one solve backwards in time, written by hand.
Run it with ``python examples/11_heat_by_adjoint.py``; it needs SciPy and takes a few seconds.
"""

from __future__ import annotations

import warnings

import numpy as np
from scipy import optimize

from gc_hooks import GradCheckWarning
from gc_hooks.adapters import ScipyGradCheckHook

CELLS, TIMES = 20, 30
DT, DX = 1 / TIMES, 1 / CELLS
HEATER = 0.04 * np.eye(CELLS)[CELLS // 2]
LAPLACE = (np.eye(CELLS, k=1) - 2 * np.eye(CELLS) + np.eye(CELLS, k=-1)) / DX**2
LAPLACE[0, 0] = LAPLACE[-1, -1] = -1 / DX**2
STEP = np.linalg.inv(np.eye(CELLS) - 0.02 * DT * LAPLACE)  # one step of implicit Euler
WANTED = 1000 + 5 * np.sin(np.linspace(0, np.pi, TIMES))


def misfit(power):
    """Solve forwards in time; return how far the rod is from what is wanted, after each step."""
    state, found = np.full(CELLS, 20.0), []
    for now, wanted in zip(power, WANTED, strict=True):
        state = STEP @ (state + DT * now * HEATER)
        found.append(state - wanted)
    return np.stack(found)


def loss(power):
    return 0.5 * DT * DX * np.sum(misfit(power) ** 2)


def gradient(power):
    """Solve backwards in time."""
    adjoint, slopes = np.zeros(CELLS), np.zeros(TIMES)
    for k, apart in reversed(list(enumerate(misfit(power)))):
        adjoint = STEP.T @ (adjoint + DT * DX * apart)
        slopes[k] = DT * HEATER @ adjoint
    return slopes


def off_by_one(power):
    """Take the adjoint of the next time: the last one twice."""
    slopes = gradient(power)
    return np.append(slopes[1:], slopes[-1])


def main():
    start, hooks = np.full(TIMES, 10.0), []
    for derivative in (gradient, off_by_one):
        error = optimize.check_grad(loss, derivative, start)
        print(f"--- {derivative.__name__}: scipy.optimize.check_grad says {error:.1e} ({TIMES + 1} evaluations)")
        hooks.append(ScipyGradCheckHook(after=5))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", GradCheckWarning)  # what it warns of is printed as well
            hooks[-1].run(optimize.minimize, loss, start, jac=derivative, options={"maxiter": 5})
    return hooks


if __name__ == "__main__":
    main()
