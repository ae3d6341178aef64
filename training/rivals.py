"""How two OCR programs read the text pictures that `evaluate.py` asks a model about.

    python training/rivals.py --materials .materials --out rivals.json

Needs tesseract 5 on the path (Debian: tesseract-ocr) and, from PyPI, rapidocr with onnxruntime.
Each is given what it does best with: tesseract pictures of at least 1,400 pixels, as one block or
as scattered text, whichever errs less on a row; RapidOCR its own scaling, its boxes put into lines.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from evaluate import cases, distance

ROWS = ("lines", "lines *", "paragraphs", "paragraphs *", "receipts, signs, screens")
LONG_SIDE = 1400  # pixels, for tesseract: its letters should be some 30 pixels high
LAYOUTS = {"one block": "6", "scattered": "11"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--materials", type=Path, required=True)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    read_boxes = Boxes()
    report: dict[str, dict[str, float]] = {}
    for name in ROWS:
        rates: dict[str, list[float]] = {}
        for case in cases(options.materials, name, options.count):
            image = case.images[0]
            picture = image if isinstance(image, Image.Image) else Image.open(image).convert("RGB")
            read = {f"tesseract, {layout}": tesseract(picture, mode)
                    for layout, mode in LAYOUTS.items()}  # fmt: skip
            read["RapidOCR"] = read_boxes(picture)
            for program, text in read.items():
                rates.setdefault(program, []).append(error_rate(text, case.right))
        means = {program: sum(values) / len(values) for program, values in rates.items()}
        best = min(means[f"tesseract, {layout}"] for layout in LAYOUTS)
        report[name] = {"tesseract": round(best, 4), "RapidOCR": round(means["RapidOCR"], 4),
                        **{program: round(mean, 4) for program, mean in means.items()}}  # fmt: skip
        print(name, report[name], flush=True)
    options.out.write_text(json.dumps(report, indent=1))


def error_rate(text: str, right: str) -> float:
    """Edits over the right text's length, at most 1; runs of blanks count as one."""
    lines = (re.sub(r"\s+", " ", line).strip() for line in text.splitlines())
    return min(1.0, distance("\n".join(line for line in lines if line), right) / len(right))


def tesseract(picture: Image.Image, mode: str) -> str:
    scale = max(1.0, LONG_SIDE / max(picture.size))
    size = (round(picture.width * scale), round(picture.height * scale))
    stream = io.BytesIO()
    picture.resize(size, Image.Resampling.BICUBIC).save(stream, "PNG")
    command = ["tesseract", "stdin", "stdout", "--psm", mode, "-l", "eng"]
    done = subprocess.run(command, input=stream.getvalue(), capture_output=True, check=True)
    return done.stdout.decode()


class Boxes:
    """RapidOCR, and its boxes as lines of text."""

    def __init__(self) -> None:
        from rapidocr import RapidOCR  # no type stubs, and its import takes a second

        logging.getLogger("RapidOCR").setLevel(logging.ERROR)
        self._engine: Any = RapidOCR()

    def __call__(self, picture: Image.Image) -> str:
        found = self._engine(np.asarray(picture)[..., ::-1])
        if found.boxes is None:
            return ""
        places = [(box[:, 1].min(), box[:, 1].max(), box[:, 0].min()) for box in found.boxes]
        lines: list[list[tuple[float, float, float, str]]] = []
        for (top, bottom, left), text in sorted(zip(places, found.txts, strict=True)):
            last = lines[-1] if lines else None
            if last and (top + bottom) / 2 < last[0][1]:  # its middle above the line's bottom
                last.append((top, bottom, left, text))
            else:
                lines.append([(top, bottom, left, text)])
        return "\n".join(
            " ".join(text for *_, text in sorted(line, key=lambda box: box[2])) for line in lines
        )


if __name__ == "__main__":
    main()
