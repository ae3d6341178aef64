"""The engine: `add` requests, `step` for tokens, `abort` what nobody waits for.

All that run take each step together. Not thread-safe: `loop` sees to that.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from functools import partial

import torch

from phisight.engine import capacity
from phisight.engine.ahead import Reader
from phisight.engine.blocks import BlockPool
from phisight.engine.cache import PagedCache, bytes_per_block
from phisight.engine.capacity import CacheShape
from phisight.engine.graphs import Decoder
from phisight.engine.images import ImageCache
from phisight.engine.job import Job
from phisight.engine.kept import Kept, open_disk
from phisight.engine.plan import Limits, Plan
from phisight.engine.request import Progress, Request, StepOutput
from phisight.engine.runner import Runner
from phisight.engine.scheduler import Scheduler
from phisight.engine.sequence import Sequence
from phisight.engine.speculation import lookup
from phisight.errors import BudgetError, DeviceError
from phisight.kernels import fused_fault, steps_note
from phisight.model.memory import is_out_of_memory
from phisight.model.phi3v import Crops, EncodedImage, Phi3V
from phisight.params import EngineConfig


class Engine:
    """Raises BudgetError if the device has no room for a cache, DeviceError if it cannot do what
    an option asks for, OptionError for a `cache_dir` that is of no use. `shape` is for tests;
    `identity` says what the model computes, and is needed with a `cache_dir`."""

    def __init__(
        self,
        model: Phi3V,
        config: EngineConfig | None = None,
        shape: CacheShape | None = None,
        identity: bytes | None = None,
    ) -> None:
        self._model, self.config = model, config or EngineConfig()
        fault = fused_fault(model.device)
        if self.config.fused and fault:
            raise DeviceError(f"fused=True: {fault}; leave it out")
        self.is_fused = runs_fused(self.config.fused, model.device)
        # What to say of it where the caller has not chosen.
        self.note = "" if self.config.fused is not None else steps_note(model.device, fault)
        self.shape = shape or capacity.cache_shape(model, self.config)
        self.images = ImageCache(self.config.image_memory * 2**30)
        num_blocks, size = self.shape.num_blocks, self.shape.block_size
        # With one block more than is lent: what a graph's rows without a sequence write goes there.
        cache = PagedCache(
            model.config,
            num_blocks + self.is_fused,
            size,
            device=model.device,
            dtype=self.shape.dtype,
        )
        most = min(256, self.config.max_batch * (1 + self.config.speculate))
        decoder = Decoder(model, cache, most, spare=num_blocks) if self.is_fused else None
        self._runner = Runner(model, cache, self.images, decoder)
        disk = open_disk(self.config, self.shape, model, identity, fused=self.is_fused)
        self.kept = Kept(self.images, cache, disk, model, self.config.image_memory * 2**30 / 4)
        limits = Limits(
            max_batch=self.config.max_batch,
            chunk_tokens=capacity.chunk_tokens(self.config, model.device),
            alone_tokens=capacity.alone_tokens(self.config, model.device),
            chunk_crops=capacity.CHUNK_CROPS,
            short_reach=model.config.rope.original_max_positions,
            reuse=self.config.prefix_cache,
        )
        pool = BlockPool(num_blocks, contiguous=model.device.type == "cpu")
        self._next_id = itertools.count()
        self._jobs: dict[int, Job] = {}
        # No method of ours: in a cycle of references the cache would outlive its engine.
        guess = partial(_guess, self._jobs, self.config.speculate)
        self.scheduler = Scheduler(
            pool, limits, guess=guess, is_encoded=self.kept.has_picture, fetch=self.kept.fetch
        )
        self._reader = Reader(self._runner, self.scheduler, goes_ahead=not self.config.speculate)

    def take_thread(self) -> None:
        """To be called once by the thread that will step: Triton and graphs go by its device."""
        if self._model.device.type == "cuda":
            torch.cuda.set_device(self._model.device)

    @property
    def is_idle(self) -> bool:
        return not self._jobs

    @property
    def bytes_per_token(self) -> int:
        return bytes_per_block(self._model.config, 1, self.shape.dtype)

    def check_fits(self, num_tokens: int, max_tokens: int) -> None:
        """Raise BudgetError if a prompt of so many tokens and its answer can never be held."""
        capacity.check_fits(self._model, self.shape, num_tokens, max_tokens)

    def add(self, request: Request) -> int:
        """Queue a request; its id. Raises BudgetError if it can never be answered."""
        self.check_fits(len(request.ids), request.params.max_tokens)
        job = Job(
            next(self._next_id),
            request,
            block_size=self.shape.block_size,
            context=self._model.config.max_positions,
            now=time.perf_counter(),
        )
        for image in request.images:
            self.images.need(image.key)
            if isinstance(image, EncodedImage):
                self.images.put(image.key, image.features)
        self._jobs[job.request_id] = job
        self.scheduler.add(job.sequence)
        return job.request_id

    def abort(self, request_id: int) -> None:
        """Drop a request, waiting or running, and free what it holds. Unknown ids are ignored."""
        job = self._jobs.get(request_id)
        if job is None or job.is_ending:
            return
        job.is_ending = True
        try:
            if self.config.prefix_cache:
                self.kept.keep(job.sequence)
        finally:  # an interrupt
            try:
                self.scheduler.remove(job.sequence)
                for image in job.request.images:
                    self.images.drop(image.key)
            finally:  # last: whoever sees that the engine is idle finds all free
                del self._jobs[request_id]

    def forget(self) -> None:
        """Find nothing of earlier requests again: to be called where weights may have changed."""
        self._reader.forget()
        self.scheduler.pool.forget_all()
        self.images.forget()
        self.kept.forget()

    def progress(self, request_id: int) -> Progress | None:
        """How far a request is; None if there is none. Any thread may ask, while a step runs."""
        job = self._jobs.get(request_id)
        if job is None:
            return None
        crops = sum(slots.num_crops for slots in job.sequence.images)
        done = sum(s.num_crops for s in job.sequence.images if s.key in self.images)
        return Progress(
            crops_done=min(crops, done + self._runner.crops_done),
            crops=crops,
            read=min(job.sequence.num_read, job.sequence.num_prompt),
            prompt=job.sequence.num_prompt,
            written=len(job.sampler.ids),
        )

    def encode(self, crops: Crops) -> EncodedImage:
        """A picture's image tokens, for any number of requests. Raises BudgetError."""
        self.images.need(crops.key)
        try:
            if not self.kept.has_picture(crops.key, crops.num_tokens):
                self._runner.encode([crops])
                self.kept.keep_picture(crops.key)
            return EncodedImage(self.images[crops.key], self._model.mark, crops.key)
        except Exception as error:
            raise self._explained(error, f"to encode {len(crops.pixels)} crops") from None
        finally:
            self.images.drop(crops.key)

    def step(self) -> list[StepOutput]:
        """The next tokens of all that run, in order of arrival; the errors of those that failed."""
        plan = self.scheduler.schedule()
        jobs = [self._jobs[part.sequence.request_id] for part in plan.slices]
        try:
            self._encode(plan)
            picks = self._reader.read(plan, jobs)
        except Exception as error:
            self._reader.forget()
            return self._failed(plan, error)
        except BaseException:  # an interrupt: nothing of this step counts, and all may go on
            self._reader.forget()
            self.scheduler.undo(plan)
            raise
        self.scheduler.commit(plan)
        now, outputs = time.perf_counter(), []
        for job, part, own in zip(jobs, plan.slices, picks, strict=True):
            taken = job.take(part, own, now)
            if taken and taken[-1].is_last:
                self.abort(job.request_id)
            outputs += taken
        return outputs

    def _encode(self, plan: Plan) -> None:
        """The plan's pictures. Pictures of several requests share the time it takes."""
        if not plan.images:
            return
        began = time.perf_counter()
        seeing = dict.fromkeys(self._jobs[sequence.request_id] for sequence, _ in plan.images)
        for job in seeing:
            job.start(began)
        pictures = []
        for sequence, number in plan.images:
            image = self._jobs[sequence.request_id].request.images[number]
            assert isinstance(image, Crops), "encoded ones are in the cache as long as needed"
            pictures.append(image)
        self._runner.encode(pictures)
        if self._model.device.type == "cuda":
            torch.cuda.synchronize(self._model.device)  # or the time would be the prefill's
        for job in seeing:
            job.saw(time.perf_counter() - began)
        for picture in pictures:
            self.kept.keep_picture(picture.key)

    def _failed(self, plan: Plan, error: Exception) -> list[StepOutput]:
        """One alone: it ends with the error. Several: each is tried alone, to find whose it is."""
        broken = self.scheduler.undo(plan)
        if len(broken) > 1:
            return []
        (sequence,) = broken
        self.abort(sequence.request_id)
        told = self._explained(error, f"for {len(sequence)} tokens")
        return [StepOutput(sequence.request_id, told)]

    def _explained(self, error: Exception, what: str) -> Exception:
        if not is_out_of_memory(error):
            return error
        return BudgetError(
            f"no memory on {self._model.device} {what}: use fewer pictures, fewer crops "
            "(num_crops), or a smaller kv_memory or chunk_tokens"
        )


def runs_fused(fused: bool | None, device: torch.device) -> bool:
    """What the option means on a device: None is wherever it works."""
    return fused_fault(device) is None if fused is None else fused


def _guess(jobs: Mapping[int, Job], speculate: int, sequence: Sequence) -> tuple[int, ...]:
    most = min(speculate, jobs[sequence.request_id].most_guesses)
    return lookup(sequence.ids, most) if most else ()
