"""A small trainer in NumPy, from scratch, whose loss can be evaluated without touching the training run.

Start reading with `Trainer`, then `Sequential` and the layers.

>>> import numpy as np
>>> model = Sequential([Dense(64, 32), ReLU(), Dropout(0.2), Dense(32, 10)])
>>> trainer = Trainer(model, SoftmaxCrossEntropy(), SGD(0.1), penalty=L2(1e-4))
>>> generator = np.random.default_rng(0)
>>> history = trainer.fit(generator.normal(size=(100, 64)), generator.integers(10, size=100), epochs=2)
>>> trainer.step
8
"""

from gc_hooks.nn.activations import ELU, GELU, LeakyReLU, ReLU, Sigmoid, Softmax, Softplus, Tanh, TanhGELU
from gc_hooks.nn.chain import Residual
from gc_hooks.nn.checkpoint import load_model, load_training, save_model, save_training
from gc_hooks.nn.images import AveragePool2D, Conv2D, Flatten, MaxPool2D
from gc_hooks.nn.layers import Context, Dense, Dropout, Layer, glorot, he, orthogonal
from gc_hooks.nn.losses import L2, BinaryCrossEntropy, Huber, Masked, MeanSquaredError, SoftmaxCrossEntropy, mask_labels
from gc_hooks.nn.model import Sequential
from gc_hooks.nn.norms import BatchNorm, LayerNorm
from gc_hooks.nn.objective import Objective
from gc_hooks.nn.optimizers import SGD, Adam, AdamW, Momentum, Nesterov, RMSProp, clip_by_norm, clip_by_value
from gc_hooks.nn.rates import EarlyStopping, LearningRate, cosine_decay, exponential_decay, step_decay, warm_up
from gc_hooks.nn.recurrent import GRU, LSTM, RNN, EachStep, Embedding
from gc_hooks.nn.trainer import Batches, History, Trainer

__all__ = [
    "ELU", "GELU", "GRU", "L2", "LSTM", "RNN", "SGD", "Adam", "AdamW", "AveragePool2D", "BatchNorm", "Batches",
    "BinaryCrossEntropy", "Context", "Conv2D", "Dense", "Dropout", "EachStep", "EarlyStopping", "Embedding",
    "Flatten", "History", "Huber", "Layer", "LayerNorm", "LeakyReLU", "LearningRate", "Masked", "MaxPool2D",
    "MeanSquaredError", "Momentum", "Nesterov", "Objective", "RMSProp", "ReLU", "Residual", "Sequential", "Sigmoid",
    "Softmax", "SoftmaxCrossEntropy", "Softplus", "Tanh", "TanhGELU", "Trainer", "clip_by_norm", "clip_by_value",
    "cosine_decay", "exponential_decay", "glorot", "he", "load_model", "load_training", "mask_labels", "orthogonal",
    "save_model", "save_training", "step_decay", "warm_up",
]  # fmt: skip
