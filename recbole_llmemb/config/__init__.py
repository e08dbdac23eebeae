"""Configuration: what may be said, what is meant, and RecBole's ``Config`` made of it."""

from recbole_llmemb.core.imports import lazy

# RecBole has to be healed before a part of it is imported.
__getattr__ = lazy(
    __name__, recbole_config="make_config", values="check preset_file properties_folder"
)
