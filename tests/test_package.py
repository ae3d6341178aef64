"""The wheel as a user gets it: complete, and working outside the source tree."""

import os
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_wheel_answers_on_its_own(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("phisight-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = next(name for name in names if name.endswith("/METADATA"))
        fields = Parser().parsestr(archive.read(metadata).decode())
        archive.extractall(tmp_path / "site")
    assert {"phisight/py.typed", "phisight/assets/nano/model.safetensors"} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any(name.startswith(("tests", "examples", "benchmarks")) for name in names)
    assert fields["Requires-Python"] == ">=3.11"

    # Only this copy can be the one imported: the working folder and user packages are left out.
    command = [sys.executable, "-P", "-m", "phisight", "ask", ROOT / "examples/sign.png", "OCR"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "PYTHONWARNINGS": "error"}
    done = subprocess.run(
        [*command, "--json", "--max-tokens", "3"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert '"model": "nano"' in done.stdout
    where = subprocess.run(
        [sys.executable, "-P", "-c", "import phisight; print(phisight.__file__)"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env=environment,
    )
    assert Path(where.stdout.strip()).is_relative_to(tmp_path / "site")
