"""`phisight verify` against folders made to harm: links, pipes, names, texts and numbers."""

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path

import micro
import pytest
import torch
from markdown_it import MarkdownIt
from markdown_it.token import Token
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import phisight
from phisight.cli.main import app
from phisight.errors import BudgetError, CheckpointError
from phisight.model import scan
from phisight.model.files import open_tensors
from phisight.model.scan import scan_file
from phisight.processing.processor import Prompt
from phisight.verify import agreement
from phisight.verify.agreement import DTYPES
from phisight.verify.answers import Transcript
from phisight.verify.files import hub_name, refused_files
from phisight.verify.markdown import to_markdown
from phisight.verify.report import Agreement, Asked, Finding, Report, Status
from phisight.verify.run import verify

SECRET = b"a secret of somebody else"
OUTSIDE = "is a link to a file outside the folder; not read"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def message(report: Report, check: str) -> str:
    (found,) = [f for f in report.findings if f.check == check]
    return found.message


def rendered(text: str) -> list[Token]:
    """Every token of a page, as a site with tables and bare links renders it."""

    def flat(tokens: list[Token]) -> Iterator[Token]:
        for token in tokens:
            yield token
            yield from flat(token.children or [])

    return list(flat(MarkdownIt("commonmark").enable("table").parse(text)))


def kinds(text: str) -> set[str]:
    return {token.type for token in rendered(text)}


def shown(message: str) -> str:
    return to_markdown(Report("m", findings=[Finding("c", Status.FAULT, message)]))


def asked(answer: str) -> Asked:
    return Asked("book", "?", answer, "float32", "stop", 9, 5, 3, 0.1, 0.1, 0.1, 0.1, None)


@pytest.mark.parametrize("suffix", ["md", "json"])
def test_a_report_is_not_written_through_a_link(
    micro_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    profile = tmp_path / "profile"
    profile.write_bytes(SECRET)
    report = micro_folder / f"verify-{micro_folder.name}.{suffix}"
    report.symlink_to(profile)
    (micro_folder / "config.json").unlink()  # quick: nothing is asked
    monkeypatch.chdir(micro_folder)
    done = CliRunner().invoke(app, ["verify", ".", "--quick"])
    assert done.exit_code == 3, done.output
    assert profile.read_bytes() == SECRET
    assert not report.is_symlink()
    assert "config.json" in report.read_text()
    assert not list(micro_folder.glob(".verify-*"))


@pytest.mark.parametrize("break_out", ["``\x1b`", "`\u200b``", "`\x00`\u202e`", "````"])
def test_an_answer_stays_in_its_fence(break_out: str) -> None:
    answer = f"A book.\n{break_out}\n# Fine\n![x](http://e/x.png) [y](http://e/)\n<b>z</b>"
    text = to_markdown(Report("m", answers=[asked(answer)]))
    assert not kinds(text) & {"image", "link_open", "html_inline", "html_block"}
    assert next(t.content for t in rendered(text) if t.type == "fence").count("# Fine") == 1
    assert "Fine" not in [t.content for t in rendered(text) if t.type == "inline"]


@pytest.mark.parametrize(
    ("foreign", "expected"),
    [
        ("see https://e.example/x now", "see `https://e.example/x` now"),
        ("WWW.e.example and a|www.b`c", "`WWW.e.example` and `` a\\|www.b`c ``"),
        ("ask @you, in #12", "ask `@you,` in `#12`"),
        ("&lt;b> __a__ b_c", "&amp;lt;b> \\_\\_a\\_\\_ b_c"),
        ("\u202edrowssap\u200b \u0627\u200c\u0628 \ufeffx", "drowssap \u0627\u200c\u0628 x"),
    ],
)
def test_foreign_text_is_no_live_markdown(foreign: str, expected: str) -> None:
    text = shown(foreign)
    assert f"| c | fault | {expected} |" in text
    assert not kinds(text) & {"link_open", "image", "html_inline", "em_open"}
    assert [t.type for t in rendered(text)].count("strong_open") == 1  # the verdict


def test_a_templates_own_words_are_cut(micro_folder: Path) -> None:
    (micro_folder / "chat_template.jinja").write_text(
        "{{ raise_exception('https://e.example ' * 1000) }}"
    )
    said = message(verify(micro_folder, quick=True), "chat template")
    assert len(said) == 2003
    assert "link_open" not in kinds(shown(said))
    assert " https://" not in shown(said)


def test_a_revision_is_a_commit(tmp_path: Path) -> None:
    place = tmp_path / "models--a--b" / "snapshots"
    assert hub_name(place / COMMIT) == ("a/b", COMMIT)
    assert hub_name(place / "`https:") is None


def test_info_prints_a_folders_name_only(micro_folder: Path) -> None:
    done = CliRunner().invoke(app, ["info", "--model", str(micro_folder)])
    assert done.exit_code == 0, done.output
    assert f"model        {micro_folder.name} (named)\n" in done.stdout
    assert str(micro_folder.parent) not in done.stdout


@pytest.mark.parametrize("name", ["model.safetensors", "extra.safetensors", "config.json"])
def test_a_pipe_is_not_opened(micro_folder: Path, name: str) -> None:
    (micro_folder / name).unlink(missing_ok=True)
    os.mkfifo(micro_folder / name)
    report = verify(micro_folder, quick=True)
    assert message(report, "files") == f"{name} is not a regular file; not read"
    for check in ("config", "weights", "values", "answers"):
        assert message(report, check) == "not run: a fault in files"
    with pytest.raises(CheckpointError, match="not a regular file"):
        scan_file(micro_folder / name)


def test_an_index_names_a_pipe(tmp_path: Path) -> None:
    tensors = micro.write(tmp_path / "m", shards=2)
    os.mkfifo(tmp_path / "m" / "weights.dat")
    index = tmp_path / "m" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(tensors, "weights.dat")}))
    report = verify(tmp_path / "m", quick=True)
    assert message(report, "weights") == "weights.dat is not a regular file; not read"
    assert message(report, "answers") == "not run: a fault in weights"


