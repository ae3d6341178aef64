"""The evaluation of one model in several packings: the same pictures, paired answer by answer.

    python training/packings.py nano --materials .materials --first 0 --count 40 --out results.json

Rows, pictures, questions and scores are `evaluate.py`'s. What does not differ is done once: a
picture is encoded by the model as it is, since the vision tower is not packed, and every packing
is asked with what that gave; but those that round their inputs, and so its too, encode their own.
The right answer stands as a guess of what comes next, which changes
no answer (a guess counts only where it is what the model would have written) and spares most steps.
Run again with another --first it adds to the file; pictures there already are not asked again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import evaluate
import phisight
from phisight.model.phi3v import EncodedImage
from phisight.processing.processor import Prompt

PACKINGS: dict[str, tuple[str | None, str | None]] = {  # weights and activations
    "bfloat16": (None, None),
    "int8": ("int8", None),
    "int4": ("int4", None),
    "int8 rounded": ("int8", "int8"),
    "int4 rounded": ("int4", "int8"),
}
CHUNK = 4096  # tokens: a prompt at once


class Packing:
    """A model as loaded, and the right answers it is to be tried with."""

    def __init__(self, name: str, weights: str | None, activations: str | None) -> None:
        # Several of them: what fits every prompt of a row is enough for each.
        self.model = phisight.load(
            name,
            weights=weights,
            activations=activations,
            max_batch=64,
            chunk_tokens=CHUNK,
            kv_memory=1.0,
        )
        self.encodes = activations is not None
        self._likely: dict[tuple[int, ...], list[int]] = {}
        engine = self.model._loop._engine
        engine.scheduler._guess = self._guess

    def ask(
        self, prompts: Sequence[Prompt], images: Sequence[list[EncodedImage]], rights: Sequence[str]
    ) -> list[str]:
        tokenizer, mark = self.model.processor.tokenizer, self.model.network.mark
        end = tokenizer.encode("<|end|>")[-1]
        self._likely = {
            p.ids: [*tokenizer.encode_plain(right), end]
            for p, right in zip(prompts, rights, strict=True)
        }
        if self.encodes:
            images = [[self.model.encode_image(image) for image in p.images] for p in prompts]
        own = [
            Prompt(p.ids, tuple(EncodedImage(i.features, mark, i.key) for i in encoded))
            for p, encoded in zip(prompts, images, strict=True)
        ]
        rows = [{"prompt": p, "max_tokens": evaluate.LONGEST} for p in own]
        return [answer.text for answer in self.model.ask_many(rows)]

    def _guess(self, sequence) -> tuple[int, ...]:  # type: ignore[no-untyped-def]
        ids = self._likely[tuple(sequence.ids[: sequence.num_prompt])]
        written = sequence.ids[sequence.num_prompt :]
        most = self.model._loop._engine._jobs[sequence.request_id].most_guesses
        return tuple(ids[len(written) :][:most]) if ids[: len(written)] == written else ()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", help="the first encodes the pictures for all")
    parser.add_argument("--materials", type=Path, required=True)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=480, help="begin no row after so many")
    parser.add_argument(
        "--packings", nargs="*", choices=list(PACKINGS), default=["bfloat16", "int8", "int4"]
    )
    parser.add_argument(
        "--rows", nargs="*", choices=list(evaluate.ROWS), default=list(evaluate.ROWS)
    )
    options = parser.parse_args()
    began = time.perf_counter()
    packings = {
        f"{Path(name).name} {packing}": Packing(name, *PACKINGS[packing])
        for name in options.models
        for packing in options.packings
    }
    first = next(iter(packings.values())).model
    report = json.loads(options.out.read_text()) if options.out.exists() else {}
    for row in options.rows:
        done = report.setdefault(row, {})
        last = options.first + options.count
        asked = list(enumerate(evaluate.cases(options.materials, row, last)))[options.first : last]
        asked = [(number, case) for number, case in asked if str(number) not in done]
        if not asked or time.perf_counter() - began > options.seconds:
            continue
        started = time.perf_counter()
        cases = [case for _, case in asked]
        prompts = [first.processor.prompt(case.prompt, case.images) for case in cases]
        images = [[first.encode_image(image) for image in prompt.images] for prompt in prompts]
        took = {"encoding": round(time.perf_counter() - started, 1)}
        rights = [case.right for case in cases]
        for name, packing in packings.items():
            started = time.perf_counter()
            texts = packing.ask(prompts, images, rights)
            took[name] = round(time.perf_counter() - started, 1)
            for (number, case), text in zip(asked, texts, strict=True):
                entry = done.setdefault(str(number), {})
                entry[name] = evaluate.ROWS[row].score(text, case.right)
        options.out.write_text(json.dumps(report))
        print(row, len(asked), took, flush=True)
    for row, done in report.items():
        means = (
            f"{name} {sum(entry[name] for entry in done.values()) / len(done):.2%}"
            for name in packings
        )
        if done:
            print(f"{row:26} {len(done):4} pictures: {', '.join(means)}")


if __name__ == "__main__":
    main()
