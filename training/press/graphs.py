"""Charts for LibreOffice, each an object within a text document."""

from __future__ import annotations

import math
from xml.sax.saxutils import escape, quoteattr

from draw.figures import Figures, nice_step, random_figures
from draw.hand import Hand
from press import office
from press.canvas import size, smallest
from press.charts import ASKS, palette
from press.documents import BLACK, WHITE, color_code
from press.office import Document

LONG = 460.0  # points of the chart's longer side
CLASSES = {"bar": "bar", "grouped": "bar", "line": "line", "pie": "circle"}


def graph(hand: Hand) -> Document:
    figures = random_figures(hand)
    while figures.kind == "line" and figures.printed:
        figures = random_figures(hand)  # LibreOffice sets the first value across the axis
    pixels = size(hand, "chart")
    scale = LONG / max(pixels)
    least = smallest(*pixels) * scale * 1.1
    drawing = Graph(hand, figures, pixels[0] * scale, pixels[1] * scale, least)
    place = f'svg:width="{drawing.width:.1f}pt" svg:height="{drawing.height:.1f}pt"'
    body = (
        f'<text:p><draw:frame text:anchor-type="as-char" {place}>'
        f'<draw:object xlink:href="./{office.OBJECT}" xlink:type="simple" xlink:show="embed"'
        ' xlink:actuate="onLoad"/></draw:frame></text:p>'
    )
    return Document("text", "", body, drawing.words(), least, max(pixels), (0.0, 0.0, 0.0, 0.0),
                    hand.random.choice(ASKS), figures.description(), drawing.xml())  # fmt: skip


