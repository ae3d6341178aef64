"""`phisight verify`: a sound folder passes, and every damage is named where the reader sees it."""

import dataclasses
import hashlib
import json
import shutil
import sys
import warnings
from pathlib import Path

import micro
import numpy as np
import pytest
import torch
from click.testing import Result
from reference.images import make_image
from safetensors.torch import load_file
from typer.testing import CliRunner

import phisight
from phisight.cli.main import app, main
from phisight.config import read_model_config
from phisight.errors import ModelNotFoundError
from phisight.verify import agreement, answers, selftest
from phisight.verify.answers import MAX_TOKENS, PICTURES, QUESTIONS
from phisight.verify.declared import FAMILIES, rope_fingerprint
from phisight.verify.markdown import to_markdown
from phisight.verify.report import (
    SCHEMA,
    Agreement,
    Finding,
    Report,
    Status,
    file_safe,
    without_paths,
)
from phisight.verify.run import verify

EXAMPLES = Path(__file__).parents[1] / "examples"
LONG_ENOUGH = 4000  # positions for all three questions in nano's four crops
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}<|im_start|>assistant\n"
)


def finding(report: Report, check: str) -> Finding:
    (found,) = [f for f in report.findings if f.check == check]
    return found


def faults(report: Report) -> dict[str, str]:
    return {f.check: f.message for f in report.faults}


def assert_private(report: Report, place: Path) -> None:
    for text in (to_markdown(report), report.to_json()):
        assert str(place) not in text
        assert str(place.resolve()) not in text
        assert str(Path.home()) + "/" not in text


def run_cli(*words: str) -> Result:
    return CliRunner().invoke(app, ["verify", *words])


@pytest.fixture(scope="module")
def nano_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    output = tmp_path_factory.mktemp("reports")
    return run_cli("nano", "--output", str(output)), output


def test_nano_passes_and_two_files_say_so(nano_run: tuple[Result, Path]) -> None:
    done, output = nano_run
    assert done.exit_code == 0, done.output
    assert {path.name for path in output.iterdir()} == {"verify-nano.md", "verify-nano.json"}
    *table, verdict, _, _ = done.stdout.splitlines()
    assert verdict == "ok: no fault in 13 checks; not measured or not run: hub cache"
    assert [line.split()[0] for line in table] == ["ok", "note", *["ok"] * 11]
    assert done.stdout.endswith(f"written: {output / 'verify-nano.json'}\n")
    record = json.loads((output / "verify-nano.json").read_text())
    assert (record["schema"], record["model"], record["verdict"]) == (SCHEMA, "nano", verdict)
    assert [f["check"] for f in record["findings"]][-3:] == ["answers", "book", "dtypes"]
    assert {row["sha256"] for row in record["files"] if row["name"] == "model.safetensors"} == {
        "a9fe2b93c310c5270e93d4bdc3c6dc55936d8b026b0de7bc2475adf9100357bb"
    }
    assert record["environment"]["torch"] == torch.__version__


def test_nanos_answers_are_those_of_ask(
    nano_run: tuple[Result, Path], nano: phisight.Model
) -> None:
    record = json.loads((nano_run[1] / "verify-nano.json").read_text())
    assert [row["question"] for row in record["answers"]] == [q.text for q in QUESTIONS]
    for row, question in list(zip(record["answers"], QUESTIONS, strict=True))[1:]:  # chart: 2 s
        images = [EXAMPLES / name for name in question.files]
        answer = nano.ask(question.text, images, max_tokens=MAX_TOKENS)
        assert row["answer"] == answer.text
        assert row["completion_tokens"] == answer.usage.completion_tokens
        assert row["finish_reason"] == answer.finish_reason == "stop"
    assert [row["picture"] for row in record["agreement"]] == ["chart", "book", "pair"]
    for row in record["agreement"]:
        assert row["num_tokens"] == 64
        assert row["same_top1"] >= 0.95
        assert 0 < row["mean_difference"] < row["largest_difference"] < 1
        assert row["rewritten"] >= 62  # a cache and a recomputation may part at a tie


