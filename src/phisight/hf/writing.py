"""A call of `generate` through the engine: transformers' rows in, its columns of tokens out.

Owns how the engine's answers, each of its own length and pace, become what transformers' loop would
have made of them: padding after a row's end, criteria and streamer called once for every column.

Dimensions: B rows, T tokens of a padded prompt, D hidden size.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from transformers import EosTokenCriteria, MaxLengthCriteria, StoppingCriteria, StoppingCriteriaList

from phisight.engine.engine import Engine
from phisight.engine.request import Request
from phisight.hf.eligible import Call, penalized_ids, row_lengths, sampling_of
from phisight.model.phi3v import EncodedImage
from phisight.params import sampling_params


class EndOfContext(StoppingCriteria):
    """Ends every row at the most tokens there are positions for."""

    def __init__(self, max_positions: int) -> None:
        self.max_positions = max_positions

    def __call__(self, input_ids: Tensor, scores: object, **kwargs: object) -> Tensor:
        full = input_ids.shape[1] >= self.max_positions
        return torch.full(input_ids.shape[:1], full, device=input_ids.device)


def requests_of(call: Call) -> list[Request]:
    """One request a row. Raises NotEligibleError.

    Where there are embeddings, they are the prompt: one picture that is all of it. Seeds come last,
    in `write`: a call that transformers is to answer finds torch's generator as it was.
    """
    options, lengths = sampling_of(call), row_lengths(call)
    width = call.input_ids.shape[1]
    rows: list[list[int]] = call.input_ids.tolist()
    ends = {
        i for c in call.criteria if type(c) is EosTokenCriteria for i in c.eos_token_id.tolist()
    }
    embedded = call.inputs.get("inputs_embeds")  # (B, T, D)
    most, requests = most_tokens(call), []
    penalized = penalized_ids(call, lengths)
    params = sampling_params(options, {"max_tokens": most})
    for row, (ids, length) in enumerate(zip(rows, lengths, strict=True)):
        images = []
        prompt = ids[width - length :]
        if embedded is not None:
            images = [EncodedImage(embedded[row, width - length :], key=os.urandom(16))]
            prompt = [-1] * length
        requests.append(Request(prompt, images, params, frozenset(ends), None, penalized[row]))
    return requests


def most_tokens(call: Call) -> int:
    """Columns that may be written: all rows end with the padded width, as in transformers."""
    limits = [c.max_length for c in call.criteria if type(c) is MaxLengthCriteria]
    limits += [c.max_positions for c in call.criteria if type(c) is EndOfContext]
    return max(1, min(limits) - call.input_ids.shape[1])


def write(engine: Engine, requests: Sequence[Request], call: Call) -> Tensor:
    """(B, T + new) ids. Whatever happens, the engine holds nothing of the call afterwards."""
    tokens: dict[int, list[int]] = {}
    going: set[int] = set()  # whose tokens are still to come
    known = (EosTokenCriteria, MaxLengthCriteria, EndOfContext)
    asked = StoppingCriteriaList(c for c in call.criteria if type(c) not in known)
    ids, columns = call.input_ids, list[Tensor]()
    over: set[int] = set()
    try:
        for request in _seeded(requests) if call.config.do_sample else requests:
            row = engine.add(request)
            going.add(row)
            tokens[row] = []
        rows = list(tokens)
        pads = any(hasattr(c, "eos_token_id") for c in call.criteria)
        pad = int(call.config._pad_token_tensor) if pads else 0
        while len(over) < len(rows):
            column = len(columns)
            while any(row in going and len(tokens[row]) == column for row in rows):
                _step(engine, tokens, going)
            new = [tokens[row][column] if row not in over or not pads else pad for row in rows]
            over.update(row for row in rows if row not in going and len(tokens[row]) == column + 1)
            columns.append(torch.tensor(new, device=ids.device, dtype=ids.dtype))
            if asked:
                whole = torch.cat([ids, torch.stack(columns, 1)], dim=1)
                stopped = asked(whole, None).expand(len(rows)).tolist()
                over.update(row for row, stop in zip(rows, stopped, strict=True) if stop)
                if pads:  # else a row is written on until the last one ends, and no row is padded
                    for row in over & going:
                        engine.abort(row)
                        going.discard(row)
            if call.streamer is not None:
                call.streamer.put(torch.tensor(new))
    finally:
        for row in going:
            engine.abort(row)
    if call.streamer is not None:
        call.streamer.end()
    return torch.cat([ids, torch.stack(columns, 1)], dim=1)


def _seeded(requests: Sequence[Request]) -> list[Request]:
    """Seeds are drawn from torch's generator on the CPU, so that `torch.manual_seed` repeats the
    answers."""
    seeds = torch.randint(2**32, (len(requests),)).tolist()
    return [
        replace(request, params=replace(request.params, seed=seed))
        for request, seed in zip(requests, seeds, strict=True)
    ]


def _step(engine: Engine, tokens: dict[int, list[int]], going: set[int]) -> None:
    for output in engine.step():
        if output.is_last:
            going.discard(output.request_id)
        if isinstance(output.result, Exception):
            raise output.result
        tokens[output.request_id].append(output.result.token_id)