@pytest.mark.parametrize("target", ["/dev/zero", "../home/id_rsa", "../home/gone", "itself"])
def test_a_link_out_of_the_folder_is_not_read(
    micro_folder: Path, tmp_path: Path, target: str
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "id_rsa").write_bytes(SECRET)
    link = micro_folder / "z.safetensors"
    link.symlink_to(link if target == "itself" else target)
    report = verify(micro_folder, quick=True)
    why = "is a link that leads nowhere; not read" if target == "itself" else OUTSIDE
    assert message(report, "files") == f"z.safetensors {why}"
    assert "z.safetensors" not in [item.name for item in report.files]
    assert message(report, "values") == "not run: a fault in files"


def test_links_into_the_hub_cache_are_read(tmp_path: Path) -> None:
    model, store = tmp_path / "models--a--b", tmp_path / "store"
    folder = model / "snapshots" / COMMIT
    for place in (folder, model / "blobs", store):
        place.mkdir(parents=True)
    (model / "blobs" / "x").write_bytes(b"{}")
    (folder / "config.json").symlink_to("../../blobs/x")
    (store / "y").write_bytes(SECRET)
    (model / "blobs" / "y").symlink_to(store / "y")
    (folder / "tokenizer.json").symlink_to("../../blobs/y")
    assert refused_files(folder) == {"tokenizer.json": OUTSIDE}
    assert refused_files(folder, anywhere=True) == {}  # a model named by its hub id
    (model / "blobs").rename(tmp_path / "elsewhere")
    (model / "blobs").symlink_to(tmp_path / "elsewhere")
    assert refused_files(folder) == dict.fromkeys(("config.json", "tokenizer.json"), OUTSIDE)


def test_infinite_logits_are_a_fault() -> None:
    script = Transcript("book", Prompt((1,), ()), (0, 1))
    fine = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
    both = {"book": fine * torch.tensor([1.0, math.inf])}
    found, rows = agreement.compare(dict.fromkeys(DTYPES, both), "float32", [script])
    assert found.status == Status.FAULT
    assert found.message == (
        "logits are NaN or infinite (book in float32, book in bfloat16): the weights are damaged"
    )
    text = Report("m", agreement=rows).to_json()  # would raise for NaN
    assert json.loads(text)["agreement"][0]["largest_difference"] is None
    assert "| not finite | not finite |" in to_markdown(Report("m", agreement=rows))
    with pytest.raises(ValueError, match="JSON"):
        Report("m", agreement=[Agreement("x", 1, 1.0, math.nan, 0.0, None, None, 1)]).to_json()


def test_a_checkpoint_with_infinite_logits_does_not_pass(tmp_path: Path) -> None:
    micro.write(tmp_path / "m", max_position_embeddings=4000)
    path = tmp_path / "m" / "model.safetensors"
    tensors = load_file(path)
    tensors["lm_head.weight"][7] = 3e38
    save_file(tensors, path, metadata={"format": "pt"})
    report = verify(tmp_path / "m")
    assert {finding.check for finding in report.faults} & {"answers", "dtypes"}
    assert all(row.largest_difference is None for row in report.agreement)


def test_a_name_that_is_no_utf8(micro_folder: Path, tmp_path: Path) -> None:
    for name in (b"\377.py", b"\376.safetensors"):
        Path(os.fsdecode(bytes(micro_folder) + b"/" + name)).write_bytes(b"")
    (micro_folder / "config.json").unlink()
    words = ["verify", str(micro_folder), "--quick", "--output", str(tmp_path)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 3, done.output
    assert "present, never opened: \\udcff.py" in done.stdout
    text = (tmp_path / f"verify-{micro_folder.name}.md").read_text()
    assert "Present, never opened: \\\\udcff.py" in text


def test_many_small_tensors_are_read_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = {f"t{i}": torch.full((i % 3, 5), math.nan if i == 7 else 1.0) for i in range(4000)}
    save_file(tensors | {"scalar": torch.tensor(math.inf)}, tmp_path / "x.safetensors")
    opened: list[Path] = []
    monkeypatch.setattr(
        scan, "open_tensors", lambda path: opened.append(path) or open_tensors(path)
    )
    found = {t.name: t for t in scan_file(tmp_path / "x.safetensors")}
    assert len(opened) < 5, "17 s when the file was opened for each of 4,000"
    assert {name: t.num_bad for name, t in found.items() if t.num_bad} == {"t7": 5, "scalar": 1}
    monkeypatch.setattr(scan, "_PIECE", 100)  # rows of 40 bytes, never more than three at once
    few = {"a": torch.ones(7, 5), "b": torch.full((2, 5), math.nan), "c": torch.ones(0, 5)}
    save_file(few, tmp_path / "few.safetensors")
    assert [t.num_bad for t in scan_file(tmp_path / "few.safetensors")] == [0, 10, 0]


def test_a_lack_of_memory_is_no_fault(micro_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(*words: object, **options: object) -> None:
        raise BudgetError("reading 900 tokens takes 9.00 GiB of memory")

    monkeypatch.setattr(phisight.Model, "ask", ask)
    report = verify(micro_folder, quick=True)
    assert message(report, "answers") == (
        "not measured: reading 900 tokens takes 9.00 GiB of memory"
    )
    assert report.faults == []
