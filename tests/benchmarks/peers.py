"""Other people's gradient checkers on a loss and a gradient that are functions of one flat vector.

Each returns whether it passed; those that are not installed are left out. Tolerances are the ones of their
documentation, or their defaults.
"""

from __future__ import annotations

import importlib.util
import warnings
from functools import partial

import numpy as np


def textbook(loss, gradient, theta):
    """Central differences with h = 1e-7, and the ratio of norms below 1e-7."""
    slopes = np.empty_like(theta)
    for k in range(theta.size):
        up, down = theta.copy(), theta.copy()
        up[k] += 1e-7
        down[k] -= 1e-7
        slopes[k] = (loss(up) - loss(down)) / 2e-7
    grad = gradient(theta)
    size = np.linalg.norm(grad) + np.linalg.norm(slopes)
    return bool(size == 0 or np.linalg.norm(grad - slopes) / size < 1e-7)


def scipy_check_grad(loss, gradient, theta):
    """``scipy.optimize.check_grad``, whose number is up to the reader; here it has to be below 1e-6."""
    from scipy.optimize import check_grad

    return bool(check_grad(loss, gradient, theta) < 1e-6)


def autograd_check_grads(loss, gradient, theta):
    """``autograd.test_util.check_grads`` in reverse mode, first order."""
    from autograd.extend import defvjp, primitive
    from autograd.test_util import check_grads

    function = primitive(loss)
    defvjp(function, lambda value, x: lambda upstream: upstream * gradient(x))
    return _raises_nothing(lambda: check_grads(function, modes=["rev"], order=1)(theta))


def torch_gradcheck(loss, gradient, theta, *, fast):
    """``torch.autograd.gradcheck`` with its defaults, on a Function that calls NumPy."""
    import torch

    class Loss(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.new_tensor(loss(x.detach().numpy()))

        @staticmethod
        def backward(ctx, upstream):
            (x,) = ctx.saved_tensors
            return upstream * torch.from_numpy(gradient(x.detach().numpy()))

    x = torch.from_numpy(theta.copy()).requires_grad_()
    return bool(torch.autograd.gradcheck(Loss.apply, (x,), fast_mode=fast, raise_exception=False))


def jax_check_grads(loss, gradient, theta):
    """``jax.test_util.check_grads`` in reverse mode, first order, in float64."""
    import jax
    from jax.test_util import check_grads

    jax.config.update("jax_enable_x64", True)

    @jax.custom_vjp
    def function(x):
        return jax.pure_callback(lambda v: np.float64(loss(np.asarray(v))), jax.ShapeDtypeStruct((), "float64"), x)

    def backward(x, upstream):
        shape = jax.ShapeDtypeStruct(theta.shape, "float64")
        return (upstream * jax.pure_callback(lambda v: gradient(np.asarray(v)), shape, x),)

    function.defvjp(lambda x: (function(x), x), backward)
    return _raises_nothing(lambda: check_grads(function, (theta,), order=1, modes=["rev"]))


def _raises_nothing(check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            check()
        except AssertionError:
            return False
    return True


def available():
    """The peers that are installed, by name."""
    peers = {
        "textbook loop": (None, textbook),
        "scipy check_grad": ("scipy", scipy_check_grad),
        "autograd check_grads": ("autograd", autograd_check_grads),
        "torch gradcheck": ("torch", partial(torch_gradcheck, fast=False)),
        "torch gradcheck, fast mode": ("torch", partial(torch_gradcheck, fast=True)),
        "jax check_grads": ("jax", jax_check_grads),
    }
    return {
        name: check for name, (module, check) in peers.items() if module is None or importlib.util.find_spec(module)
    }
