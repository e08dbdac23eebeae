"""Whether a model reads the order of a history."""