class Graph:
    def __init__(
        self, hand: Hand, figures: Figures, width: float, height: float, least: float
    ) -> None:
        r = hand.random
        self.hand, self.figures, self.width, self.height = hand, figures, width, height
        self.points = least * r.uniform(1, 1.25)
        self.face = office.family(hand)[0]
        # A fine edge, so that the page is cut there and not at the ink within.
        self.ground = hand.color(215, 242) if hand.chance(0.5) else WHITE
        self.ink = BLACK if hand.chance(0.5) else hand.ink(self.ground, 140)
        self.colors = palette(hand, self.ground)
        self.pie = figures.kind == "pie"
        self.ticked = not figures.printed or hand.chance(0.4)
        self.step = figures.step or nice_step(figures.top)
        self.end = math.ceil(figures.top / self.step - 1e-9) * self.step
        if figures.printed:
            self.end += self.step  # room for the values above

    def words(self) -> list[str]:
        """All that must be on the page, word by word."""
        figures = self.figures
        said = [figures.title, *figures.labels]
        if len(figures.series) > 1:
            said += figures.series
        if figures.printed:
            said += [figures.shown(value) for row in figures.values for value in row]
        if self.ticked and not self.pie:
            said += [self._tick(i * self.step) for i in range(round(self.end / self.step) + 1)]
        return " ".join(said).split()

    def _tick(self, value: float) -> str:
        places = max(self.figures.decimals, 0 if self.step >= 1 else 1)
        return f"{self.figures.prefix}{value:.{places}f}{self.figures.unit}"

    def xml(self) -> str:
        figures, hand = self.figures, self.hand
        kind = CLASSES[figures.kind]
        legend = ""
        if self.pie or len(figures.series) > 1:
            place = hand.random.choice(("end", "end", "bottom", "top"))
            legend = f'<chart:legend chart:legend-position="{place}" chart:style-name="text"/>'
        count = len(figures.labels)
        series = "".join(
            f'<chart:series chart:style-name="s{i}" chart:class="chart:{kind}"'
            f' chart:values-cell-range-address="local-table.{col}2:.{col}{count + 1}"'
            f' chart:label-cell-address="local-table.{col}1">{self._points()}</chart:series>'
            for i, col in enumerate("BCDE"[: len(figures.series)])
        )
        grid = '<chart:grid chart:style-name="grid" chart:class="major"/>'
        grid = grid if not figures.printed or (self.ticked and hand.chance(0.6)) else ""
        return (
            f"<office:automatic-styles>{self._styles()}</office:automatic-styles>"
            f'<office:body><office:chart><chart:chart chart:class="chart:{kind}"'
            f' svg:width="{self.width:.1f}pt" svg:height="{self.height:.1f}pt"'
            ' chart:style-name="whole">'
            f'<chart:title chart:style-name="title"><text:p>{escape(figures.title)}</text:p>'
            f'</chart:title>{legend}<chart:plot-area chart:style-name="plot"'
            ' chart:data-source-has-labels="both">'
            '<chart:axis chart:dimension="x" chart:name="primary-x" chart:style-name="x">'
            f'<chart:categories table:cell-range-address="local-table.A2:.A{count + 1}"/>'
            '</chart:axis><chart:axis chart:dimension="y" chart:name="primary-y"'
            f' chart:style-name="y">{grid}</chart:axis>{series}'
            '<chart:wall chart:style-name="wall"/></chart:plot-area>'
            f"{self._table()}</chart:chart></office:chart></office:body>"
        )

    def _points(self) -> str:
        if not self.pie:
            return ""
        return "".join(
            f'<chart:data-point chart:style-name="p{i}"/>' for i in range(len(self.figures.labels))
        )

    def _styles(self) -> str:
        r, figures = self.hand.random, self.figures
        letters = (
            f"fo:font-family={quoteattr(self.face)} fo:font-size="
            f'"{self.points:.1f}pt" fo:color="{color_code(self.ink)}"'
        )
        text = f"<style:text-properties {letters}/>"
        larger = min(
            self.points * r.uniform(1.15, 1.6), self.width * 0.9 / len(figures.title) / 0.6
        )
        title = text.replace(f"{self.points:.1f}pt", f"{max(larger, self.points):.1f}pt")
        sideways = figures.kind == "bar" and self.hand.chance(0.25)
        plot = f'chart:vertical="{str(sideways).lower()}" chart:angle-offset="90"'
        x = 'chart:display-label="true" chart:text-overlap="false" style:rotation-angle="0"'
        if sideways:
            x += ' chart:reverse-direction="true"'
        x += f' chart:gap-width="{r.randint(40, 110)}" chart:overlap="0"'
        y = ""
        if not self.pie:  # its whole turn would be cut to the axis' end
            y = f'chart:minimum="0" chart:maximum="{self.end:g}"'
            y += f' chart:interval-major="{self.step:g}"'
        y += f' chart:display-label="{str(self.ticked).lower()}"'
        y += f' chart:gap-width="{r.randint(40, 110)}" chart:overlap="0"'
        edge = 'draw:stroke="solid" svg:stroke-width="0.8pt" svg:stroke-color="#c0c0c0"'
        fill = f'draw:fill="solid" draw:fill-color="{color_code(self.ground)}"'
        unseen = '<style:graphic-properties draw:stroke="none" draw:fill="none"/>'
        places = (
            ("whole", "", f"<style:graphic-properties {edge} {fill}/>", ""),
            ("title", "", "", title),
            ("text", "", "", text),
            ("plot", plot, unseen, ""),
            ("wall", "", unseen, ""),
            ("grid", "", f"<style:graphic-properties {edge}/>", ""),
            ("x", x, "", text),
            ("y", y, "", text),
        )
        styles = self._numbers()
        for name, properties, graphic, words in places:
            styles += _chart_style(name, properties, graphic + words, "V" if name == "y" else "")
        return styles + "".join(self._series(i, text) for i in range(8))

    def _series(self, i: int, text: str) -> str:
        figures, color = self.figures, color_code(self.colors[i])
        label = 'chart:symbol-type="automatic"' if figures.kind == "line" else ""
        if figures.printed:
            label += ' chart:data-label-number="value"'
            label += ' chart:label-position="outside"'
        look = f'draw:fill="solid" draw:fill-color="{color}" svg:stroke-color="{color}"'
        if figures.kind == "line":
            look += ' draw:stroke="solid" svg:stroke-width="2pt"'
        graphic = f"<style:graphic-properties {look}/>"
        return "".join(
            _chart_style(f"{name}{i}", label, graphic + text, "V") for name in ("s", "p")
        )

    def _numbers(self) -> str:
        """How values are written."""
        places = max(self.figures.decimals, 0 if self.step >= 1 else 1)
        number = (
            f'<number:number number:decimal-places="{places}" number:min-integer-digits="1"'
            f' number:min-decimal-places="{places}"/>'
        )
        around = [
            f"<number:text>{part}</number:text>" if part else ""
            for part in (self.figures.prefix, self.figures.unit)
        ]
        inner = f"{around[0]}{number}{around[1]}"
        return f'<number:number-style style:name="V">{inner}</number:number-style>'

    def _table(self) -> str:
        figures = self.figures
        head = "".join(map(_words, ("", *figures.series)))
        rows = ""
        for label, *values in zip(figures.labels, *figures.values, strict=True):
            rows += f"<table:table-row>{_words(label)}{''.join(map(_value, values))}"
            rows += "</table:table-row>"
        count = len(figures.series)
        return (
            '<table:table table:name="local-table"><table:table-header-columns>'
            "<table:table-column/></table:table-header-columns><table:table-columns>"
            f'<table:table-column table:number-columns-repeated="{count}"/></table:table-columns>'
            f"<table:table-header-rows><table:table-row>{head}</table:table-row>"
            f"</table:table-header-rows><table:table-rows>{rows}</table:table-rows></table:table>"
        )


def _words(words: str) -> str:
    return (
        f'<table:table-cell office:value-type="string"><text:p>{escape(words)}</text:p>'
        "</table:table-cell>"
    )


def _value(value: float) -> str:
    return (
        f'<table:table-cell office:value-type="float" office:value="{value:g}">'
        f"<text:p>{value:g}</text:p></table:table-cell>"
    )


def _chart_style(name: str, properties: str, inner: str, numbers: str) -> str:
    data = f' style:data-style-name="{numbers}"' if numbers else ""
    return (
        f'<style:style style:name="{name}" style:family="chart"{data}>'
        f'<style:chart-properties chart:link-data-style-to-source="false" {properties}/>{inner}'
        "</style:style>"
    )
