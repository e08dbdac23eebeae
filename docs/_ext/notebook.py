"""The notebook: its outputs made anew (``python docs/_ext/notebook.py``), and it as a page.

Making them needs ``nbclient`` and ``ipykernel``, in the environment of the package.
"""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path

NOTEBOOK = Path(__file__).resolve().parents[1] / "tutorial.ipynb"


def execute(path: Path = NOTEBOOK) -> None:
    """Run every cell in an empty folder, and keep what it printed and returned."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        NotebookClient(notebook, timeout=None, resources=resources).execute()
    content = json.loads(nbformat.writes(notebook))
    for cell in content["cells"]:
        cell["metadata"] = {}
        if cell["cell_type"] == "code":
            cell["outputs"] = [settled(output) for output in _joined(cell["outputs"])]
    content["metadata"]["language_info"] = {"name": "python"}
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _joined(outputs):
    """Streams that follow each other as one."""
    joined = []
    for output in outputs:
        if joined and "text" in output and output.get("name") == joined[-1].get("name"):
            joined[-1]["text"] = [*joined[-1]["text"], *output["text"]]
        else:
            joined.append(output)
    return joined


def settled(output: dict) -> dict:
    """An output as it looks in the end: bars drawn over, no colors, ``~`` for the home folder."""
    if "text" in output:
        text = re.sub(r"\x1b\[[\d;]*[A-Za-z]", "", "".join(output["text"]))
        lines = [line.rstrip("\r").rsplit("\r", 1)[-1] for line in text.split("\n")]
        text = "\n".join(lines).replace(str(Path.home()), "~")
        return {**output, "text": text.splitlines(keepends=True)}
    data = output["data"]
    return {**output, "data": {"text/html": data["text/html"]} if "text/html" in data else data}


def to_markdown(text: str) -> str:
    """A notebook as a page: its text, its code, and its outputs below."""
    parts = []
    for cell in json.loads(text)["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if "text/html" in data:
                html = re.sub(r"(?s)<style.*?</style>", "", "".join(data["text/html"]))
                html = re.sub(r'<table border="1" class="\w+">', '<table class="docutils">', html)
                html = html.replace(' style="text-align: right;"', "")
                box = f'<div class="measured table-wrapper">{html}</div>'
                parts.append(f"```{{raw}} html\n{box}\n```")
            else:
                shown = "".join(output.get("text") or data["text/plain"]).strip("\n")
                parts.append(f"```none\n{shown}\n```")
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    execute()
