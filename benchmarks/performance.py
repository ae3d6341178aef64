"""docs/performance.md from benchmarks/results: the newest line of each measurement.

Run by report.py; plots.py draws.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE, PLOTS = ROOT / "docs" / "performance.md", ROOT / "docs" / "performance"
Line = dict[str, Any]

HEAD = """# Performance

Made by `benchmarks/report.py` from `benchmarks/results`: the newest line of each measurement, rows
that lose among them. A ceiling is what the same machine reached in the same run: bytes that a step
must read over the rate of a large copy, multiply-adds over the rate of a large product. What was
tried and lost is in [log.md](log.md). `random` is the published size, 4.1 billion parameters in
bfloat16, with random weights; `nano` is the bundled model.
"""


def lines(name: str) -> list[Line]:
    path = ROOT / "benchmarks" / "results" / f"{name}.jsonl"
    return [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []


def newest(name: str, *keys: str, **match: Any) -> list[Line]:
    """The newest line of each combination of some keys, in order of appearance; only those that
    have what is to match."""
    found: dict[tuple[Any, ...], Line] = {}
    for line in lines(name):
        if all(line.get(key) == value for key, value in match.items()):
            found[tuple(str(line.get(key)) for key in keys)] = line
    return list(found.values())


def table(head: list[str], rows: list[list[Any]]) -> str:
    cells = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(map(str, row))} |\n" for row in cells)


def where(line: Line) -> str:
    return f"{line['device']}, torch {line['torch']}, {line['date']}, `{line['commit']}`"


def places(found: list[Line]) -> str:
    return " and ".join(dict.fromkeys(where(line) for line in found))


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def milliseconds(seconds: dict[str, Any]) -> str:
    low, middle, high = (1000 * seconds[key] for key in ("min", "p50", "max"))
    return f"{middle:.1f} ({low:.1f}–{high:.1f})"


def decode() -> str:
    found = newest("latency", "batch", "format", what="decode")
    rows = [
        [
            line["batch"],
            line.get("format") or "bfloat16",
            line["context"],
            line["tok_per_s"],
            line["ceiling_tok_per_s"],
            percent(line["share"]),
        ]
        for line in sorted(found, key=lambda line: (line.get("format") or "", line["batch"]))
    ]
    head = ["requests", "weights", "tokens before", "tokens/s", "ceiling", "share"]
    firsts = newest("latency", what="first token, one picture of 16 crops, beyond preparation")
    ways = {"cold_s": "nothing known", "embedding_cached_s": "picture encoded before"}
    ways |= {"prefix_cached_s": "picture read before"}
    times = [[way, milliseconds(firsts[-1][key])] for key, way in ways.items()]
    return (
        "\n## One GPU, the published size\n\nDecoding, through the public API, "
        "with fused steps, median:\n\n"
        + table(head, rows)
        + f"\nOn {places(found)}.\n\n![Tokens a second by requests](performance/decode.svg)\n\n"
        + "First token of one picture of 16 crops, beyond opening it, "
        "in milliseconds:\n\n"
        + table(["", "median (least–most)"], times)
        + f"\nOn {where(firsts[-1])}.\n"
    )


def steps(line: Line) -> str:
    return "fused" if line["fused"] else "by the modules"


def model_of(line: Line) -> str:
    """With how its steps ran, where that is a choice."""
    return line["model"] if "+cpu" in line["torch"] else f"{line['model']}, {steps(line)}"


def throughput() -> str:
    text = ""
    for line in newest("throughput_cuda"):
        rows = [
            [load, count, f["s"], f["tok_per_s"], f["least_s"], f["over_least"]]
            for load, by_count in line["loads"].items()
            for count, f in by_count.items()
        ]
        head = ["load", "requests", "s", "tokens/s", "least s", "times the least"]
        peer = [
            [count, f["tok_per_s"], round(f["first_two_s"], 3)]
            for count, f in line["transformers"].items()
        ]
        text += (
            f"\nAll at once, steps {steps(line)}, {line['tokens_each']} tokens each, "
            f"{line['prompt_tokens']} before them with a picture; the least is the sum of vision, "
            "reading and decoding at their ceilings:\n\n"
            + table(head, rows)
            + "\n![Tokens a second by load](performance/throughput.svg)\n\n"
            + "transformers' own Phi3 of the same size, prompts of as many tokens, same run:\n\n"
            + table(["requests", "decoding, tokens/s", "first two tokens, s"], peer)
            + f"\nOn {where(line)}.\n"
        )
    return text


def vision() -> str:
    text = "\n## Vision\n\nCrops of several pictures in one batch, beside transformers' CLIP:\n\n"
    rows, on = [], []
    for line in newest("vision", "model"):
        on.append(f"{line['model']}: {where(line)}, {line['gemm_tflop_per_s']} TFLOP/s")
        rows += [
            [
                line["model"],
                f["crops"],
                round(1000 * f["ours_s"], 2),
                percent(f["share_of_gemm"]),
                round(1000 * f["transformers_clip_s"], 2),
                f["ours_over_clip"],
            ]
            for f in line["pictures"].values()
        ]
    head = ["model", "crops", "ms", "share of the product's rate", "CLIP, ms", "ours / CLIP"]
    return text + table(head, rows) + f"\n{'; '.join(on)}.\n" if rows else ""


def generate() -> str:
    rows, on = [], []
    for line in newest("hf_generate", "model", "fused"):
        if "asked_directly" not in line:
            continue  # before there were two ways
        named = model_of(line)
        on.append(f"{named}: {where(line)}, transformers {line['transformers']}")
        for key, way in (
            ("engine_batch_1", "the engine"),
            ("transformers_batch_1", "transformers"),
            ("engine_batch_8", "the engine, 8 rows"),
            ("transformers_batch_8", "transformers, 8 rows"),
            ("asked_directly", "`phisight.load`"),
        ):
            if key not in line:
                continue
            f = line[key]
            rows.append([named, way, f["decode_tok_per_s"], milliseconds(f["first_token_s"])])
    head = ["model", "answered by", "decoding, tokens/s", "first token, ms"]
    intro = (
        "\n## `generate` of transformers\n\nOne picture a row, greedy, one call after another:\n\n"
    )
    return intro + table(head, rows) + f"\n{'; '.join(on)}.\n" if rows else ""


def startup() -> str:
    rows, on = [], []
    for line in newest("startup", "model", "fused"):
        parts = {k: v for k, v in line.items() if isinstance(v, dict) and k != "all_s"}
        spelled = ", ".join(
            f"{key.removesuffix('_s').replace('_', ' ')} {f['p50']:.2f}" for key, f in parts.items()
        )
        kind = model_of(line)
        share = percent(line["share_of_read_rate"])
        rows.append([kind, line["all_s"]["p50"], line["first_start_s"], spelled, share])
        on.append(f"{kind}: {where(line)}, files read at {line['read_gb_per_s']} GB/s")
    head = ["model", "s", "the first time", "of which, s", "weights, share of the read rate"]
    intro = (
        "\n## Start-up\n\nFrom the start of a process to the first token of an answer about a "
        "picture, weights in the page cache, median:\n\n"
    )
    return intro + table(head, rows) + f"\n{'; '.join(on)}.\n" if rows else ""


def is_ours(line: Line) -> bool:
    return str(line["engine"]).startswith("phisight")


def cpu_runs() -> list[list[Line]]:
    """The newest run beside other programs, and the newest of all if that is another: one machine's
    figures say nothing beside another's."""
    runs: dict[str, list[Line]] = {}
    for line in lines("decoder_cpu"):
        runs.setdefault(where(line), []).append(line)
    beside = [run for run in runs.values() if not all(map(is_ours, run))]
    newest_of_all = list(runs.values())[-1]
    return beside[-1:] + ([] if beside[-1:] == [newest_of_all] else [newest_of_all])


def cpu() -> str:
    text = "\n## CPU, the published size\n\nTwo threads, shared machines: median (least–most).\n"
    head = ["", "decoding, tokens/s", "reading a prompt of, tokens/s", "load, s", "peak, GiB"]
    for run in cpu_runs():
        rows = []
        for line in run:
            decoded = line["decode_tok_per_s"]
            for count, f in line["prefill_tok_per_s"].items():
                rows.append(
                    [
                        line["engine"],
                        f"{decoded['p50']} ({decoded['min']}–{decoded['max']})",
                        f"{count}: {f['p50']} ({f['min']}–{f['max']})",
                        line["load_s"]["p50"],
                        line["peak_gib"]["p50"],
                    ]
                )
        text += f"\n{table(head, rows)}\nOn {places(run)}.\n"
    return text + "\n![Decoding on a CPU, beside other programs](performance/cpu.svg)\n"


SECTIONS: tuple[Callable[[], str], ...] = (decode, throughput, vision, generate, startup, cpu)


def page() -> str:
    return HEAD + "".join(section() for section in SECTIONS)
