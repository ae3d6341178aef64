"""crops="auto": fewer crops for small pictures, only when asked for, by one rule at every door."""

import random
from pathlib import Path

import openai
import pytest
from PIL import Image
from test_cli import phi
from test_server import about, asking, served

import phisight
from phisight.errors import ImageError, OptionError
from phisight.hd import fewest_crops, hd_layout

EXAMPLES = Path(__file__).parents[1] / "examples"
SIGN, TABLE = EXAMPLES / "sign.png", EXAMPLES / "table.png"  # 800x600, 720x420


@pytest.mark.parametrize(
    ("size", "most", "crops", "tokens"),
    [
        ((32, 32), 16, 1, 313),
        ((336, 336), 16, 1, 313),
        ((336, 200), 16, 1, 313),
        ((337, 336), 16, 4, 757),
        ((640, 200), 16, 2, 457),
        ((200, 640), 16, 2, 469),
        ((672, 672), 16, 4, 757),
        ((673, 673), 16, 9, 1489),
        ((1000, 700), 16, 9, 1489),
        ((4000, 3000), 16, 16, 1921),
        ((673, 673), 4, 4, 757),
        ((30, 30), 1, 1, 313),
        ((6000, 20), 64, 18, 2761),
    ],
)
def test_table(size: tuple[int, int], most: int, crops: int, tokens: int) -> None:
    assert fewest_crops(*size, most) == crops
    assert hd_layout(*size, crops).num_tokens == tokens


def test_rule_on_random_sizes() -> None:
    """As few as can be without making the picture smaller than `most` crops would."""
    rng = random.Random(3)
    fewer = 0
    for _ in range(2000):
        width, height, most = rng.randrange(1, 3000), rng.randrange(30, 3000), rng.randrange(1, 33)
        try:
            full = hd_layout(width, height, most)
        except ImageError:
            assert fewest_crops(width, height, most) == most, "which says what is wrong"
            continue
        chosen = fewest_crops(width, height, most)
        layout, long = hd_layout(width, height, chosen), max(width, height)
        assert layout.num_tokens <= full.num_tokens
        assert layout.resized[0] >= min(long, full.resized[0])
        fewer += layout.num_tokens < full.num_tokens
        for less in range(1, chosen):
            try:
                assert hd_layout(width, height, less).resized[0] < long
            except ImageError:
                continue
    assert fewer > 500


def test_never_unless_asked_for(tmp_path: Path) -> None:
    icon = tmp_path / "icon.png"
    Image.new("RGB", (64, 64), "red").save(icon)
    plain, auto = phisight.load("nano"), phisight.load("nano", crops="auto")
    assert plain.cost("What?", [icon]).image_tokens == (757,)
    assert auto.cost("What?", [icon]).image_tokens == (313,)
    answer = plain.ask("What?", [icon], max_tokens=1)
    assert (answer.usage.image_tokens, answer.usage.spared_tokens) == (757, 0)
    assert "crops" not in answer.summary()
    answer = auto.ask("What?", [icon, SIGN], max_tokens=1)
    assert (answer.usage.image_tokens, answer.usage.spared_tokens) == (1070, 444)
    assert answer.summary().endswith("; pictures in 1070 tokens, 1514 without crops=auto")


def test_the_same_picture_cut_otherwise_is_another(tmp_path: Path) -> None:
    icon = Image.new("RGB", (64, 64), "red")
    keys = {
        phisight.load("nano", crops=crops).processor.image(icon).key  # type: ignore[attr-defined]
        for crops in (None, "auto")
    }
    assert len(keys) == 2


def test_preview_shows_both_costs() -> None:
    told = str(phisight.preview_crops(TABLE, num_crops=16, crops="auto"))
    assert told.startswith("3 x 2 crops of 336 pixels (1008 x 672) and one of the whole: 1045 tok")
    assert told.endswith("; 2353 tokens without crops=auto")
    assert "without" not in str(phisight.preview_crops(TABLE, num_crops=16))
    assert "without" not in str(phisight.preview_crops(TABLE, num_crops=1, crops="auto"))


def test_another_word_is_refused() -> None:
    with pytest.raises(OptionError, match="crops='few': expected one of auto"):
        phisight.load("nano", crops="few")


def test_command_line_shows_what_it_chose_and_what_all_would_take() -> None:
    done = phi("crops", str(TABLE), "--crops", "auto", "--num-crops", "16")
    assert "1045 tokens" in done.stdout
    assert "2353 tokens without crops=auto" in done.stdout
    done = phi(
        "ask", str(TABLE), "What?", "--crops", "auto", "--num-crops", "12", "--max-tokens", "1"
    )
    assert "pictures in 1045 tokens, 1921 without crops=auto" in done.stderr
    done = phi("ask", str(TABLE), "What?", "--crops", "some")
    assert done.returncode == 2
    assert "crops='some'" in done.stderr


def test_server_cuts_as_it_was_started() -> None:
    model = phisight.load("nano", crops="auto", num_crops=16)
    with served(model) as port, asking(port) as client:
        assert isinstance(client, openai.OpenAI)
        answer = client.chat.completions.create(
            model="nano", messages=about("table.png", "What?"), max_tokens=1
        )
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == model.cost("What?", [TABLE]).prompt_tokens < 1100
