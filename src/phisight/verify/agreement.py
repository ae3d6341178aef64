"""float32 and bfloat16 side by side: the same prompts and answers, read by both.

Owns the comparison of logits; one network is in memory at a time, the other's logits wait on the
CPU. Knows nothing of files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from phisight.api import Model
from phisight.model.decoder import causal_attend
from phisight.verify.answers import Transcript
from phisight.verify.report import Agreement, Finding, Status, worst

DTYPES = ("float32", "bfloat16")
_MOST_TOKENS = 64  # of each answer
_LOW = 0.9  # share of equal tokens below which the report says so
# Below it something is wrong: random weights, the least sure of all, agree at 0.93 and above.
_BROKEN = 0.5

Logits = dict[str, Tensor]  # by picture: (tokens, V) float32 on the CPU


@torch.inference_mode()
def read_along(model: Model, transcripts: Sequence[Transcript]) -> Logits:
    """The logits that pick each of an answer's first tokens, by recomputing all of it at once."""
    network, rope = model.network, model.network.rope()
    logits = {}
    for script in transcripts:
        answer = script.token_ids[:_MOST_TOKENS]
        ids = [*script.prompt.ids, *answer[:-1]]
        images = [model.encode_image(image) for image in script.prompt.images]
        x = network.embed(ids, images)  # (T, D)
        rotation = rope.rotation(0, len(ids), length=len(ids), dtype=x.dtype)
        hidden = network(x, rotation, causal_attend)[-len(answer) :]
        logits[script.picture] = network.logits(hidden).cpu()
    return logits


def compare(
    by_dtype: Mapping[str, Logits], spoken: str, transcripts: Sequence[Transcript]
) -> tuple[Finding, list[Agreement]]:
    """Both dtypes' logits, picture by picture; `spoken` is the dtype that wrote the answers."""
    rows, broken = [], []
    for script in transcripts:
        wide, narrow = (by_dtype[dtype][script.picture] for dtype in DTYPES)
        written = torch.tensor(script.token_ids[:_MOST_TOKENS])
        rewritten = int((by_dtype[spoken][script.picture].argmax(-1) == written).sum())
        rows.append(_agreement(script.picture, wide, narrow, rewritten))
        for dtype, logits in zip(DTYPES, (wide, narrow), strict=True):
            if not bool(logits.isfinite().all()):
                broken.append(f"{script.picture} in {dtype}")
    if broken:
        fault = f"logits are NaN or infinite ({', '.join(broken)}): the weights are damaged"
        return Finding("dtypes", Status.FAULT, fault), rows
    return _judged(rows), rows


def _agreement(picture: str, wide: Tensor, narrow: Tensor, rewritten: int) -> Agreement:
    same = wide.argmax(-1) == narrow.argmax(-1)  # (tokens,)
    difference = (wide - narrow).abs()
    first = None if bool(same.all()) else int((~same).nonzero()[0])
    margin = None
    if first is not None:
        best, second = wide[first].topk(2).values.tolist()
        margin = _rounded(best - second, 5)
    return Agreement(
        picture=picture,
        num_tokens=len(wide),
        same_top1=round(float(same.float().mean()), 4),
        largest_difference=_rounded(float(difference.max()), 5),
        mean_difference=_rounded(float(difference.mean()), 6),
        first_difference=first,
        margin=margin,
        rewritten=rewritten,
    )


def _rounded(value: float, digits: int) -> float | None:
    """None for NaN and infinity: JSON has neither."""
    return round(value, digits) if math.isfinite(value) else None


def _judged(rows: Sequence[Agreement]) -> Finding:
    total = sum(row.num_tokens for row in rows)
    same = sum(round(row.same_top1 * row.num_tokens) for row in rows)
    largest = max(row.largest_difference or 0.0 for row in rows)
    message = (
        f"float32 and bfloat16 pick the same token {same} of {total} times; "
        f"logits differ by at most {largest:.3g}"
    )
    rewritten = sum(row.rewritten for row in rows)
    faults = []
    if same < _BROKEN * total:
        faults.append(message)
    if rewritten < _BROKEN * total:
        faults.append(
            f"recomputing an answer gives the token that was written only {rewritten} of {total} "
            "times: generation and reading do not agree here"
        )
    return worst("dtypes", faults, [message] if same < _LOW * total else [], message)
