"""The folder of ``--out``: refused before any work, its files whole or not there."""

from __future__ import annotations

from pathlib import Path

from recbole_llmemb.errors import UserError
from recbole_llmemb.report.drawing import check_matplotlib
from recbole_llmemb.results import write_whole


class OutFolder:
    """A folder for tables and figures; made before any work, so that it can refuse.

    Parameters
    ----------
    folder : path-like
        Made if it is not there; files of an earlier run in it are replaced.

    Raises
    ------
    UserError
        It cannot be written to, or matplotlib is missing.
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        check_matplotlib("--out")
        probe = ".probe"
        self.write({probe: b""})
        (self.folder / probe).unlink()

    def write(self, contents: dict[str, bytes]) -> list[Path]:
        """Write each file, by its path inside the folder; returns where they are.

        Raises
        ------
        UserError
            It cannot be written to any more.
        """
        files = [self.folder / name for name in contents]
        try:
            for file, content in zip(files, contents.values()):
                file.parent.mkdir(parents=True, exist_ok=True)
                write_whole(file, content)
        except OSError as error:
            raise UserError(
                f"The folder {str(self.folder)!r} cannot be written to "
                f"({error.strerror or error}); give --out another one."
            ) from error
        return files
