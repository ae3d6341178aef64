"""A plan's slices to the tokens after them; the next step launched before this one's are known.

Owns the step that has been launched ahead, and which of a later plan's slices it has read already.
What it has stored is what the plan would store, or lies in places that whoever comes to hold them
writes before reading.
"""

from __future__ import annotations

import time
from collections.abc import Sequence as Items

from phisight.engine.graphs import Step
from phisight.engine.job import Job
from phisight.engine.plan import Plan
from phisight.engine.runner import Runner
from phisight.engine.sampling import Pick, pick, pick_plain
from phisight.engine.scheduler import Scheduler
from phisight.engine.sequence import Slice


class Reader:
    """`goes_ahead` says whether a step may be launched before it is planned."""

    def __init__(self, runner: Runner, scheduler: Scheduler, *, goes_ahead: bool) -> None:
        self._runner, self._scheduler, self._goes_ahead = runner, scheduler, goes_ahead
        self._ahead: Ahead | None = None

    def forget(self) -> None:
        """What has been launched ahead does not count: to be called where a plan is undone."""
        self._ahead = None

    def read(self, plan: Plan, jobs: Items[Job]) -> list[list[Pick | Exception]]:
        """Read a plan's slices, each of a job; the picks after its last token and its guesses."""
        began = time.perf_counter()
        for job in jobs:
            job.start(began)
        ahead, self._ahead = self._ahead, None
        known = {} if ahead is None else ahead.rows_of(plan)
        rest = [place for place in range(len(plan.slices)) if place not in known]
        picks: dict[int, list[Pick | Exception]] = {}
        if plan.new_blocks and not rest:
            self._runner.clear(plan.new_blocks)
        if rest:
            parts = [plan.slices[place] for place in rest]
            rows = self._runner.read(parts, plan.new_blocks)
            asked = [
                (jobs[place].sampler, part.guesses[:count])
                for place, part, own in zip(rest, parts, rows.of, strict=True)
                for count in range(len(own))
            ]
            step = rows.step if all(sampler.is_plain for sampler, _ in asked) else None
            if step is not None and not known:
                self._launch_next(plan, jobs)
            picked = pick_plain(step.told()) if step else pick(rows.logits, asked, rows.plain)
            for place, own in zip(rest, rows.of, strict=True):
                picks[place] = [picked[row] for row in own]
        elif ahead is not None and [*known.values()] == [*range(len(ahead.sequences))]:
            self._launch_next(plan, jobs)
        if ahead is not None and known:
            picked = pick_plain(ahead.step.told())
            picks |= {place: [picked[row]] for place, row in known.items()}
        return [picks[place] for place in range(len(plan.slices))]

    def _launch_next(self, plan: Plan, jobs: Items[Job]) -> None:
        """Have the device go on while the host reads what it has computed, if it is clear how."""
        if not self._goes_ahead or all(job.most_guesses == 0 for job in jobs):
            return
        if self._scheduler.reserve(plan):
            self._ahead = Ahead(self._runner.read_next(plan.slices), plan.slices)


class Ahead:
    """`step`, of one token more for each of the slices before it."""

    def __init__(self, step: Step, before: Items[Slice]) -> None:
        self.step = step
        self.sequences = [part.sequence for part in before]
        # A sequence that is sent back and let in again has another list of blocks.
        self._held = [
            (len(part.sequence), part.sequence.blocks, len(part.sequence.blocks)) for part in before
        ]

    def rows_of(self, plan: Plan) -> dict[int, int]:
        """Which of the plan's slices, by their places, are which rows of the step."""
        rows = {}
        for place, part in enumerate(plan.slices):
            sequence = part.sequence
            if part.count + len(part.guesses) == 1 and sequence in self.sequences:
                row = self.sequences.index(sequence)
                start, blocks, count = self._held[row]
                if start == part.start and blocks is sequence.blocks and count == len(blocks):
                    rows[place] = row
        return rows
