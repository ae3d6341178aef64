"""A request in the engine: its sequence, how its tokens are drawn, when it ends, what it took."""

from __future__ import annotations

from collections.abc import Sequence as Items

from phisight.engine.request import EngineTimes, FinishReason, Request, StepOutput, Token
from phisight.engine.sampling import Pick, Sampler
from phisight.engine.sequence import ImageSlots, Sequence, Slice
from phisight.model.phi3v import Crops


class Job:
    """`context` is the most tokens a sequence may have, `now` the time it came, in seconds."""

    def __init__(
        self, request_id: int, request: Request, *, block_size: int, context: int, now: float
    ) -> None:
        self.request_id, self.request, self._context = request_id, request, context
        self.sequence = Sequence(request_id, request.ids, _slots(request), block_size)
        seen = (*request.ids, *request.penalized_ids)
        self.sampler = Sampler(request.params, seen, request.allowed_tokens)
        self._added_at, self._started_at, self._first_at = now, 0.0, 0.0
        self._vision = 0.0
        self.is_ending = False  # what it holds is being freed

    @property
    def most_guesses(self) -> int:
        """Guesses after which there may still be a token to come."""
        total = len(self.sequence.ids)
        left = self.request.params.max_tokens - len(self.sampler.ids)
        return max(0, min(left, self._context - total) - 1)

    def start(self, now: float) -> None:
        """Something is done for it from now on."""
        self._started_at = self._started_at or now

    def saw(self, seconds: float) -> None:
        """Its pictures were encoded, with others' perhaps."""
        self._vision += seconds

    def take(self, part: Slice, picks: Items[Pick | Exception], now: float) -> list[StepOutput]:
        """Keep the tokens after a slice: the first pick, and the next as long as the guess before
        it was right."""
        outputs: list[StepOutput] = []
        for number, picked in enumerate(picks):
            if isinstance(picked, Exception):
                return [*outputs, StepOutput(self.request_id, picked)]
            self._first_at = self._first_at or now
            self.sequence.ids.append(picked.token_id)
            self.sampler.append(picked.token_id)
            finish = self._finish(picked.token_id)
            token = Token(
                picked.token_id,
                self._times(now),
                finish,
                picked.logprobs,
                self.sequence.num_shared,
            )
            outputs.append(StepOutput(self.request_id, token))
            if finish is not None or part.guesses[number : number + 1] != (picked.token_id,):
                break
            self.sequence.num_read += 1
        return outputs

    def _finish(self, token_id: int) -> FinishReason | None:
        params = self.request.params
        if token_id in self.request.stop_ids and not params.ignore_eos:
            return FinishReason.STOP
        full = len(self.sequence) >= self._context
        return FinishReason.LENGTH if full or len(self.sampler.ids) >= params.max_tokens else None

    def _times(self, now: float) -> EngineTimes:
        prefill = self._first_at - self._started_at - self._vision
        queue = self._started_at - self._added_at
        return EngineTimes(queue, self._vision, max(0.0, prefill), now - self._first_at)


def _slots(request: Request) -> list[ImageSlots]:
    positions: dict[int, list[int]] = {}
    for position, token_id in enumerate(request.ids):
        if token_id < 0:
            positions.setdefault(-token_id - 1, []).append(position)
    return [
        ImageSlots(
            image.key,
            tuple(positions.get(number, ())),
            len(image.pixels) if isinstance(image, Crops) else 0,
        )
        for number, image in enumerate(request.images)
    ]
