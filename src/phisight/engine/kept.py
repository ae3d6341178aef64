"""What outlives a request beside the cache's blocks: a block's part up to a picture's end, so that
the next question on it reads none of it again; and on disk the pictures and all up to their ends.

Owns what is kept under which name. Knows nothing of who asks.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from phisight.diskcache.cache import DiskCache
from phisight.diskcache.writer import Order, Writer
from phisight.engine.cache import PagedCache
from phisight.engine.capacity import CacheShape
from phisight.engine.images import ImageCache
from phisight.engine.parts import PartCache
from phisight.engine.sequence import Sequence
from phisight.errors import tell
from phisight.model.memory import is_out_of_memory
from phisight.model.phi3v import Phi3V
from phisight.params import EngineConfig

_PICTURE, _TOKENS = b"p", b"t"  # what a name is of: names of both are hashes
_HEADER = 1024  # bytes of a file beside its tensor, at most


def open_disk(
    config: EngineConfig, shape: CacheShape, model: Phi3V, identity: bytes | None, *, fused: bool
) -> DiskCache | None:
    """What is kept there fits the same weights, computed and stored in the same way, alone."""
    if config.cache_dir is None:
        return None
    assert identity is not None, "of which model?"
    ways = f"{model.device.type} {shape.dtype} {shape.block_size} {fused}"
    name = hashlib.sha256(identity + ways.encode()).digest()[:16]
    return DiskCache(config.cache_dir, config.cache_disk * 2**30, name)


@contextlib.contextmanager
def _failing_nothing() -> Iterator[None]:
    """What is kept is for later requests: no fault in keeping it may end this one."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):  # then memory is needed more elsewhere
            tell(f"what was read is not kept ({type(error).__name__}: {error})")


@contextlib.contextmanager
def _fetching() -> Iterator[None]:
    """Whoever fetches plans a step of many: what cannot be had for one of them is not there."""
    try:
        yield
    except OSError as error:
        tell(f"what is kept cannot be fetched ({error.strerror})")
    except Exception as error:
        if not is_out_of_memory(error):
            raise


class Kept:
    """What goes to the disk is copied at once, within bounds, and written by a thread.
    `parts_room` is bytes of main memory for blocks' parts."""

    def __init__(
        self,
        images: ImageCache,
        cache: PagedCache,
        disk: DiskCache | None,
        model: Phi3V,
        parts_room: float,
    ) -> None:
        self._images, self._cache, self._disk = images, cache, disk
        self._parts = PartCache(parts_room)
        self._hidden_size, self._dtype = model.config.hidden_size, model.dtype
        self._writer = None if disk is None else Writer(disk)

    def has_picture(self, key: bytes, num_tokens: int) -> bool:
        """Whether a picture's image tokens are at hand, fetched from the disk if need be."""
        if key in self._images:
            return True
        expected = torch.empty(num_tokens, self._hidden_size, dtype=self._dtype, device="meta")
        with _fetching():
            features = self._read(_PICTURE + key, expected)
            if features is not None:
                self._images.put(key, features.to(self._cache.keys.device))
                return True
        return False

    def fetch(self, name: bytes, block: int, count: int) -> bool:
        """Fill a block's first tokens with what is kept under a name, if there is; if not, it may
        be half filled."""
        name = _TOKENS + name
        both = self._parts.find(name)
        with _fetching():
            if both is None:
                both = self._read(name, self._cache.expected(count))
            if both is not None:
                self._cache.fill(block, both)
                return True
        return False

    def keep_picture(self, key: bytes) -> None:
        """A picture that this engine has encoded, for the disk. Never raises."""
        with _failing_nothing():
            self._keep_picture(key)

    def keep(self, sequence: Sequence) -> None:
        """What a sequence has read up to its last picture's end, before its blocks are given up.
        Never raises."""
        with _failing_nothing():
            self._keep(sequence)

    def forget(self) -> None:
        """What is kept in memory, where it may no longer be what would be computed."""
        self._parts.forget()

    def wait(self) -> None:
        """Until all that has been kept is on the disk."""
        if self._writer is not None:
            self._writer.wait()

    def _keep_picture(self, key: bytes) -> None:
        name, features = _PICTURE + key, self._images[key]
        if self._writer is None or self._is_on_disk(name):
            return
        if self._writer.takes(features.nbytes + _HEADER):
            self._write({name: features.cpu()}, [])

    def _keep(self, sequence: Sequence) -> None:
        size = sequence.block_size
        ends = [end for end in sequence.picture_ends if end <= sequence.num_read]
        bytes_per_token = self._cache.expected(1).nbytes
        parts = {}  # of each name, the block and how many of its tokens
        for index, count in (divmod(end, size) for end in ends if end % size):
            name = _TOKENS + sequence.part_name(index, count)
            parts[name] = index, count
            if name not in self._parts and count * bytes_per_token <= self._parts.room:
                self._parts.put(name, self._cache.copied(sequence.blocks[index], count))
        if self._writer is None or not ends or not self._is_ours(sequence):
            return
        full = {_TOKENS + sequence.name(index): (index, size) for index in range(ends[-1] // size)}
        places = full | parts
        new = [name for name in places if not self._is_on_disk(name)]
        # Asked before anything is copied: the blocks of a long prompt are as large as the cache.
        if not self._writer.takes(sum(places[n][1] * bytes_per_token + _HEADER for n in new)):
            new = []
        self._write(
            {
                name: self._cache.copied(sequence.blocks[places[name][0]], places[name][1])
                for name in new
            },
            [*places, *(_PICTURE + image.key for image in sequence.images)],
        )

    def _is_ours(self, sequence: Sequence) -> bool:
        """Whether all pictures are what their keys say: cut here, or encoded by us before."""
        return all(i.num_crops or self._is_on_disk(_PICTURE + i.key) for i in sequence.images)

    def _is_on_disk(self, name: bytes) -> bool:
        if self._disk is None or self._writer is None:
            return False
        return name in self._writer or name in self._disk

    def _read(self, name: bytes, expected: Tensor) -> Tensor | None:
        """A tensor like the expected one, which is of device "meta"."""
        if self._disk is None or (blob := self._disk.read(name, expected.nbytes)) is None:
            return None
        try:
            (tensor,) = load(blob).values()
        except (SafetensorError, ValueError):
            self._disk.reject(name, "it is no safetensors file of one tensor")
            return None
        if tensor.shape != expected.shape or tensor.dtype != expected.dtype:
            self._disk.reject(name, f"it holds {tensor.dtype} of {tuple(tensor.shape)}")
            return None
        self._disk.touch([name])
        return tensor

    def _write(self, tensors: dict[bytes, Tensor], used: list[bytes]) -> None:
        """Have these written, and those that are there marked as used."""
        assert self._writer is not None
        sizes = {name: tensor.nbytes + _HEADER for name, tensor in tensors.items()}

        def files() -> Iterator[tuple[bytes, bytes]]:
            for name in sizes:
                yield name, save({"kept": tensors.pop(name).contiguous()})

        self._writer.put(Order(files(), sizes, [name for name in used if name not in sizes]))
