"""A second question on a picture after a restart, from a cache on disk: seconds to its first token.

    python benchmarks/disk_cache.py FOLDER [ROUNDS]

FOLDER is a model's, such as `phisight quantize` writes. One process asks a first question on a
picture at 4 crops and leaves the cache; then ROUNDS processes each load the model, ask a second one
and, in memory, a third. Loading is not part of the seconds to the first token.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image
from record import record, spread

import phisight

CHART = Path(__file__).parents[1] / "examples" / "chart.png"
QUESTIONS = (
    "Which of the values is the highest?",
    "In which year was it the lowest one?",
    "What does the title say it is about?",
)


def ask(folder: str, cache_dir: str, asked: list[str]) -> None:
    """In a process of its own: print what loading and each question took, as JSON."""
    began = time.perf_counter()
    model = phisight.load(folder, num_crops=4, cache_dir=cache_dir)
    told: dict[str, object] = {"load": time.perf_counter() - began, "answers": []}
    with Image.open(CHART) as opened:
        picture = opened.convert("RGB")
    for question in asked:
        began = time.perf_counter()
        stream = model.stream(question, [picture], max_tokens=1, ignore_eos=True)
        answer = stream.finish()
        first = time.perf_counter() - began
        usage = answer.usage
        told["answers"].append(  # type: ignore[attr-defined]
            (first, answer.timings.vision, usage.prompt_tokens, usage.cached_tokens)
        )
    print(json.dumps(told))


def asked_anew(folder: str, cache_dir: str, asked: list[str]) -> dict[str, object]:
    command = [sys.executable, __file__, "--ask", folder, cache_dir, *asked]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def main() -> None:
    if sys.argv[1] == "--ask":
        ask(sys.argv[2], sys.argv[3], sys.argv[4:])
        return
    folder, rounds = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 3
    with tempfile.TemporaryDirectory() as cache_dir:
        began = time.perf_counter()
        cold = asked_anew(folder, cache_dir, [QUESTIONS[0]])
        whole = time.perf_counter() - began
        size = sum(path.stat().st_size for path in Path(cache_dir).rglob("*.safetensors"))
        warm = [asked_anew(folder, cache_dir, list(QUESTIONS[1:])) for _ in range(rounds)]
    seconds = [[run["answers"][place][0] for run in warm] for place in (0, 1)]  # type: ignore[index]
    (_, vision, prompt, cached) = warm[0]["answers"][0]  # type: ignore[index]
    record(
        "disk_cache",
        model=Path(folder).name,
        cold_first_token_s=round(cold["answers"][0][0], 2),  # type: ignore[index]
        cold_process_s=round(whole, 2),
        load_s=spread([run["load"] for run in warm]),  # type: ignore[misc]
        after_restart_first_token_s=spread(seconds[0]),
        in_memory_first_token_s=spread(seconds[1]),
        prompt_tokens=prompt,
        read_again=prompt - cached,
        read_again_in_memory=warm[0]["answers"][1][2] - warm[0]["answers"][1][3],  # type: ignore[index]
        vision_s=vision,
        stored_mb=round(size / 1e6, 1),
        bar="from disk at most 2 s, in memory 0.8 s",
    )


if __name__ == "__main__":
    main()
