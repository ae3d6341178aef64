"""How many tokens the cache holds, and what may be asked of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from phisight.engine.cache import bytes_per_block
from phisight.errors import BudgetError, DeviceError
from phisight.model.memory import free_bytes
from phisight.model.phi3v import Phi3V
from phisight.params import EngineConfig

# Tokens a block. On 2 CPU cores neighbouring blocks of 32 are read as fast as one whole sequence
# (0.69 ms a layer at 800 tokens and 32 heads; blocks of 16 take 0.82, of 128 0.89); on an H200
# 16, 32 and 64 agree within 1 %.
_BLOCK = 32
_CPU_CHUNK, _GPU_CHUNK = 512, 2048  # tokens of prompts in a step: about 10 s and 30 ms at 4.1 B
_GPU_ALONE = 4096  # where no stream waits: a picture of 16 crops and its question in one step
CHUNK_CROPS = 17  # crops in a step: one picture of 16 and its global view
_SHARE = {"cpu": 0.5, "mps": 0.5, "cuda": 0.8}  # of the free memory


@dataclass(frozen=True)
class CacheShape:
    """Blocks of the cache, and tokens in each."""

    num_blocks: int
    block_size: int
    dtype: torch.dtype

    @property
    def num_tokens(self) -> int:
        return self.num_blocks * self.block_size


def chunk_tokens(config: EngineConfig, device: torch.device) -> int:
    """Prompt tokens that a step may read."""
    return config.chunk_tokens or (_CPU_CHUNK if device.type == "cpu" else _GPU_CHUNK)


def alone_tokens(config: EngineConfig, device: torch.device) -> int:
    """Prompt tokens that a step may read which gives nobody a token."""
    return (
        chunk_tokens(config, device) if config.chunk_tokens or device.type == "cpu" else _GPU_ALONE
    )


def cache_shape(model: Phi3V, config: EngineConfig) -> CacheShape:
    """As large as the memory allows, or is of use. Raises BudgetError if not a block fits."""
    size = _BLOCK
    dtype = _stored_dtype(model, config)
    per_block = bytes_per_block(model.config, size, dtype)
    if config.kv_memory is not None:
        room = int(min(config.kv_memory, 2**20) * 2**30)  # infinity is no int
    else:
        free = free_bytes(model.device)
        if model.device.type == "cpu":  # mapped weights count as free until they are read
            free -= sum(weight.nbytes for weight in model.parameters())
        room = int(free * _SHARE.get(model.device.type, 0.5))
    if room < per_block:
        raise BudgetError(
            f"no memory on {model.device} for a cache: {size} tokens take "
            f"{per_block / 2**20:.0f} MiB and there are {max(room, 0) / 2**20:.0f}: "
            "free some memory, or give the cache more with kv_memory (GiB)"
        )
    context = model.config.max_positions
    # More than this is never held: the longest sequence, or a full batch of usual ones.
    useful = max(context, config.max_batch * min(context, 4096))
    return CacheShape(min(room // per_block, -(-useful // size) + config.max_batch), size, dtype)


def check_fits(model: Phi3V, shape: CacheShape, num_tokens: int, max_tokens: int) -> None:
    """Raise BudgetError if a prompt of so many tokens and its answer can never be held."""
    context = model.config.max_positions
    if num_tokens >= context:
        raise BudgetError(
            f"the prompt has {num_tokens} tokens and the model's context is {context}: "
            "use fewer pictures, fewer crops (num_crops), or less text"
        )
    total = min(num_tokens + max_tokens, context)
    if total > shape.num_tokens:
        per_token = bytes_per_block(model.config, 1, shape.dtype) / 2**30
        raise BudgetError(
            f"a prompt of {num_tokens} tokens and an answer of up to {total - num_tokens} take "
            f"{total * per_token:.2f} GiB of cache, and on {model.device} it has "
            f"{shape.num_tokens * per_token:.2f} GiB: use fewer pictures, fewer crops (num_crops), "
            "a smaller max_tokens, or a larger kv_memory"
        )


def _stored_dtype(model: Phi3V, config: EngineConfig) -> torch.dtype:
    if config.kv_dtype is None:
        return model.dtype
    device = model.device
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 9):
        raise DeviceError(
            f"kv_dtype={config.kv_dtype!r}: {device} does not compute in float8; leave it out"
        )
    return torch.float8_e4m3fn
