"""Draw the example pictures into this folder, and write their SHA-256 sums.

They were drawn once, before any model saw them, and are never redrawn to suit one: the tests hold
the committed files to `SHA256SUMS`. Needs Pillow alone; the font is the one it carries.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

HERE = Path(__file__).parent
INK = (33, 37, 41)
GREY = (134, 142, 150)
SCALE = 3  # drawn larger, then reduced, for smooth edges


def font(size: float) -> ImageFont.FreeTypeFont:
    loaded = ImageFont.load_default(size * SCALE)
    assert isinstance(loaded, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return loaded


class Canvas:
    """A drawing in whole pixels of the final picture."""

    def __init__(self, width: int, height: int, color: tuple[int, int, int]) -> None:
        self.size = width, height
        self.image = Image.new("RGB", (width * SCALE, height * SCALE), color)
        self.draw = ImageDraw.Draw(self.image)

    def text(
        self,
        x: float,
        y: float,
        words: str,
        size: float,
        color: tuple[int, int, int] = INK,
        anchor: str = "mm",
        bold: float = 0.0,
    ) -> None:
        self.draw.text(
            (x * SCALE, y * SCALE),
            words,
            color,
            font(size),
            anchor,
            stroke_width=round(bold * SCALE),
            stroke_fill=color,
        )

    def box(
        self, x0: float, y0: float, x1: float, y1: float, color: tuple[int, int, int], r: float = 0
    ) -> None:
        corners = (x0 * SCALE, y0 * SCALE, x1 * SCALE, y1 * SCALE)
        self.draw.rounded_rectangle(corners, r * SCALE, color)

    def disc(self, x: float, y: float, radius: float, color: tuple[int, int, int]) -> None:
        self.draw.circle((x * SCALE, y * SCALE), radius * SCALE, color)

    def polygon(self, points: list[tuple[float, float]], color: tuple[int, int, int]) -> None:
        self.draw.polygon([(x * SCALE, y * SCALE) for x, y in points], color)

    def line(
        self, x0: float, y0: float, x1: float, y1: float, color: tuple[int, int, int], width: float
    ) -> None:
        corners = (x0 * SCALE, y0 * SCALE, x1 * SCALE, y1 * SCALE)
        self.draw.line(corners, color, round(width * SCALE))

    def save(self, name: str) -> None:
        small = self.image.resize(self.size, Image.Resampling.LANCZOS)
        small.save(HERE / name, optimize=True)


def chart() -> None:
    """A bar chart of a data centre's yearly revenue."""
    picture = Canvas(1000, 640, (255, 255, 255))
    picture.text(500, 52, "Data Center Revenue", 40, bold=0.6)
    picture.text(500, 96, "billion US dollars, by fiscal year", 20, GREY)
    years = {"FY19": 2.9, "FY20": 3.0, "FY21": 6.7, "FY22": 10.6, "FY23": 15.0, "FY24": 47.5}
    base, top, left, step = 560, 160, 90, 145
    for i, (year, value) in enumerate(years.items()):
        x = left + i * step
        y = base - (base - top) * value / 47.5
        picture.box(x, y, x + 95, base, (76, 140, 43))
        picture.text(x + 47, y - 22, f"${value}B", 26)
        picture.text(x + 47, base + 30, year, 26)
    picture.line(60, base, 960, base, INK, 2)
    picture.save("chart.png")


def book() -> None:
    """The cover of "ALONE" by Morgan Maxwell: one lit window in a row of dark houses."""
    picture = Canvas(640, 960, (24, 43, 73))
    picture.disc(470, 380, 80, (244, 234, 200))
    picture.disc(440, 362, 76, (24, 43, 73))
    roofs = [
        (0, 560),
        (90, 500),
        (180, 600),
        (250, 530),
        (340, 590),
        (430, 510),
        (540, 580),
        (640, 540),
    ]
    picture.polygon([*roofs, (640, 760), (0, 760)], (13, 24, 43))
    picture.box(296, 640, 330, 686, (250, 204, 92))
    picture.box(0, 760, 640, 960, (10, 18, 33))
    picture.text(320, 160, "ALONE", 150, (245, 245, 240), bold=1.5)
    picture.text(320, 858, "Morgan Maxwell", 54, (245, 245, 240))
    picture.save("book.png")


def pair() -> None:
    """Two pictures of the same things, one of which changed colour."""
    for name, changed in (("pair-a.png", (40, 80, 220)), ("pair-b.png", (220, 40, 40))):
        picture = Canvas(600, 600, (246, 246, 242))
        picture.disc(110, 110, 68, (40, 160, 60))
        picture.box(430, 45, 550, 165, changed)
        picture.polygon([(300, 390), (235, 500), (365, 500)], (245, 140, 30))
        picture.save(name)


def table() -> None:
    """A price list with a header row."""
    rows = [
        ("Item", "Count", "Price"),
        ("Bread", "2", "$3.40"),
        ("Coffee", "1", "$7.95"),
        ("Apples", "6", "$2.10"),
        ("Cheese", "1", "$5.25"),
    ]
    picture = Canvas(720, 420, (255, 255, 255))
    picture.box(30, 30, 690, 102, (224, 231, 240))
    for i, row in enumerate(rows):
        y = 30 + 72 * i
        for j, cell in enumerate(row):
            picture.text(54 + 220 * j, y + 36, cell, 30, anchor="lm", bold=0.5 if i == 0 else 0)
    for i in range(6):
        picture.line(30, 30 + 72 * i, 690, 30 + 72 * i, GREY, 2)
    for j in range(4):
        picture.line(30 + 220 * j, 30, 30 + 220 * j, 390, GREY, 2)
    picture.save("table.png")


def sign() -> None:
    """A street sign against the sky."""
    picture = Canvas(800, 600, (168, 205, 235))
    picture.box(0, 500, 800, 600, (122, 158, 98))
    picture.box(388, 210, 412, 560, (110, 115, 120))
    picture.box(110, 150, 690, 290, (255, 255, 255), 16)
    picture.box(118, 158, 682, 282, (0, 104, 71), 12)
    picture.text(400, 220, "MAPLE STREET", 70, (255, 255, 255), bold=0.8)
    picture.save("sign.png")


def main() -> None:
    for draw in (chart, book, pair, table, sign):
        draw()
    sums = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
        for path in sorted(HERE.glob("*.png"))
    ]
    (HERE / "SHA256SUMS").write_text("".join(sums))


if __name__ == "__main__":
    main()
