"""LLMEmb: backbones that read items from a table."""
