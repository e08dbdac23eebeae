"""The stages of a run, its result, and a model restored from its checkpoint."""