def test_the_markdown_reads_well(nano_run: tuple[Result, Path]) -> None:
    text = (nano_run[1] / "verify-nano.md").read_text()
    assert text.startswith("# phisight verify: nano\n\n**Verdict: ok: no fault in 13 checks;")
    titles = [line for line in text.splitlines() if line.startswith("## ")]
    assert titles[1:] == ["## float32 against bfloat16", "## Files", "## Machine"]
    assert 'The title of the book is "ALONE" and the author is Morgan Maxwell.' in text
    assert str(nano_run[1]) not in text
    assert str(Path(phisight.__file__).parent) not in text


def test_markdown_is_not_steered_by_what_it_shows() -> None:
    report = Report("m", findings=[Finding("c|d", Status.FAULT, "<s> `x` @you *b*\n\x1b[0m")])
    text = to_markdown(report)
    assert "| c\\|d | fault | &lt;s> \\`x\\` `@you` \\*b\\* \\[0m |" in text
    assert text.startswith("# phisight verify: m\n\n**Verdict: fault: 1 of 1 checks (c\\|d)**\n")


def test_paths_never_enter_a_message(tmp_path: Path) -> None:
    place = tmp_path / "alice" / "phi"
    shown = without_paths(f"{place}: {place}/a.json, '/opt/x/y.bin' and C:\\Users\\me", place)
    assert shown == "a.json, '(path)' and (path)"
    assert (
        without_paths("<|end|>/12 tokens/s and/or 3/4", place) == "<|end|>/12 tokens/s and/or 3/4"
    )
    assert file_safe("microsoft/Phi-3.5-vision") == "microsoft--Phi-3.5-vision"
    assert file_safe("../a b") == "--a_b"


def test_a_random_checkpoint_of_the_real_shape(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "QUESTIONS", QUESTIONS[1:2])  # 13 crops: 3 s for a picture
    monkeypatch.setattr(answers, "MAX_TOKENS", 6)
    report = verify(tiny_folder, quick=True)
    assert faults(report) == {}
    assert report.recognised == "Phi-3-vision"
    assert finding(report, "config").message == (
        "config.json calls itself Phi-3-vision, whose RoPE factors are others "
        "(4 layers of 256, context 131072)"
    )
    assert finding(report, "answers").message == "none of the answers ended within 6 tokens"
    assert finding(report, "book").message.startswith(
        "the answer about the book lacks ALONE and Maxwell: trained weights read the cover"
    )
    assert finding(report, "dtypes").message == "not measured: left out by --quick"
    assert [(row.image_tokens, row.completion_tokens) for row in report.answers] == [(1933, 6)]
    assert_private(report, tiny_folder)


def test_a_preprocessor_of_phi_3_5(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "MAX_TOKENS", 6)
    folder = tmp_path / "mixed"
    folder.mkdir()
    for path in tiny_folder.iterdir():
        (folder / path.name).hardlink_to(path)
    path = folder / "preprocessor_config.json"
    data = json.loads(path.read_text())
    path.unlink()
    path.write_text(json.dumps(data | {"num_crops": 4}))
    report = verify(folder, quick=True)
    assert faults(report) == {
        "preprocessor": "preprocessor_config.json has num_crops=4, which is Phi-3.5-vision's; "
        "config.json is Phi-3-vision's, whose number is 16: take the file that came with these "
        "weights"
    }
    assert len(report.answers) == 3  # asked all the same: they show what the mistake does
    assert_private(report, tmp_path)


def test_a_missing_shard(tmp_path: Path) -> None:
    micro.write(tmp_path / "m", shards=3)
    (tmp_path / "m" / "model-00002-of-00003.safetensors").unlink()
    report = verify(tmp_path / "m")
    assert faults(report) == {
        "weights": "shard 'model-00002-of-00003.safetensors' is missing; download it again"
    }
    assert finding(report, "values").message.endswith("values in F32, all finite")
    for check in ("answers", "book", "dtypes"):
        assert finding(report, check) == Finding(check, Status.NOTE, "not run: a fault in weights")
    assert report.verdict.startswith("fault: 1 of 13 checks (weights); not measured or not run: ")
    assert_private(report, tmp_path)


