"""A character model: an LSTM learns to write like the beginning of Alice in Wonderland, and its gradient is checked.

Run it with ``python examples/10_character_model.py``: twenty seconds or so, and a sample of its prose. Back-propagation
through time is cut once in 16 steps, which the checks know of: their reports say so.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from gc_hooks import GradCheckHook, nn

TEXT = Path(__file__).with_name("data") / "alice.txt"
STEPS = 32


def load_text():
    """The text as numbers, and the symbol that each number stands for."""
    text = " ".join(TEXT.read_text(encoding="utf-8").split())
    alphabet = sorted(set(text))
    return np.array([alphabet.index(symbol) for symbol in text]), alphabet


def cut(ids, steps):
    """Pieces of the text, one beginning every few symbols, and the same one symbol later."""
    starts = np.arange(0, len(ids) - steps, 4)[:, np.newaxis]
    places = starts + np.arange(steps)
    return ids[places], ids[places + 1]


def build_trainer(symbols, units, hook, seed=0):
    layers = [nn.Embedding(symbols, 32), nn.LSTM(32, units, truncation=16), nn.EachStep(nn.Dense(units, symbols))]
    model, optimizer = nn.Sequential(layers, seed=seed, dtype=np.float32), nn.AdamW(1e-2)
    rate = nn.LearningRate(optimizer, nn.warm_up(20, nn.cosine_decay(1e-2, 1000, floor=1e-3)))
    loss, clip = nn.SoftmaxCrossEntropy(), nn.clip_by_norm(1.0)
    return nn.Trainer(model, loss, optimizer, clip=clip, callbacks=[rate, hook], seed=seed)


def write(trainer, alphabet, beginning="Alice ", length=200, boldness=0.5, seed=0):
    """Symbol by symbol, each drawn from what the model thinks of the last ones."""
    generator, ids = np.random.default_rng(seed), [alphabet.index(symbol) for symbol in beginning]
    for _ in range(length):
        logits = trainer.model(np.array([ids[-STEPS:]]))[0, -1].astype(np.float64) / boldness
        p = np.exp(logits - logits.max())
        ids.append(generator.choice(len(alphabet), p=p / p.sum()))
    return "".join(alphabet[number] for number in ids)


def main(arguments=None):
    options = parse(arguments)
    ids, alphabet = load_text()
    hook = GradCheckHook(after=options.after, batch_size=8, log_dir=options.log_dir, seed=options.seed)
    trainer, began = build_trainer(len(alphabet), options.units, hook, options.seed), time.perf_counter()
    with hook:
        history = trainer.fit(*cut(ids, STEPS), epochs=options.epochs, batch_size=32, progress=True)
    print(f"{trainer.step} steps in {time.perf_counter() - began:.1f} s, loss {history['loss'][-1]:.2f}")
    print(write(trainer, alphabet, seed=options.seed))
    return hook.reports, history


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--units", type=int, default=96, help="of the LSTM")
    parser.add_argument("--after", type=int, default=500, metavar="N", help="check again after N iterations")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log-dir", default=None)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
