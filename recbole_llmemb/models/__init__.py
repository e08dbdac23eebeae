"""The models: RecBole's backbones over a precomputed item embedding table."""