def test_another_models_config(micro_folder: Path, official: Path) -> None:
    for name in ("config.json", "preprocessor_config.json"):
        shutil.copy(official / name, micro_folder)
    report = verify(micro_folder)
    assert report.recognised == "Phi-3-vision"
    assert faults(report) == {
        "weights": "config.json says hidden_size=3072, the weights have 48: config.json is "
        "another model's"
    }
    assert finding(report, "config") == Finding(
        "config",
        Status.OK,
        "Phi-3-vision's, by its RoPE factors: 32 layers of 3072, context 131072",
    )


def test_weights_that_are_no_numbers(micro_folder: Path) -> None:
    tensors = load_file(micro_folder / "model.safetensors")
    tensors["model.norm.weight"][3:5] = torch.nan
    tensors["lm_head.weight"][7, 7] = torch.inf
    (micro_folder / "model.safetensors").unlink()
    micro.save_sharded(micro_folder, tensors, 1)
    report = verify(micro_folder)
    assert faults(report) == {
        "values": f"2 of {len(tensors)} tensors hold NaN or infinity: lm_head.weight (1 of 12960 "
        "values), model.norm.weight (2 of 48 values)"
    }
    assert finding(report, "answers").message == "not run: a fault in values"


def test_a_chatml_template(tmp_path: Path) -> None:
    micro.write(tmp_path / "m", max_position_embeddings=LONG_ENOUGH)
    (tmp_path / "m" / "chat_template.jinja").write_text(CHATML)
    report = verify(tmp_path / "m", quick=True)
    assert faults(report)["chat template"] == (
        "the template does not render the Phi-3-V format; from character 2: expected "
        "'user|>\\n<|image_1|>\\nWhat is shown?<|end|>\\n<|assistant|>\\nA cha'..., got "
        "'im_start|>user\\n<|image_1|>\\nWhat is shown?<|im_end|>\\n<|im_sta'..."
    )
    assert "chat_template.jinja" in [item.name for item in report.files]
    assert len(report.answers) == 3


def test_a_context_too_short_keeps_the_answers_before(tmp_path: Path) -> None:
    micro.write(tmp_path / "m", max_position_embeddings=1300)
    report = verify(tmp_path / "m")  # one picture fits, two do not
    assert [row.picture for row in report.answers] == ["chart", "book"]
    assert faults(report) == {}  # the model is whole; its context is short
    said = finding(report, "answers").message
    assert said.startswith("not measured: the prompt has ")
    assert "the model's context is 1300" in said
    assert finding(report, "dtypes").message == "not run: not everything was answered"


@pytest.mark.parametrize(
    ("name", "text", "check", "message"),
    [
        ("config.json", None, "files", "config.json is missing"),
        ("config.json", "{", "config", "config.json: not readable as JSON (JSONDecodeError)"),
        (
            "preprocessor_config.json",
            '{"num_crops": 4, "image_mean": [0.5, 0.5, 0.5], '
            '"image_std": [0.26862954, 0.26130258, 0.27577711]}',
            "preprocessor",
            "image_mean=[0.5, 0.5, 0.5] is not CLIP's [0.48145466, 0.4578275, 0.40821073]",
        ),
        (
            "tokenizer.json",
            "[]",
            "tokenizer",
            "tokenizer.json: expected a JSON object, got list",
        ),
        (
            "model.safetensors",
            "",
            "weights",
            "model.safetensors: not a whole safetensors file (SafetensorError); download it again",
        ),
    ],
)
def test_a_damaged_file_is_named(
    micro_folder: Path, name: str, text: str | None, check: str, message: str
) -> None:
    (micro_folder / name).unlink()
    if text is not None:
        (micro_folder / name).write_text(text)
    report = verify(micro_folder, quick=True)
    assert faults(report)[check] == message
    assert len({f.check for f in report.findings}) == 13
    assert_private(report, micro_folder)


