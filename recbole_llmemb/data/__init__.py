"""Histories without materialised prefixes, and the loaders that train on them."""
