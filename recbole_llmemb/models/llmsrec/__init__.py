"""LLM-SRec (arXiv 2502.13909): a sequence model's knowledge distilled into a frozen LLM."""
