"""The "Gradient check" tab in TensorBoard; TensorBoard finds it by the entry point, nobody has to import it."""
