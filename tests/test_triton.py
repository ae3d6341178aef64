"""Triton kernels without a GPU, in a process of its own: the interpreter is chosen at import."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.skipif(sys.platform != "linux", reason="Triton has packages for Linux only")
def test_kernels_compute_what_their_twins_do() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", str(HERE / "interpreted.py"), "-p", "no:cacheprovider"],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert "22 passed" in done.stdout
