"""Check PyTorch modules and hand-written `torch.autograd.Function`s."""
