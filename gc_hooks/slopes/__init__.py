"""From a line through the loss to a slope with its error bar."""
