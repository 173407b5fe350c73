"""A layer with a backward by hand in PyTorch, checked while it is trained; ``--bug`` plants a mistake in it.

Run it with ``python examples/06_pytorch.py --bug`` and look at it with ``gc-hooks view runs/pytorch``: the checks stand
in the same log as the training's own loss. It takes some seconds.
"""

from __future__ import annotations

import argparse
import sys

from gc_hooks.adapters import TorchGradCheckHook

try:
    import torch
    from torch.utils.tensorboard import SummaryWriter
except ImportError as missing:
    sys.exit(f"This example needs PyTorch ({missing}). Try pip install gc_hooks[torch].")

BUG = False


class Swish(torch.autograd.Function):
    """x * sigmoid(slope * x), and its derivatives by hand."""

    @staticmethod
    def forward(ctx, x, slope):
        ctx.save_for_backward(x, slope)
        return x * torch.sigmoid(slope * x)

    @staticmethod
    def backward(ctx, upstream):
        x, slope = ctx.saved_tensors
        gate = torch.sigmoid(slope * x)
        bend = gate * (1 - gate)
        of_slope = (upstream * x * x * bend).sum(dim=0)
        return upstream * (gate + slope * x * bend), of_slope / len(x) if BUG else of_slope


class SwishLayer(torch.nn.Module):
    """One slope for each unit."""

    def __init__(self, units):
        super().__init__()
        self.slope = torch.nn.Parameter(torch.ones(units))

    def forward(self, x):
        return Swish.apply(x, self.slope)


def main(arguments=None):
    global BUG
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bug", action="store_true", help="average a gradient that has to be summed")
    parser.add_argument("--log-dir", default="runs/pytorch")
    options = parser.parse_args(arguments)
    BUG = options.bug
    torch.manual_seed(0)
    inputs = torch.rand(512, 2) * 4 - 2
    targets = torch.sin(inputs[:, :1] * inputs[:, 1:])
    layers = [torch.nn.Linear(2, 32), SwishLayer(32), torch.nn.BatchNorm1d(32), torch.nn.Dropout(0.1)]
    model = torch.nn.Sequential(*layers, torch.nn.Linear(32, 1))
    optimizer, criterion = torch.optim.Adam(model.parameters(), lr=0.01), torch.nn.MSELoss()
    with SummaryWriter(options.log_dir) as writer, TorchGradCheckHook(model, after=200, writer=writer) as hook:
        for step in range(300):
            rows = torch.randint(512, (64,))
            optimizer.zero_grad()
            loss = criterion(model(inputs[rows]), targets[rows])
            loss.backward()
            hook.on_step(step, loss=lambda rows=rows: criterion(model(inputs[rows]), targets[rows]))
            optimizer.step()
            writer.add_scalar("loss", loss.item(), step)
    print(f"loss {loss.item():.3f}; look at it with: gc-hooks view {options.log_dir}")
    return hook.reports


if __name__ == "__main__":
    main()
