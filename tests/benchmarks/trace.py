"""What a reader has to follow: the files and functions of gc_hooks that one check enters, and its changes of file.

Run it with ``python tests/benchmarks/trace.py``; ``--files`` lists the files in the order in which a check first enters
them. A call is one function or lambda that is entered (a generator each time that it goes on); comprehensions count
with the function that they stand in.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import ast
import sys
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np

import gc_hooks
from gc_hooks import check_gradients, joint

PACKAGE = str(Path(gc_hooks.__file__).parent) + os.sep
COLUMNS = ("files", "functions", "lines in them", "changes of file", "calls")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", action="store_true", help="list the files that each check enters")
    options = parser.parse_args()
    print(f"{'':36}" + "".join(f"{column:>17}" for column in COLUMNS))
    for name, (verdict, arguments) in checks().items():
        check_gradients(**arguments)  # what is imported or computed once for the process is no part of a check
        report, entered = traced(lambda arguments=arguments: check_gradients(**arguments))
        assert report.verdict.name == verdict, f"{name}: expected {verdict}, got\n{report}"
        print(f"{f'{verdict}, {name}':36}" + "".join(f"{figure:17,}" for figure in figures(entered)), flush=True)
        if options.files:
            files = dict.fromkeys(code.co_filename.removeprefix(PACKAGE) for code in entered)
            print("    " + "\n    ".join(files))


def checks():
    """Return for each check its expected verdict and the arguments of check_gradients."""
    rng = np.random.default_rng(0)
    inputs, targets = rng.normal(size=(8, 3)), rng.normal(size=(8, 2))
    linear = {"W": rng.normal(size=(3, 2)), "b": rng.normal(size=2)}
    network = {"W1": rng.normal(size=(3, 4)), "b1": rng.normal(size=4)}
    network |= {"W2": rng.normal(size=(4, 2)), "b2": rng.normal(size=2)}

    def linear_loss(params):
        return 0.5 * ((inputs @ params["W"] + params["b"] - targets) ** 2).mean()

    def linear_gradient(params):
        error = (inputs @ params["W"] + params["b"] - targets) / targets.size
        return {"W": inputs.T @ error, "b": error.sum(axis=0)}

    def network_loss(params):
        hidden = np.tanh(inputs @ params["W1"] + params["b1"])
        return 0.5 * ((hidden @ params["W2"] + params["b2"] - targets) ** 2).mean()

    def network_gradient(params):
        hidden = np.tanh(inputs @ params["W1"] + params["b1"])
        error = (hidden @ params["W2"] + params["b2"] - targets) / targets.size
        below = (error @ params["W2"].T) * (1 - hidden**2)
        return {"W1": inputs.T @ below, "b1": below.sum(axis=0), "W2": hidden.T @ error, "b2": error.sum(axis=0)}

    gradient = network_gradient(network)
    small = {"loss": linear_loss, "params": linear, "grads": linear_gradient(linear)}
    tanh = {"loss": network_loss, "params": network, "grads": gradient}
    doubled = gradient | {"W1": 2 * gradient["W1"]}
    return {
        "two small parameters": ("GOOD", small),
        "a tanh network": ("GOOD", tanh),
        "probes=joint": ("GOOD", small | {"probes": joint}),
        "W1 doubled, with its diagnosis": ("WORRY", tanh | {"grads": doubled}),
    }


def traced(check):
    """Return what the check returns and the code objects of gc_hooks in the order in which it entered them."""
    entered = []

    def profile(frame, event, argument):
        code = frame.f_code
        # Python 3.12 runs comprehensions within their function; before, each was a function of its own.
        comprehension = code.co_name.startswith("<") and code.co_name != "<lambda>"
        if event == "call" and code.co_filename.startswith(PACKAGE) and not comprehension:
            entered.append(code)

    sys.setprofile(profile)
    try:
        result = check()
    finally:
        sys.setprofile(None)
    return result, entered


def figures(entered):
    """Return the number of files, functions, lines in them, changes of file and calls."""
    files = [code.co_filename for code in entered]
    functions = set(entered)
    lines = {(code.co_filename, line) for code in functions for line in lines_of(code)}
    changes = sum(before != after for before, after in pairwise(files))
    return len(set(files)), len(functions), len(lines), changes, len(entered)


def lines_of(code):
    """Return the line numbers of a function, its decorators and its docstring with it."""
    return definitions(code.co_filename).get((code.co_firstlineno, code.co_name), range(0))


@cache
def definitions(filename):
    """Return the lines of each function and lambda in a file, by its first line and its name."""
    found = {}
    for node in ast.walk(ast.parse(Path(filename).read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            first = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", []))])
            found[first, getattr(node, "name", "<lambda>")] = range(first, node.end_lineno + 1)
    return found


if __name__ == "__main__":
    main()
