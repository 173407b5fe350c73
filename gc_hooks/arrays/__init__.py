"""Arrays by name: nested containers as flat dicts, gradients beside their parameters, and norms that hold."""
