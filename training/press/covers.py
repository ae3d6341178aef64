"""Book covers in HTML: sections one below the other, with art between them or behind them."""

from __future__ import annotations

from draw import cover
from draw.hand import Hand
from press.canvas import Canvas, Draft, backdrop, css, mix, near, size, tag

SERIES = (
    "Book One", "Book Two", "The Complete Story", "Collected Works", "A Classic", "New Edition",
    "Now a major film", "Selected Essays", "A True Story", "Winner of the Book Prize",
)  # fmt: skip


def draft(hand: Hand) -> Draft:
    book = cover.random_book(hand)
    width, height = size(hand, "cover")
    page = Cover(Canvas(hand, width, height), book)
    return page.canvas.draft(page.body(), "", hand.random.choice(cover.BOTH), book.sentence())


class Cover:
    def __init__(self, canvas: Canvas, book: cover.Book) -> None:
        hand = canvas.hand
        self.canvas, self.hand, self.book = canvas, hand, book
        self.align = hand.random.choice(("center", "center", "center", "left", "right"))
        self.face = canvas.face()
        self.other = self.face if hand.chance(0.5) else canvas.face()
        self.pad = canvas.width * hand.random.uniform(0.05, 0.1)

    def body(self) -> str:
        """The sections stand in a column as high as the page."""
        hand, canvas = self.hand, self.canvas
        sections = [self._section(self._title(), 0.3)]
        if hand.chance(0.35):
            sections.append(self._art())
        if self.book.author is not None:
            at = 0 if hand.chance(0.25) else len(sections)
            sections.insert(at, self._section(self._author(), 0.2))
        if hand.chance(0.25):
            sections.insert(0, self._art())
        if hand.chance(0.2):
            place = hand.random.choice((0, len(sections)))
            sections.insert(place, self._section(self._small(self._imprint()), 0.15))
        spread = hand.random.choice(("space-between", "space-around", "space-evenly", "center"))
        frame = ""
        if hand.chance(0.2):
            edge = css(canvas.another())
            style = hand.random.choice(("solid", "double", "dashed", "ridge"))
            frame = f"border:{hand.random.randint(2, 8)}px {style} {edge};"
        shapes = "".join(self._shape() for _ in range(hand.random.choice((0, 0, 1, 2, 3, 5))))
        column = (
            f"position:absolute;inset:0;display:flex;flex-direction:column;{frame}"
            f"justify-content:{spread};text-align:{self.align};overflow:hidden"
        )
        behind = f"position:absolute;inset:0;background:{backdrop(hand, canvas.color)}"
        return (
            f'<div style="{behind}"></div>{shapes}'
            f'<div data-page style="{column}">{"".join(sections)}</div>'
        )

    def _section(self, inner: str, band: float) -> str:
        """Text on the page's own ground or on a band of its own."""
        r = self.hand.random
        ground, look = self.canvas.color, ""
        if self.hand.chance(band):
            ground = self.hand.color()
            look = f"background:{backdrop(self.hand, ground)};"
            if self.hand.chance(0.3):
                side = r.randint(4, 12)
                look += f"margin:0 {side}%;border-radius:{r.choice((0, 8, 30))}px;"
        ink = css(self.canvas.another(ground))
        pad = f"padding:{r.uniform(2, 5):.1f}% {self.pad:.0f}px;"
        if self.hand.chance(0.1):
            look += f"border-top:2px solid {ink};border-bottom:2px solid {ink};"
        return f'<div style="{pad}{look}color:{ink};flex:none">{inner}</div>'

    def _title(self) -> str:
        hand, r, canvas = self.hand, self.hand.random, self.canvas
        points = max(canvas.smallest * 1.15, canvas.height * r.uniform(0.055, 0.15))
        style = (
            f"font-family:{self.face};font-size:{points:.1f}px;"
            f"font-weight:{r.choice((400, 400, 700, 900))};line-height:{r.uniform(1, 1.3):.2f};"
        )
        style += f"letter-spacing:{r.choice((0, 0, 0, 0.03, 0.08, 0.15)):.2f}em;"
        if hand.chance(0.12):
            style += "font-style:italic;"
        if hand.chance(0.2):
            style += f"text-shadow:1px {r.randint(1, 3)}px {r.randint(1, 6)}px rgba(0,0,0,.35);"
        if hand.chance(0.3):
            style += "text-wrap:balance;"
        words = self.book.title.split(" ")
        if hand.chance(0.3):
            title = "".join(tag("div", word) for word in words)
        else:
            title = tag("span", self.book.title)
        inner = f'<div data-fit style="{style}">{title}</div>'
        if hand.chance(0.15):
            inner += f'<hr style="margin:4% {r.randint(0, 35)}%;border:1px solid currentColor">'
        if hand.chance(0.35):
            extra = r.choice(cover.EXTRAS + SERIES).format(r.randint(2, 9))
            small = self._small(extra)
            inner = inner + small if hand.chance(0.8) else small + inner
        return inner

    def _author(self) -> str:
        hand, r, canvas = self.hand, self.hand.random, self.canvas
        assert self.book.author is not None
        printed = self.book.author.upper() if hand.chance(0.4) else self.book.author
        points = max(canvas.smallest * 1.05, canvas.height * r.uniform(0.035, 0.07))
        style = (
            f"font-family:{self.other};font-size:{points:.1f}px;line-height:1.25;"
            f"font-weight:{r.choice((400, 400, 700))};"
            f"letter-spacing:{r.choice((0, 0, 0.05, 0.12, 0.2))}em;"
        )
        if hand.chance(0.2):
            printed = r.choice(("by ", "By ", "written by ")) + printed
        if hand.chance(0.75):
            style += "white-space:nowrap;"
        return f"<div data-fit style='{style}'>{tag('span', printed)}</div>"

    def _small(self, words: str) -> str:
        r = self.hand.random
        if self.hand.chance(0.3):
            words = words.upper()
        points = max(self.canvas.smallest, self.canvas.height * r.uniform(0.022, 0.034))
        style = (
            f"font-family:{self.other};font-size:{points:.1f}px;line-height:1.5;white-space:nowrap;"
            f"letter-spacing:{r.choice((0, 0, 0.06))}em;"
        )
        if self.hand.chance(0.2):
            style += "font-style:italic;"
        return tag("div", words, style, "data-fit")

    def _imprint(self) -> str:
        name = self.hand.word(8).capitalize()
        return (
            f"{name} {self.hand.random.choice(('Press', 'Books', 'House', '& Sons', 'Editions'))}"
        )

    def _shape(self) -> str:
        """Behind the texts, of nearly the ground's brightness."""
        r = self.hand.random
        color = css(near(self.hand, self.canvas.color, 22))
        look = (
            f"position:absolute;left:{r.randint(-20, 80)}%;top:{r.randint(-20, 90)}%;"
            f"width:{r.randint(15, 80)}%;height:{r.randint(8, 60)}%;background:{color};"
        )
        look += r.choice((
            "border-radius:50%;", "", "clip-path:polygon(50% 0,100% 100%,0 100%);",
            f"transform:rotate({r.randint(-40, 40)}deg);", "border-radius:30%;",
        ))  # fmt: skip
        return f'<div style="{look}"></div>'

    def _art(self) -> str:
        """A place of its own, without text: shapes of any colour."""
        r, hand = self.hand.random, self.hand
        shapes = []
        for _ in range(r.randint(1, 7)):
            x, y, s = r.randint(0, 100), r.randint(0, 60), r.randint(5, 35)
            fill = f'fill="{css(hand.color())}" opacity="{r.uniform(0.6, 1):.2f}"'
            shapes.append(r.choice((
                f'<circle cx="{x}" cy="{y}" r="{s}" {fill}/>',
                f'<rect x="{x}" y="{y}" width="{s * 2}" height="{s}" {fill}/>',
                f'<polygon points="{x},{y} {x + s},{y + s} {x - s},{y + s}" {fill}/>',
                f'<ellipse cx="{x}" cy="{y}" rx="{s}" ry="{s // 2 + 1}" {fill}/>',
                f'<path d="M0 {y} Q{x} {y - s} 100 {y} V60 H0Z" {fill}/>',
            )))  # fmt: skip
        sky = css(mix(self.canvas.color, hand.color(), r.choice((0, 0.5, 1))))
        tall = f"flex:0 1 {r.randint(20, 45)}%;min-height:0"
        return (
            f'<svg viewBox="0 0 100 60" preserveAspectRatio="xMidYMid slice" '
            f'style="{tall};width:100%;background:{sky}">{"".join(shapes)}</svg>'
        )
