"""Other people's loops: what attaches the hook to them."""

from gc_hooks.adapters.pytorch import TorchGradCheckHook

__all__ = ["TorchGradCheckHook"]
