"""Histories without materialized prefixes, and the loaders that train on them."""
