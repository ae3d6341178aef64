"""`phisight use` and `phisight models`, the settings file, and the line that says what chose."""

import json
from pathlib import Path

import micro
import pytest
from fake_hub import COMMIT, cached, phi

import phisight
from phisight.cli.output import note_model
from phisight.errors import OptionError
from phisight.hub import choice, find_model, use_model
from phisight.hub.registry import BUNDLED_NOTE, PUBLISHED

PHI35 = PUBLISHED["phi-3.5-vision"]


def test_the_note_says_what_chose_the_model(
    root: Path,
    nano_copy: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    used = phi("use", str(nano_copy))
    assert used.stdout == f"{nano_copy} (phisight use)  {nano_copy}\n"
    done = phi("ask", "Hi", "--max-tokens", "1", "--device", "cpu", "--dtype", "float32")
    assert done.stderr.splitlines()[0] == f"{nano_copy} (phisight use) on cpu, float32"
    monkeypatch.setenv("PHISIGHT_MODEL", "nano")
    for name in (None, "nano"):
        note_model(phisight.load(name, device="cpu", dtype="float32"))
    assert capsys.readouterr().err.splitlines() == [
        "nano (PHISIGHT_MODEL) on cpu, float32",
        BUNDLED_NOTE,
        "nano on cpu, float32",
        BUNDLED_NOTE,
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not readable as JSON; mend it, or: phisight use --forget"),
        ("[]", "not readable as JSON; mend it, or: phisight use --forget"),
        ('{"model": "nano", "colour": 1}', "unknown setting 'colour'; there is only 'model'"),
        ('{"model": 5}', "model=5: expected a name; mend it, or: phisight use --forget"),
        ("{}", "model=None: expected a name; mend it, or: phisight use --forget"),
    ],
)
def test_a_damaged_settings_file_is_named(text: str, message: str, root: Path) -> None:
    path = choice.settings_path()
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(OptionError) as caught:
        find_model()
    assert str(caught.value) == f"{path}: {message}"
    assert find_model("nano").chosen_by == "named"
    assert choice.forget()
    assert find_model().chosen_by == "the default"


def test_a_settings_folder_that_cannot_be_written_is_named(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PHISIGHT_CONFIG_DIR", str(tmp_path / "file"))
    with pytest.raises(OptionError, match="PHISIGHT_CONFIG_DIR names another folder"):
        use_model("nano")


def test_settings_are_replaced_whole(root: Path) -> None:
    use_model("nano")
    assert find_model().chosen_by == "phisight use"
    assert choice.settings_path().read_text() == '{"model": "nano"}\n'
    assert [path.name for path in choice.settings_path().parent.iterdir()] == ["settings.json"]


def test_the_settings_lie_where_the_system_keeps_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PHISIGHT_CONFIG_DIR")
    path = choice.settings_path()
    assert path.is_absolute()
    assert (path.name, path.parent.name) == ("settings.json", "phisight")


def test_models_lists_what_is_here_and_what_can_be_fetched(root: Path, tmp_path: Path) -> None:
    micro.write(tmp_path / "sharded", shards=3)
    cached(root, "someone/micro", COMMIT, tmp_path / "sharded")
    extra = cached(root, "someone/micro", "f" * 40, tmp_path / "sharded", main=False)
    partial = cached(root, PHI35.hub_id, PHI35.revision, tmp_path / "sharded", main=False)
    for i in (1, 3):
        (partial / f"model-0000{i}-of-00003.safetensors").unlink()
    (root / "models--strange").mkdir()
    (root / "models--no--config" / "snapshots" / COMMIT).mkdir(parents=True)
    done = phi("models")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert done.stderr == ""
    assert lines[0] == ["NAME", "SIZE", "STATE", "FROM"]
    assert lines[1][:2] == ["*", "nano"]
    assert lines[1][4:] == ["complete", "bundled"]
    lacks = "lacks model-00001-of-00003.safetensors and 1 more"
    assert f"{lacks}  {PHI35.hub_id} at {PHI35.revision[:12]}" in done.stdout
    assert f"someone/micro at {COMMIT[:12]}" in done.stdout
    assert str(extra) in done.stdout
    assert "* is used when no model is named (the default)" in done.stdout
    assert done.stdout.endswith(
        "\n  phi-3-vision    8.3 GB  MIT  the first one: one picture at a time, 128k tokens\n"
        "  phi-3.5-vision  8.3 GB  MIT  "
        "the second one: several pictures and frames too, 128k tokens\n"
    )
    record = json.loads(phi("models", "--json").stdout)
    assert record["used"]["chosen_by"] == "the default"
    assert [model["name"] for model in record["models"]] == [
        "nano",
        "phi-3.5-vision",
        "someone/micro",
        str(extra),
    ]
    assert record["models"][2]["size"] == sum(
        path.stat().st_size for path in (tmp_path / "sharded").iterdir()
    )
    assert [model["name"] for model in record["to_pull"]] == ["phi-3-vision", "phi-3.5-vision"]


def test_models_shows_a_card(root: Path, tmp_path: Path) -> None:
    card = phi("models", "nano").stdout
    assert card.startswith("# nano: the bundled model\n")
    assert "| covers | whole answer exact |" in card
    assert json.loads(phi("models", "nano", "--json").stdout)["card"].strip() == card.strip()
    micro.write(tmp_path / "micro")
    done = phi("models", str(tmp_path / "micro"))
    assert done.returncode == 3
    assert f"has no card: there is no README.md in {tmp_path / 'micro'}" in done.stderr
    card_file = tmp_path / "micro" / "README.md"
    card_file.write_bytes(b"x" * (2**20 + 1))
    done = phi("models", str(tmp_path / "micro"))
    assert done.returncode == 3
    assert f"{card_file} has 1048577 bytes: a card has at most 1048576" in done.stderr
    card_file.write_bytes("# A card\x1b[2J of \u202eours\n".encode() + b"\xff")
    assert phi("models", str(tmp_path / "micro")).stdout == "# A card[2J of ours\n\ufffd\n"


def test_models_still_lists_when_the_chosen_one_is_gone(root: Path) -> None:
    done = phi("models", PHISIGHT_MODEL="phi-3-vision")
    assert done.returncode == 0
    assert "*" not in done.stdout
    assert done.stderr.startswith("PHISIGHT_MODEL names 'phi-3-vision': ")


def test_use_says_what_is_used_and_what_goes_before_it(root: Path, micro_folder: Path) -> None:
    done = phi("use")
    assert done.stdout.startswith("nano (the default)  ")
    done = phi("use", "micro", PHISIGHT_MODEL="nano")
    assert done.stdout.startswith("nano (PHISIGHT_MODEL)  ")
    assert done.stderr == "micro is remembered, but PHISIGHT_MODEL goes before it\n"
    done = phi("use", "--forget")
    assert done.stdout.startswith("nano (the default)  ")
    assert phi("use", "--forget").stderr.startswith("nothing was chosen\n")
    done = phi("use", "micro", "--forget")
    assert (done.returncode, done.stdout) == (2, "")
    assert "give a model or --forget, not both" in done.stderr
