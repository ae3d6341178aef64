"""The command line as a program: what it prints where, and how it ends."""

import dataclasses
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import phisight
from phisight.cli.ask import ask, task_command
from phisight.cli.main import EXIT_CODES
from phisight.cli.output import printable
from phisight.errors import PhisightError
from phisight.params import LoadOptions, SamplingParams
from phisight.tasks import TASKS

EXAMPLES = Path(__file__).parents[1] / "examples"
BOOK, SIGN = str(EXAMPLES / "book.png"), str(EXAMPLES / "sign.png")


def phi(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "phisight", *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)
    assert "Traceback" not in done.stderr
    return done


def test_ask_answers_on_stdout_and_notes_on_stderr(nano: phisight.Model) -> None:
    done = phi("ask", SIGN, "OCR")
    assert done.returncode == 0
    assert done.stdout == nano.ask("OCR", [SIGN]).text + "\n"
    model, hint, costs = done.stderr.splitlines()
    assert model.startswith("nano on ")
    assert "For photographs: hf download microsoft/Phi-3.5-vision-instruct" in hint
    assert re.fullmatch(
        r"[\d.]+ s: pictures [\d.]+, reading 769 tokens [\d.]+, writing 13 .*", costs
    )


def test_json_is_one_line_with_everything() -> None:
    done = phi("ask", BOOK, "OCR", "--json", "--max-tokens", "4", "--dtype", "float32")
    record = json.loads(done.stdout)
    assert record["images"] == [BOOK]
    assert (record["model"], record["dtype"], record["finish_reason"]) == (
        "nano",
        "float32",
        "length",
    )
    assert len(record["token_ids"]) == record["usage"]["completion_tokens"] == 4
    assert set(record["timings"]) == {"processing", "vision", "queue", "prefill", "decode"}


def test_a_task_answers_for_each_picture() -> None:
    done = phi("ocr", BOOK, SIGN, "--max-tokens", "2")
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.endswith(".png:")] == [f"{BOOK}:", f"{SIGN}:"]
    assert done.stderr.count("cut after 2 tokens; --max-tokens allows more") == 2


def test_compare_takes_all_pictures_together() -> None:
    done = phi("compare", BOOK, SIGN, "--json", "--max-tokens", "1", "--num-crops", "1")
    assert json.loads(done.stdout)["usage"]["image_tokens"] == 313 * 2


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("ask", "no.png", "What?"), 2, "phisight: no.png: no such file"),
        (("ask", BOOK), 2, "the last argument is the question"),
        (("ask", BOOK, " "), 2, "the last argument is the question"),
        (("ask", "What?", "--temperature", "-1"), 2, "temperature"),
        (("ask", "What?", "--top-p", "nan"), 2, "top-p"),
        (("ask", "What?", "--num-crops", "0"), 2, "num-crops"),
        (("ask", "What?", "--max-new-tokens", "9"), 2, "No such option"),
        (("ask", "What?", "--dtype", "int8"), 2, "dtype='int8': expected one of"),
        (("ask", "What?", "--device", "cuda:77"), 4, "device 'cuda:77' is not on this machine"),
        (("ask", "What?", "--model", "nope"), 3, "no model 'nope'"),
        (("compare", BOOK), 2, "compare takes 2 pictures, not 1; for others: phisight ask"),
        (("describe",), 2, "Missing argument"),
        (("ask", *[BOOK] * 6, "What?"), 2, "the model's context is 4096"),
        (("ask", "\udcff"), 2, "U+DCFF, which is no character"),
    ],
)
def test_mistakes_get_one_sentence_and_a_code(
    words: tuple[str, ...], code: int, message: str, tmp_path: Path
) -> None:
    done = phi(*words, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr


def test_a_broken_model_folder_is_named(nano_copy: Path) -> None:
    (nano_copy / "model.safetensors").write_bytes(b"nothing")
    done = phi("ask", "Hi", "--model", str(nano_copy))
    assert done.returncode == 3
    assert "not a whole safetensors file" in done.stderr


def test_frames_left_out_are_a_line_on_stderr(tmp_path: Path) -> None:
    from PIL import Image

    frames = [Image.new("L", (9, 9), 90 * i) for i in range(3)]
    frames[0].save(tmp_path / "three.gif", save_all=True, append_images=frames[1:])
    done = phi("ask", "three.gif", "OCR", "--max-tokens", "1", cwd=tmp_path)
    assert (
        "phisight: three.gif has more than one frame or page; only the first is used\n"
        in done.stderr
    )


def test_options_equal_the_option_classes() -> None:
    expected = {
        f.name: f.default
        for kind in (SamplingParams, LoadOptions)
        for f in dataclasses.fields(kind)
    }
    for command in (ask, task_command(TASKS[0])):
        parameters = list(inspect.signature(command).parameters.values())[1:]
        given = {p.name: p.default for p in parameters}
        assert given == expected | {"model": None, "json": False}


def test_any_terminal_takes_any_answer_and_name(nano_folder: Path, tmp_path: Path) -> None:
    name = os.fsdecode("caf\u00e9-".encode() + b"\xff.png")
    (tmp_path / name).write_bytes(Path(SIGN).read_bytes())
    for encoding in ("ascii", "utf-8:strict"):
        done = subprocess.run(
            [sys.executable, "-m", "phisight", "ocr", name, name, "--max-tokens", "1"],
            capture_output=True,
            cwd=tmp_path,
            check=False,
            env={**os.environ, "PYTHONIOENCODING": encoding},
        )
        assert done.returncode == 0, done.stderr
        assert b".png:" in done.stdout


def test_every_error_has_an_exit_code() -> None:
    def tree(kind: type[PhisightError]) -> list[type[PhisightError]]:
        return [kind, *(leaf for child in kind.__subclasses__() for leaf in tree(child))]

    kinds = tree(PhisightError)[1:]
    assert len(kinds) == 10
    for kind in kinds:
        assert sum(issubclass(kind, owner) for owner in EXIT_CODES) == 1, kind


def test_text_off_a_picture_cannot_steer_a_terminal() -> None:
    assert printable("a\x1b[31mb\x07\x9b\n\tc\u202e") == "a[31mb\n\tc\u202e"


def test_help_and_version_import_nothing_heavy() -> None:
    script = (
        "import sys; sys.argv = ['phisight', sys.argv[1]]\n"
        "from phisight.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'numpy', 'PIL', 'tokenizers', 'huggingface_hub', 'jinja2', 'rich'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    for flag, text in (("--help", "describe"), ("--version", phisight.__version__)):
        done = subprocess.run(
            [sys.executable, "-c", script, flag], capture_output=True, text=True, check=True
        )
        assert text in done.stdout
