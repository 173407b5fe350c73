"""The main job: a network learns to read handwritten digits while its gradient is checked.

Run it with ``python examples/02_train_digits.py``, or with ``--bug NAME`` to see a real mistake caught.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import digit_bugs
import numpy as np

from gc_hooks import GradCheckHook, nn
from gc_hooks.tensorboard_tab.metadata import tab_address

DIGITS = Path(__file__).with_name("data") / "digits.npz"
COMMANDS = Path(sys.executable).parent
TEST_SAMPLES = 360


def load_digits(seed=0):
    """The UCI optical digits in [0, 1], shuffled: training inputs and labels, test inputs and labels."""
    with np.load(DIGITS) as file:
        inputs, labels = file["images"] / 16.0, file["labels"].astype(np.int64)
    order = np.random.default_rng(seed).permutation(len(inputs))
    train, test = order[TEST_SAMPLES:], order[:TEST_SAMPLES]
    return inputs[train], labels[train], inputs[test], labels[test]


def build_trainer(hook, bug="none", seed=0):
    """64-128-64-10 with dropout and L2; a bug replaces one of its parts by a faulty one."""
    part = digit_bugs.BUGS[bug].part
    model = part("Sequential")(
        [
            nn.Dense(64, 128),
            part("ReLU")(),
            nn.Dropout(0.2),
            part("Dense")(128, 64),
            nn.ReLU(),
            nn.Dense(64, 10),
        ],
        seed=seed,
    )
    loss, penalty = part("SoftmaxCrossEntropy")(), part("L2")(1e-4)
    return nn.Trainer(model, loss, nn.Momentum(0.05), penalty=penalty, callbacks=[hook], seed=seed)


def main(arguments=None):
    options = parse(arguments)
    inputs, labels, test_inputs, test_labels = load_digits()
    hook = GradCheckHook(after=options.after, every=options.every, log_dir=options.log_dir, seed=options.seed)
    trainer = build_trainer(hook, options.bug, options.seed)
    if options.bug != "none":
        print(f"planted: {digit_bugs.BUGS[options.bug].story}")
    began = time.perf_counter()
    with hook:
        trainer.fit(inputs, labels, epochs=options.epochs, batch_size=32, progress=True)
    accuracy = trainer.evaluate(test_inputs, test_labels)["accuracy"]
    print(f"{trainer.step} steps in {time.perf_counter() - began:.1f} s, test accuracy {accuracy:.1%}")
    print(f"To look at the checks: {COMMANDS / 'gc-hooks'} view {options.log_dir}")
    print(f"(which runs tensorboard --logdir {options.log_dir}), then open {tab_address()}")
    return hook.reports


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bug", choices=digit_bugs.BUGS, default="none", help="plant a mistake")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--after", type=int, default=500, metavar="N", help="check again after N iterations")
    parser.add_argument("--every", type=int, metavar="N", help="and once in every N iterations")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log-dir", default="runs/digits")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
