"""The command line as a program: what it prints where, and how it ends."""

import contextlib
import dataclasses
import inspect
import io
import json
import os
import re
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image

import phisight
from phisight.cli.ask import ask, task_command
from phisight.cli.main import main
from phisight.cli.options import SERVING
from phisight.cli.output import EXIT_CODES, one_line, printable
from phisight.cli.pictures import find_pictures
from phisight.errors import PhisightError, PhisightWarning
from phisight.params import EngineConfig, LoadOptions, SamplingParams
from phisight.tasks import TASKS, table_csv, table_rows

EXAMPLES = Path(__file__).parents[1] / "examples"
BOOK, SIGN = str(EXAMPLES / "book.png"), str(EXAMPLES / "sign.png")


def phi(*words: str, cwd: Path | None = None, typed: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "phisight", *words]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, check=False, input=typed
    )
    assert "Traceback" not in done.stderr
    return done


def test_ask_answers_on_stdout_and_notes_on_stderr(nano: phisight.Model) -> None:
    done = phi("ask", SIGN, "OCR")
    assert done.returncode == 0
    assert done.stdout == nano.ask("OCR", [SIGN]).text + "\n"
    model, hint, costs = done.stderr.splitlines()
    assert model.startswith("nano (the default) on ")
    assert "For photographs: phisight pull phi-3.5-vision" in hint
    assert re.fullmatch(
        r"[\d.]+ s: pictures [\d.]+, reading 769 tokens [\d.]+, writing 13 tokens .*", costs
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
        (("ask", BOOK, "no.png"), 2, "the last argument is the question, but it is 'no.png'"),
        (("ask", BOOK, "http://x.org/a"), 2, "the last argument is the question, but it is"),
        (("table", BOOK, SIGN, "--csv"), 2, "--csv takes one picture at a time, not 2"),
        (("use", "."), 3, "phisight: '.' is no model's folder: it has no config.json"),
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
        (("ask", "*.nope", "What?"), 2, "phisight: *.nope: no file matches this pattern"),
        (("ask", ".", "What?"), 2, "phisight: .: no picture in this folder (.jpg, .jpeg, .png"),
        (("ask", "-", "-"), 2, "- can be a picture or the question, not both"),
        (("ask", "-", "-", "What?"), 2, "phisight: -: standard input is empty"),
        (("ask", "What?", "--logprobs", "2"), 2, "--logprobs is for --json"),
        (("ask", "What?", "--stop", ""), 2, "stop='': must have between 1 and 256 characters"),
        (("table", BOOK, "--csv", "--json"), 2, "choose one of --csv and --json"),
        (("table", BOOK, "--csv"), 5, "phisight: the answer holds no table: "),
        (("chat", "-"), 2, "standard input is where questions are"),
        (("crops", BOOK, "-o", "x.gif"), 2, "'x.gif': the name must end in .png, .jpg or .webp"),
        (("crops", BOOK, "-o", "no/x.png"), 2, "no/x.png: cannot be written (No such file or"),
        (("crops", str(EXAMPLES)), 2, "names 6 pictures; crops takes one"),
        (("crops", BOOK, "-o", BOOK), 2, "is the picture itself: name another"),
    ],
)
def test_mistakes_get_one_sentence_and_a_code(
    words: tuple[str, ...],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["phisight", *words])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    with warnings.catch_warnings(), pytest.raises(SystemExit) as ended:
        warnings.simplefilter("default")  # as in the program, which shows them
        main()
    shown = capsys.readouterr()
    assert (ended.value.code, shown.out) == (code, "")
    assert message in shown.err


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
        for kind in (SamplingParams, LoadOptions, EngineConfig)
        for f in dataclasses.fields(kind)
        if f.name not in ("logit_bias", *SERVING)
    }
    for command in (ask, task_command(TASKS[0])):
        parameters = list(inspect.signature(command).parameters.values())[1:]
        given = {p.name: p.default for p in parameters}
        assert given == expected | {"stop": None, "model": None, "json": False}


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
    assert len(kinds) == 14
    for kind in kinds:
        assert sum(issubclass(kind, owner) for owner in EXIT_CODES) == 1, kind


def test_text_off_a_picture_cannot_steer_a_terminal() -> None:
    assert printable("a\x1b[31mb\x07\x9b\n\tc\u202ed\u2066") == "a[31mb\n\tcd"
    assert one_line("a.png:\nTotal: 0\x1b") == "a.png:\\nTotal: 0"


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


