"""Steps per second of training beside PyTorch on the CPU: the same network, weights and batches, one thread each.

Run it with ``python tests/benchmarks/speed.py`` where PyTorch is installed (extra ``bench``). The two take turns, epoch
by epoch, and of each the best epoch counts: what others do on the machine only ever makes one slower. That both do the
same work shows in the losses at the end.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import sys
import time
from pathlib import Path

import numpy as np

from gc_hooks import nn

try:
    import torch
except ImportError:  # said in main
    torch = None

DIGITS = Path(__file__).parents[2] / "examples" / "data" / "digits.npz"
RATE, MOMENTUM = 0.02, 0.9


def dense():
    """The digits network."""
    ours = [nn.Dense(64, 128), nn.ReLU(), nn.Dense(128, 64), nn.ReLU(), nn.Dense(64, 10)]
    theirs = [torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 64), torch.nn.ReLU()]
    return [nn.Flatten(), *ours], [torch.nn.Flatten(), *theirs, torch.nn.Linear(64, 10)]


def convolutional():
    """Two convolutions, each with a pooling behind it."""
    ours = [nn.Conv2D(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2D(), nn.Conv2D(16, 32, 3, padding=1), nn.ReLU()]
    theirs = [torch.nn.Conv2d(1, 16, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2)]
    theirs += [torch.nn.Conv2d(16, 32, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2), torch.nn.Flatten()]
    return [*ours, nn.MaxPool2D(), nn.Flatten(), nn.Dense(128, 10)], [*theirs, torch.nn.Linear(128, 10)]


def normalised():
    """The same with batch norm behind each convolution."""
    ours, theirs = convolutional()
    ours[4:4], theirs[4:4] = [nn.BatchNorm(32)], [torch.nn.BatchNorm2d(32)]
    ours[1:1], theirs[1:1] = [nn.BatchNorm(16)], [torch.nn.BatchNorm2d(16)]
    return ours, theirs


class Ours:
    """The package's trainer, as anybody uses it."""

    def __init__(self, layers, dtype, batch_size):
        self.batch_size = batch_size
        self.trainer = nn.Trainer(
            nn.Sequential(layers, dtype=dtype), nn.SoftmaxCrossEntropy(), nn.Momentum(RATE, MOMENTUM)
        )

    def epoch(self, images, labels):
        history = self.trainer.fit(images, labels, batch_size=self.batch_size, shuffle=False)
        return history.batch_loss[-1]


class Theirs:
    """A loop as in PyTorch's tutorials."""

    def __init__(self, layers, dtype, batch_size):
        self.batch_size = batch_size
        self.model = torch.nn.Sequential(*layers).to(getattr(torch, np.dtype(dtype).name))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=RATE, momentum=MOMENTUM)

    def take(self, params):
        """Begin with the weights of the other; its first dense layer behind an image reads the channels last."""
        for theirs, ours in zip(self.model.parameters(), params.values(), strict=True):
            with torch.no_grad():
                theirs.copy_(torch.tensor(_turned(ours)))

    def epoch(self, images, labels):
        for start in range(0, len(images), self.batch_size):
            rows = slice(start, start + self.batch_size)
            self.optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(self.model(images[rows]), labels[rows])
            loss.backward()
            self.optimizer.step()
        return loss.item()


def _turned(array):
    if array.ndim == 4:
        return array.transpose(3, 2, 0, 1)
    if array.ndim == 2 and array.shape == (128, 10):  # 2 x 2 pixels of 32 channels
        return array.reshape(4, 32, 10).transpose(2, 1, 0).reshape(10, 128)
    return array.T


def seconds(function, *arguments):
    began = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - began, result


def row(make, dtype, batch_size, turns):
    """Steps per second of ours and of theirs, the ratio, and the losses at the end."""
    with np.load(DIGITS) as file:
        images, labels = (file["images"].reshape(-1, 8, 8, 1) / 16).astype(dtype), file["labels"].astype(np.int64)
    layers, their_layers = make()
    ours, theirs = Ours(layers, dtype, batch_size), Theirs(their_layers, dtype, batch_size)
    theirs.take(ours.trainer.model.params)
    their_images, their_labels = torch.tensor(images.transpose(0, 3, 1, 2)).contiguous(), torch.tensor(labels)
    times = []
    for _ in range(turns):
        mine, loss = seconds(ours.epoch, images, labels)
        other, their_loss = seconds(theirs.epoch, their_images, their_labels)
        times.append((mine, other))
    rates = -(-len(images) // batch_size) / np.min(times, axis=0)
    ratio = rates[0] / rates[1]
    name = f"{make.__name__}, {np.dtype(dtype).name}, batches of {batch_size}"
    return f"{name:42}{rates[0]:8,.0f}{rates[1]:9,.0f}{ratio:9.2f}x   {loss:.6g} {their_loss:.6g}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=31)
    turns = parser.parse_args().turns
    if torch is None:
        sys.exit("This needs PyTorch: pip install gc_hooks[bench]")
    torch.set_num_threads(1)
    print(f"{'steps per second':42}{'ours':>8}{'PyTorch':>9}{'ratio':>10}   last losses")
    for make in (dense, convolutional, normalised):
        for batch_size in (32, 128):
            for dtype in (np.float32, np.float64):
                print(row(make, dtype, batch_size, turns), flush=True)


if __name__ == "__main__":
    main()
