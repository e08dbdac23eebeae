"""Default settings, one yaml file per model and dataset; installed as recbole_llmemb.properties."""