def test_standard_input_is_a_picture_or_a_question() -> None:
    command = [sys.executable, "-m", "phisight", "ask"]
    with Path(SIGN).open("rb") as file:
        picture = subprocess.run(
            [*command, "-", "OCR"], stdin=file, capture_output=True, check=True, text=True
        )
    question = phi("ask", SIGN, "-", typed="\ufeffOCR\n")
    assert picture.stdout == question.stdout == "MAPLE STREET\n"
    with Path(SIGN).open("rb") as file:
        swapped = subprocess.run(
            [*command, "-"], stdin=file, capture_output=True, check=False, text=True
        )
    assert swapped.returncode == 2
    assert 'a picture goes before the question: phisight ask - "What is this?"' in swapped.stderr


def test_folders_and_patterns_are_pictures_in_order(tmp_path: Path) -> None:
    for name in ("b.png", "a.PNG", "c.jpeg"):
        (tmp_path / name).write_bytes(Path(SIGN).read_bytes())
    (tmp_path / "[odd].png").write_bytes(Path(SIGN).read_bytes())
    names = [
        [picture.name for picture in find_pictures(words)]
        for words in (
            [str(tmp_path)],
            [str(tmp_path / "*.p*"), str(tmp_path / "c.jpeg")],
            [str(tmp_path / "[odd].png")],
        )
    ]
    assert [[Path(name).name for name in group] for group in names] == [
        ["[odd].png", "a.PNG", "b.png", "c.jpeg"],
        ["[odd].png", "b.png", "c.jpeg"],
        ["[odd].png"],
    ]


