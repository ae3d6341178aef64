"""Write the notebooks: run their cells in a kernel and keep what they show.

    python examples/make_notebook.py        # needs nbclient and ipykernel

`tests/test_notebook.py` holds the committed notebooks to the cells, and their outputs to a new run.
"""

from __future__ import annotations

import asyncio
import copy
import os
import tempfile
from pathlib import Path

import nbformat
import notebook_cells
import transformers_cells
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbformat import NotebookNode
from nbformat.v4 import new_notebook

import phisight

HERE = Path(__file__).parent
NOTEBOOKS = {
    "phi3_vision.ipynb": notebook_cells.CELLS,
    "phi3_vision_transformers.ipynb": transformers_cells.CELLS,
}


def notebook(name: str) -> NotebookNode:
    """The cells, without outputs."""
    cells = copy.deepcopy(NOTEBOOKS[name])
    for number, cell in enumerate(cells, 1):
        cell.id = f"cell-{number:02}"  # the same in every run
    metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        "language_info": {"name": "python"},
    }
    return new_notebook(cells=cells, metadata=metadata)


def executed(name: str) -> NotebookNode:
    """The notebook with its outputs, from this interpreter, this phisight, and the CPU.

    Kernels and settings of the user are neither used nor written to. Raises CellExecutionError.
    """
    nb = notebook(name)
    source = str(Path(phisight.__file__).parents[1])  # so that the kernel imports the same one
    metadata = nb.metadata.copy()  # the client adds the versions that it ran with
    with tempfile.TemporaryDirectory() as folder:
        env = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")])),
            "PHISIGHT_CONFIG_DIR": folder,
            "CUDA_VISIBLE_DEVICES": "",
            "HF_HUB_OFFLINE": "1",
            "GOMP_SPINCOUNT": "2000",
            "PYTHONWARNINGS": "ignore:IProgress not found",  # tqdm, where ipywidgets is not there
            "IPYTHONDIR": folder,
            **{f"JUPYTER_{kind}_DIR": folder for kind in ("CONFIG", "DATA", "RUNTIME")},
        }
        env.pop("PHISIGHT_MODEL", None)
        kernel = AsyncKernelManager(
            connection_file=str(Path(folder) / "connection.json"),
            # No folder to look in: the kernel is ipykernel's own, run by sys.executable.
            kernel_spec_manager=KernelSpecManager(kernel_dirs=[]),
            transport_encryption="auto",  # or the kernel warns that others could listen
        )
        client = NotebookClient(
            nb,
            kernel,
            timeout=300,
            record_timing=False,
            coalesce_streams=True,
            resources={"metadata": {"path": str(HERE)}},
        )
        asyncio.run(client.async_execute(env=env, cleanup_kc=True))
    nb.metadata = metadata
    return nb


if __name__ == "__main__":
    for name in NOTEBOOKS:
        nbformat.write(executed(name), HERE / name)
