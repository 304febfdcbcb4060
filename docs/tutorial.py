"""Run the tutorial's notebook, as its reader would: `python docs/tutorial.py` saves what it printed and drew."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

_STYLES = re.compile(r"\x1b\[[0-9;]*m")
"""Of a terminal; the kernel tells programs that it is one."""

NOTEBOOK = Path(__file__).with_name("tutorial.ipynb")


def run(folder: str | Path) -> NotebookNode:
    """The notebook with its outputs, executed in a folder. Raises CellExecutionError: a cell failed."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    # Its shell lines call `clip-es`, the one beside this Python.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    where = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", coalesce_streams=True, resources=where).execute()
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "text" in output:
                output["text"] = _STYLES.sub("", output["text"])
    return notebook


def main() -> None:
    """Run it, and keep what it printed and drew, without times of the day."""
    with tempfile.TemporaryDirectory() as folder:
        notebook = run(folder)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", []):
            output.get("metadata", {}).clear()
    nbformat.write(notebook, NOTEBOOK)


if __name__ == "__main__":
    main()