def test_what_a_folder_holds_besides_pictures_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(Path(SIGN).read_bytes())
    for name in ("b.heic", "c.pdf", ".hidden"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.warns(PhisightWarning, match="left out 2 that are no pictures by their names: b.h"):
        assert len(find_pictures([str(tmp_path)])) == 1


def test_info_tells_of_the_machine_though_the_model_is_not_there() -> None:
    done = phi("info", "--model", "nope")
    assert done.returncode == 3
    assert "no model 'nope'" in done.stderr
    assert f"torch        {torch.__version__.split('+')[0]}" in done.stdout


def test_one_bad_picture_does_not_cost_the_others(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    (tmp_path / "b.png").write_bytes(Path(SIGN).read_bytes())
    done = phi("ocr", ".", "--max-tokens", "5", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == "b.png:\nMAPLE\n"
    assert "phisight: a.png: not a picture phisight reads; convert it to one of " in done.stderr
    lines = phi("ocr", ".", "--json", "--max-tokens", "1", cwd=tmp_path).stdout.splitlines()
    bad, good = map(json.loads, lines)
    assert bad["images"] == ["a.png"]
    assert bad["error"].startswith("a.png: not a picture")
    assert (good["images"], good["text"]) == (["b.png"], "M")


def test_a_table_is_written_as_comma_separated_values() -> None:
    done = phi("table", str(EXAMPLES / "table.png"), "--csv")
    assert done.stdout.splitlines() == [
        "Item,Count,Price",
        "Bread,2,$3.40",
        "Coffee,1,$7.95",
        "Apples,6,$2.10",
        "Cheese,1,$5.25",
    ]


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("a | b\n1 | 2", [["a", "b"], ["1", "2"]]),
        ("Here:\n| a | b |\n|---|:-:|\n| 1 |  |\n\nDone so", [["a", "b"], ["1", ""]]),
        ("| x \\| y | z |", [["x | y", "z"]]),
        ("a | b\n--|--\n- | -\n-- | 3", [["a", "b"], ["-", "-"], ["--", "3"]]),
    ],
)
def test_a_markdown_table_is_read(text: str, rows: list[list[str]]) -> None:
    assert table_rows(text) == rows


def test_csv_quotes_what_needs_it() -> None:
    assert table_csv('a, b | "c"') == '"a, b","""c"""\n'


def test_csv_holds_no_formula_off_a_picture() -> None:
    text = "=HYPERLINK(A1) | @SUM(1) | +cmd | -5% | -2.50 | + 1,000 | -x | a=b"
    assert table_csv(text) == "'=HYPERLINK(A1),'@SUM(1),'+cmd,-5%,-2.50,\"+ 1,000\",'-x,a=b\n"


def test_a_line_of_dashes_costs_no_time() -> None:
    assert table_rows("-" * 10**6 + "x|") == [["-" * 10**6 + "x"]]


def test_chat_takes_pictures_on_the_way_and_goes_on_after_a_mistake() -> None:
    typed = f"/add '{SIGN}'\nOCR\n/add no.png\n/dance\n/add\n/add 'x\n/new\n/help\n\nHi\n"
    done = phi("chat", "--max-tokens", "5", typed=typed)
    assert done.returncode == 2, "some turns failed"
    assert done.stdout.splitlines()[0] == "MAPLE"
    assert len(done.stdout.splitlines()) == 2
    for line in (
        f"with the next question: {SIGN}",
        "phisight: no.png: no such file",
        "phisight: /dance is no command: /add PICTURES adds them to the next question, /new starts",
        "phisight: /add needs the name of a picture",
        "phisight: /add 'x: a quotation mark is open",
        "a new conversation",
    ):
        assert line in done.stderr
    assert done.stderr.count("reading") == 2
    jam = phi("chat", "--max-tokens", "5", typed=f"/add {__file__}\nWhat?\n/add {SIGN}\nOCR\n")
    assert (jam.returncode, jam.stdout) == (2, "MAPLE\n")
    assert "the pictures of this question are put aside; /add them again" in jam.stderr
    fine = phi("chat", SIGN, "--max-tokens", "2", typed="OCR\n/quit\nnot asked")
    assert (fine.returncode, fine.stdout) == (0, "MA\n")


AT_A_TERMINAL = """
import os, pty, sys
sys.exit(os.waitstatus_to_exitcode(pty.spawn([sys.executable, "-m", "phisight", *sys.argv[1:]])))
"""


@pytest.mark.parametrize(("key", "code"), [(b"\x04", 0), (b"\x03", 130)], ids=["ctrl-d", "ctrl-c"])
def test_chat_at_a_terminal_ends_on_a_key(key: bytes, code: int) -> None:
    command = [sys.executable, "-c", AT_A_TERMINAL, "chat"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        seen = b""
        while b"> " not in seen:
            seen += process.stdout.read1()
        for _ in range(9):  # a key that comes while the editing is set up is lost
            process.stdin.write(key)
            process.stdin.flush()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
                break
        else:
            process.kill()
        seen += process.stdout.read()
    assert process.returncode == code
    assert b"Traceback" not in seen


def test_an_interrupt_ends_an_answer_quietly() -> None:
    command = [sys.executable, "-m", "phisight", "describe", str(EXAMPLES / "chart.png")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        _, notes = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in notes


def test_a_closed_pipe_is_no_crash() -> None:
    command = [sys.executable, "-m", "phisight", "ocr", SIGN, SIGN, SIGN]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        process.stdout.close()
        assert process.stderr is not None
        notes = process.stderr.read()
    assert process.returncode == 1
    assert b"Traceback" not in notes
    assert b"Exception ignored" not in notes


def test_crops_draws_what_the_model_sees(tmp_path: Path) -> None:
    done = phi("crops", BOOK, "--output", "crops.png", cwd=tmp_path)
    assert done.stdout.splitlines() == [
        f"{BOOK} for nano: 2 x 3 crops of 336 pixels (672 x 1008) and one of the whole: "
        "1057 tokens of 4096 (26%), 14 MiB of memory in bfloat16",
        "drawn in crops.png",
    ]
    with Image.open(tmp_path / "crops.png") as drawn:
        assert drawn.size == (24 + 336 + 24 + 336 + 10 + 336 + 24, 24 + 20 + 3 * 336 + 2 * 10 + 24)
    one = phi("crops", BOOK, "--num-crops", "1")
    assert "1 x 1 crops of 336 pixels (336 x 336) and one of the whole: 313 tokens" in one.stdout


def test_info_tells_what_the_model_needs() -> None:
    lines = dict(line.split(maxsplit=1) for line in phi("info").stdout.splitlines())
    assert lines["phisight"] == phisight.__version__
    assert lines["parameters"] == "27,791,008"
    assert lines["weights"] == "0.05 GiB in bfloat16, 0.10 in float32"
    assert lines["context"] == "4,096 tokens, 14 KiB each in bfloat16"
    assert lines["pictures"] == "up to 6 crops each"


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("phisight com", ["compare"]),
        ("phisight ask --num", ["--num-crops"]),
        ("phisight ask --model phi", ["phi-3-vision", "phi-3.5-vision"]),
    ],
)
def test_the_shell_completes_commands_options_and_models(words: str, offered: list[str]) -> None:
    environment = os.environ | {
        "_PHISIGHT_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
    }
    script = "from phisight.cli.main import app; app(prog_name='phisight')"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False
    )
    assert done.stdout.split() == offered
