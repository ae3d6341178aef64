"""The plots of docs/performance.md, small SVG files, by matplotlib: nothing else here needs it."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from performance import PLOTS, cpu_runs, is_ours, newest

mpl.use("svg")
mpl.rcParams |= {"svg.hashsalt": "phisight", "svg.fonttype": "none"}  # the same file each time
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402

OURS, LIMIT, THEIRS, OTHER = "#1f5fa8", "#9aa4ae", "#c2571a", "#5b8c3a"


def draw() -> None:
    PLOTS.mkdir(exist_ok=True)
    decode(PLOTS / "decode.svg")
    throughput(PLOTS / "throughput.svg")
    cpu(PLOTS / "cpu.svg")


def _axes(width: float = 6.0, height: float = 3.2) -> Axes:
    _, axes = plt.subplots(figsize=(width, height), layout="constrained")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    return axes


def _save(path: Path) -> None:
    plt.savefig(path, metadata={"Date": None, "Creator": None})
    plt.close()


def _by_requests(axes: Axes, counts: list[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.minorticks_off()
    axes.set_xlabel("requests at once")
    axes.set_ylabel("tokens a second, together")
    axes.legend(frameon=False)


def decode(path: Path) -> None:
    found = [f for f in newest("latency", "batch", "format", what="decode") if not f.get("format")]
    found.sort(key=lambda line: line["batch"])
    counts = [line["batch"] for line in found]
    axes = _axes()
    ceilings = [line["ceiling_tok_per_s"] for line in found]
    axes.plot(
        counts, ceilings, "--", color=LIMIT, marker="o", label="ceiling: bytes over copy rate"
    )
    axes.plot(counts, [f["tok_per_s"] for f in found], color=OURS, marker="o", label="phisight")
    for line in newest("throughput_cuda")[-1:]:
        peer = {int(n): f["tok_per_s"] for n, f in line["transformers"].items() if n.isdigit()}
        axes.plot(list(peer), list(peer.values()), color=THEIRS, marker="s", label="transformers")
    axes.set_title(f"Decoding after {found[0]['context']:,} tokens, {found[0]['device']}", size=10)
    _by_requests(axes, counts)
    axes.set_ylim(bottom=0)
    _save(path)


def throughput(path: Path) -> None:
    for line in newest("throughput_cuda")[-1:]:
        axes = _axes()
        counts: list[int] = []
        for (load, by_count), color in zip(
            line["loads"].items(), (OTHER, OURS, THEIRS), strict=True
        ):
            counts = [int(count) for count in by_count]
            rates = [f["tok_per_s"] for f in by_count.values()]
            least = [f["tok_per_s"] * f["over_least"] for f in by_count.values()]
            axes.plot(counts, rates, color=color, marker="o", label=load)
            axes.plot(counts, least, "--", color=color, linewidth=0.8, label=f"{load}: ceiling")
        axes.set_title(f"Whole answers of {line['tokens_each']} tokens, {line['device']}", size=10)
        axes.set_yscale("log")
        _by_requests(axes, counts)
        axes.legend(frameon=False, fontsize=7, ncols=3)
        _save(path)


def cpu(path: Path) -> None:
    run = cpu_runs()[0]
    most = max(line["rounds"] for line in run)  # a longer prompt is read in fewer
    found = [line for line in run if line["rounds"] == most]
    axes = _axes(height=0.7 + 0.5 * len(found))
    for place, line in enumerate(reversed(found)):
        rate = line["decode_tok_per_s"]
        color = OURS if is_ours(line) else LIMIT
        axes.barh(place, rate["p50"], color=color, height=0.55)
        axes.plot([rate["min"], rate["max"]], [place, place], color="#333333", linewidth=1.2)
        axes.annotate(
            f"{rate['p50']:.1f}",
            (0.08, place),
            va="center",
            color="white" if color == OURS else "black",
            size=9,
        )
    axes.set_yticks(range(len(found)), [line["engine"] for line in reversed(found)])
    axes.grid(visible=False)
    axes.set_xlabel("tokens a second (line: least to most)")
    _save(path)


if __name__ == "__main__":
    draw()