def snapshot(folder: Path, cache: Path) -> Path:
    """The folder as the hub cache holds it: links to blobs, named by content."""
    model = cache / "models--someone--phi--v"
    revision = model / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
    revision.mkdir(parents=True)
    (model / "blobs").mkdir()
    for path in folder.iterdir():
        data = path.read_bytes()
        git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        large = path.suffix == ".safetensors"
        name = hashlib.sha256(data).hexdigest() if large else git
        (model / "blobs" / name).write_bytes(data)
        (revision / path.name).symlink_to(Path("../../blobs") / name)
    return revision


def test_a_snapshot_that_rotted(micro_folder: Path, tmp_path: Path) -> None:
    folder = snapshot(micro_folder, tmp_path / "hub")
    report = verify(folder, quick=True)
    assert (report.model, report.revision) == ("someone/phi--v", folder.name)
    assert finding(report, "hub cache") == Finding(
        "hub cache", Status.OK, "all 5 files have the content the hub cache names"
    )
    named = {}
    for name in ("model.safetensors", "tokenizer_config.json"):
        blob = (folder / name).resolve()
        named[name] = blob.name
        data = bytearray(blob.read_bytes())
        data[-1] ^= 1  # a bit of a weight; a brace
        blob.write_bytes(bytes(data))
    report = verify(folder, quick=True)
    message = faults(report)["hub cache"]
    for name, digest in named.items():
        assert f"{name} is damaged: its content hashes to " in message
        assert f"the hub cache names it {digest[:12]}...; delete the model from" in message
    assert_private(report, tmp_path)


def test_code_and_pickles_are_named_and_left_alone(micro_folder: Path) -> None:
    for name in ("modeling_phi3_v.py", "training_args.bin"):
        (micro_folder / name).write_text("raise SystemExit('opened')")
    config = micro.config_json(_name_or_path="/home/alice/Phi-3-vision")
    (micro_folder / "config.json").write_text(json.dumps(config))
    report = verify(micro_folder, quick=True)
    assert report.never_opened == ["modeling_phi3_v.py", "training_args.bin"]
    assert finding(report, "code") == Finding(
        "code", Status.NOTE, "present, never opened: modeling_phi3_v.py, training_args.bin"
    )
    assert not {item.name for item in report.files} & set(report.never_opened)
    assert report.recognised == "Phi-3-vision"
    assert "alice" not in to_markdown(report) + report.to_json()


def values_needed(folder: Path) -> int:
    """Numbers in memory to ask: weights, and twice the cache and a layer of the longest prompt and
    its answer, since the cache takes half of what is free."""
    weights = sum(t.numel() for t in load_file(folder / "model.safetensors").values())
    longest = max(len(prompt.ids) for prompt in answers.make_prompts(folder)) + answers.MAX_TOKENS
    return weights + 2 * longest * (2 * 2 * 48 + 4 * 48 + 3 * 80)


