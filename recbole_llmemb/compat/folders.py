"""What happens when two runs start in one folder."""

from __future__ import annotations

import os


def let_folders_exist() -> None:
    """Let RecBole make a folder that another process makes at the same moment.

    ``ensure_dir`` looks whether ``log/``, ``log_tensorboard/`` or the folder of the
    checkpoints is there and then makes it, so that one of two runs that start together
    in one place fails with ``FileExistsError``.
    """
    from recbole.utils import utils

    # Its modules hold the function itself, so it is given another inside.
    utils.ensure_dir.__code__ = _ensure_dir.__code__


def _ensure_dir(dir_path):
    os.makedirs(dir_path, exist_ok=True)
