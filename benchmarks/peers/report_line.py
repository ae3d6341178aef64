"""What every peer measures, and how it tells: one JSON line, the last that it prints.

Imports nothing that a peer's environment may lack.
"""

from __future__ import annotations

import json
import resource
import statistics

PROMPTS = [772, 2529]  # a picture of 4 crops or 16, and a question
CONTEXT = 800  # of which NEW_TOKENS are written, one at a time
NEW_TOKENS = 48


def report(loaded: float, prefill: dict[int, float], steps: list[float], *, note: str) -> None:
    """Seconds: of loading, of reading each prompt, of writing each token."""
    line = {
        "load_s": loaded,
        "prefill_tok_per_s": {prompt: prompt / seconds for prompt, seconds in prefill.items()},
        "decode_tok_per_s": 1 / statistics.median(steps),
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "note": note,
    }
    print(json.dumps(line), flush=True)