def test_short_memory_is_said_and_nothing_loaded(
    micro_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phisight.verify.run.free_bytes", lambda device: 1000)
    report = verify(micro_folder)
    lack = f"needs {2 * values_needed(micro_folder) / 1e6:.1f} MB, 0.0 MB free"
    assert finding(report, "answers").message == f"not run: {lack}"
    assert finding(report, "dtypes").message == f"not measured: {lack}"
    assert (report.answers, faults(report)) == ([], {})


def test_memory_for_one_dtype_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    micro.write(tmp_path / "m", max_position_embeddings=LONG_ENOUGH)
    size = values_needed(tmp_path / "m")
    monkeypatch.setattr("phisight.verify.run.free_bytes", lambda device: 3 * size)
    report = verify(tmp_path / "m")
    assert {row.dtype for row in report.answers} == {"bfloat16"}
    assert finding(report, "dtypes").message == (
        f"not measured: needs {4 * size / 1e6:.1f} MB, {3 * size / 1e6:.1f} MB free"
    )


def test_a_mistake_of_ours_hides_no_other_check(
    micro_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise KeyError("secret")

    monkeypatch.setattr(selftest, "check_processor", broken)
    report = verify(micro_folder, quick=True)
    assert faults(report)["processor"] == "this check broke down (KeyError): report that"
    assert len(report.findings) == 13


def test_the_selftest_sees_other_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    real = selftest.cut_crops

    def other(*arguments: object) -> object:
        crops = real(*arguments)  # type: ignore[arg-type]
        return dataclasses.replace(crops, pixels=crops.pixels + (len(crops.pixels) == 3))

    monkeypatch.setattr(selftest, "cut_crops", other)
    found, fine = selftest.check_processor()
    assert not fine
    assert found.message == (
        "2 of 8 pictures get other bits than the official processor's (672x336 in 4 crops, "
        "274x633 in 4 crops): Pillow or torch resizes differently on this machine"
    )


def test_the_selftest_is_made_of_the_goldens() -> None:
    goldens = json.loads(
        (Path(__file__).parent / "reference" / "goldens" / "processor.json").read_text()
    )
    rows = {(r["w"], r["h"], r["num_crops"], r["seed"]): r for r in goldens["sizes"]}
    cases = selftest.cases_shipped()
    assert len(cases) == 8
    for case in cases:
        size = case["width"], case["height"]
        row = rows[(*size, case["num_crops"], case["seed"])]
        assert row["kind"] == "mix"
        assert (row["raw_sha256"], row["sha256_used"]) == (
            case["picture_sha256"],
            case["crops_sha256"],
        )
        picture = make_image(*size, case["seed"], "mix")
        assert np.array_equal(np.asarray(picture), selftest.make_picture(*size, case["seed"]))


def test_the_pictures_are_the_examples() -> None:
    sums = dict(
        reversed(line.split()) for line in (EXAMPLES / "SHA256SUMS").read_text().splitlines()
    )
    shipped = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in PICTURES.iterdir()}
    assert shipped == {name: sums[name] for name in shipped}
    assert set(shipped) == {name for question in QUESTIONS for name in question.files}


def test_the_official_factors_are_recognised(official: Path) -> None:
    rope = read_model_config(official).rope
    marks = {item.name: item.rope_sha256 for item in FAMILIES}
    assert rope_fingerprint(rope.short_factor, rope.long_factor) == marks["Phi-3-vision"]
    assert len(set(marks.values())) == 2


def test_a_model_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ModelNotFoundError, match="no model 'nope'"):
        verify("nope")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("nope",), 3, "phisight: no model 'nope'"),
        (("nano", "--output", "no/such"), 2, "--output no/such: no such folder; create it or"),
        ((), 2, "Missing argument"),
    ],
)
def test_mistakes_are_one_sentence(
    words: tuple[str, ...],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["phisight", "verify", *words])
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # main() sets its own
    with warnings.catch_warnings(), pytest.raises(SystemExit) as caught:
        main()
    printed = capsys.readouterr()
    assert (caught.value.code, printed.out) == (code, "")
    assert message in printed.err
    assert list(tmp_path.iterdir()) == []


def test_a_fault_is_exit_code_3(micro_folder: Path, tmp_path: Path) -> None:
    (micro_folder / "config.json").unlink()
    done = run_cli(str(micro_folder), "--quick", "--output", str(tmp_path))
    assert done.exit_code == 3
    assert "fault  config         config.json: not found; a Phi-3-V model folder" in done.stdout
    assert str(tmp_path) not in (tmp_path / "verify-micro.md").read_text()
    assert str(tmp_path) not in (tmp_path / "verify-micro.json").read_text()


@pytest.mark.parametrize(
    ("same", "rewritten", "status"),
    [(1.0, 64, "ok"), (0.8, 64, "note"), (0.4, 64, "fault"), (1.0, 20, "fault")],
)
def test_dtypes_or_generation_that_disagree_are_a_fault(
    same: float, rewritten: int, status: str
) -> None:
    row = Agreement("book", 64, same, 0.1, 0.01, None, None, rewritten)
    assert agreement._judged([row]).status == status
