"""Random mixes of requests for the engine's law, each by its seed, and what they must give.

`python tests/law.py FIRST COUNT` runs as many as one likes and says which seeds fail.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import micro
import torch
from naive import last_logits

from phisight.engine.capacity import CacheShape
from phisight.engine.engine import Engine
from phisight.engine.request import Request, Token
from phisight.engine.sampling import Pick, Sampler, pick
from phisight.model.phi3v import Crops, EncodedImage, Phi3V
from phisight.params import EngineConfig, SamplingParams

REACH = 40  # original maximum of the short RoPE factors


def few_tokens(model: Phi3V) -> Phi3V:
    """The model with a vision tower that gives a few tokens, drawn by what a picture shows."""

    def encode_images(pictures: Sequence[Crops], saw: object = None) -> list[EncodedImage]:
        return [EncodedImage(_features(model, crops), model.mark, crops.key) for crops in pictures]

    model.encode_images = encode_images  # type: ignore[method-assign]
    return model


def _features(model: Phi3V, crops: Crops) -> torch.Tensor:
    generator = torch.Generator().manual_seed(int(crops.pixels.sum()))
    size = (crops.num_tokens, model.config.hidden_size)
    return torch.randn(size, generator=generator, dtype=torch.float64)


@dataclass
class Case:
    """A request, the step it comes at, and the one at which nobody waits for it any more."""

    request: Request
    arrives: int
    leaves: int | None
    tokens: list[int] = field(default_factory=list)
    finished: bool = False


def pictures(rng: random.Random) -> list[Crops]:
    """Of different crops and token counts; no two alike."""
    made = []
    for number in range(4):
        num_crops = rng.choice([2, 5, 17])
        pixels = torch.full((num_crops, 1), float(number + 1))
        key = bytes([number, num_crops])
        made.append(Crops(pixels, 1, num_crops - 1, rng.randrange(1, 9), key))
    return made


def requests(rng: random.Random) -> list[Request]:
    """1 to 12 that share beginnings and pictures, most around the border of the RoPE factors."""
    alphabet = rng.choice([2, 5, 256])  # few letters repeat, so that guesses come true
    shown = pictures(rng)
    openings = [rng.choices(range(alphabet), k=rng.randrange(40)) for _ in range(3)]
    made = []
    for _ in range(rng.randrange(1, 13)):
        ids, images = list(rng.choice(openings)), []
        for number in range(1, 1 + rng.choice([0, 0, 1, 1, 2, 3])):
            images.append(rng.choice(shown))
            ids += [-number] * images[-1].num_tokens
            ids += rng.choices(range(alphabet), k=rng.randrange(4))
        ids += rng.choices(range(alphabet), k=rng.randrange(1, 12))
        if rng.random() < 0.4:  # to the border
            ids += rng.choices(range(alphabet), k=max(0, REACH - len(ids) - rng.randrange(8)))
        params = SamplingParams(
            max_tokens=rng.randrange(1, 16),
            temperature=rng.choice([0.0, 0.0, 0.0, 1.5]),
            seed=rng.randrange(1000),
            top_k=rng.choice([None, 7]),
            repetition_penalty=rng.choice([1.0, 1.0, 1.2]),
            frequency_penalty=rng.choice([0.0, 0.0, 0.5]),
        )
        stop_ids = frozenset(rng.choices(range(270), k=rng.choice([0, 20])))
        made.append(Request(ids, images, params, stop_ids))
    return made


def expected(model: Phi3V, request: Request) -> list[int]:
    """By recomputing everything for every token (tests/naive.py), drawn by the same sampler."""
    images = [
        image if isinstance(image, EncodedImage) else model.encode_images([image])[0]
        for image in request.images
    ]
    sampler = Sampler(request.params, request.ids)
    while len(sampler.ids) < request.params.max_tokens:
        logits = last_logits(model, [*request.ids, *sampler.ids], images)
        (picked,) = pick(logits[None], [(sampler, ())])
        assert isinstance(picked, Pick), picked
        sampler.append(picked.token_id)
        total = len(request.ids) + len(sampler.ids)
        if picked.token_id in request.stop_ids or total == model.config.max_positions:
            break
    return sampler.ids


def without_options(request: Request) -> Request:
    """The likeliest token each time, so that a step can follow another on the device."""
    return replace(request, params=SamplingParams(max_tokens=2 * request.params.max_tokens))


def engine_of(
    model: Phi3V,
    rng: random.Random,
    wanted: Sequence[Request],
    *,
    fused: bool,
    plain: bool,
    cache_dir: Path | None,
) -> Engine:
    """With options drawn anew, and a cache that is now roomy, now just enough for one."""
    config = EngineConfig(
        max_batch=rng.choice([1, 2, 4, 12]),
        chunk_tokens=rng.choice([1, 2, 3, 5, 8, 16, 10**6]),
        prefix_cache=rng.random() < 0.7,
        image_memory=rng.choice([0.0, 1.0]),
        speculate=rng.choice([0, 0, 1, 3, 5]) * (not plain),
        fused=fused,
        cache_dir=None if cache_dir is None else str(cache_dir),
    )
    size = rng.choice([1, 2, 3, 4, 8])
    most = max(-(-(len(r.ids) + r.params.max_tokens) // size) for r in wanted)
    shape = CacheShape(int(most * rng.choice([1, 1, 1.2, 1.5, 2, 8])), size, model.dtype)
    return Engine(model, config, shape, identity=b"law")


def run(
    model: Phi3V,
    seed: int,
    *,
    fused: bool = False,
    plain: bool = False,
    cache_dir: Path | None = None,
    known: dict[int, list[int]] | None = None,
) -> dict[str, int]:
    """Run a mix and assert the law; what happened on the way, to know that it did.

    A `cache_dir` is this mix's own: in another the same pictures' keys are other pictures'. What
    each request must give is put into `known`, and taken from there when the mix runs again.
    """
    known = {} if known is None else known
    rng = random.Random(seed)
    wanted = requests(rng)
    if plain:
        wanted = [without_options(request) for request in wanted]
    engine = engine_of(model, rng, wanted, fused=fused, plain=plain, cache_dir=cache_dir)
    cases = [
        Case(
            request,
            rng.choice([0, rng.randrange(30)]),
            rng.randrange(40) if rng.random() < 0.2 else None,
        )
        for request in wanted
    ]
    seen = dict.fromkeys(("sent back", "shared", "cancelled", "crossed"), 0)
    running: dict[int, Case] = {}
    for step in range(10**6):
        for case in cases:
            if case.arrives == step:
                running[engine.add(case.request)] = case
        for request_id, case in list(running.items()):
            if case.leaves is not None and step >= max(case.leaves, case.arrives):
                engine.abort(request_id)
                engine.scheduler.check()
                del running[request_id]
                seen["cancelled"] += 1
        before = {sequence.request_id for sequence in engine.scheduler.running}
        for output in engine.step():
            case = running[output.request_id]
            assert isinstance(output.result, Token), output.result
            case.tokens.append(output.result.token_id)
            if output.is_last:
                case.finished = True
                seen["shared"] += output.result.cached_tokens
                del running[output.request_id]
        seen["sent back"] += len(before & {s.request_id for s in engine.scheduler.waiting})
        engine.scheduler.check()
        if step > 30 and not running:
            break
    assert engine.is_idle
    assert engine.scheduler.pool.num_free == engine.scheduler.pool.num_blocks
    assert not engine.images.num_needed
    engine.kept.wait()
    for number, case in enumerate(cases):
        if number not in known:
            known[number] = expected(model, case.request)
        told = known[number]
        assert case.tokens == (told if case.finished else told[: len(case.tokens)])
        start = len(case.request.ids)
        seen["crossed"] += start <= REACH < start + len(case.tokens)
    return seen


def main() -> None:
    first, count = map(int, sys.argv[1:])
    model = few_tokens(micro.network(micro.config(original_max_position_embeddings=REACH)))
    totals: dict[str, int] = {}
    for seed in range(first, first + count):
        try:
            seen = run(model, seed)
        except AssertionError as error:
            print(f"seed {seed}: {str(error)[:300]}", flush=True)
            continue
        totals = {name: totals.get(name, 0) + number for name, number in seen.items()}
    print(f"seeds {first} to {first + count - 1}: {totals}")


if __name__ == "__main__":
    main()
