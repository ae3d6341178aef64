"""The options a caller may set: fields, defaults, limits and help, each written once.

Python signatures are tested against these classes and the command line is built from them.
Knows nothing of torch or of any argument parser.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from phisight.options import check_bias, check_limits, check_names, check_stops, option

DTYPES = ("bfloat16", "float32")
WEIGHTS = ("int8", "int4")
ACTIVATIONS = ("int8",)
CROPS = ("auto",)


class SamplingOptions(TypedDict, total=False):
    """SamplingParams as keyword arguments, so that every method that takes them is checked."""

    max_tokens: int
    temperature: float
    top_k: int | None
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: Mapping[int, float] | None
    seed: int | None
    stop: str | Sequence[str]
    ignore_eos: bool
    logprobs: int | None


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How an answer is drawn. Raises OptionError if a value is out of its limits."""

    max_tokens: int = option(
        512, "Most tokens to write; the end of the context stops the answer too.", minimum=1
    )
    temperature: float = option(
        0.0,
        "0 always takes the likeliest token; higher values vary more.",
        minimum=0.0,
        maximum=100.0,
    )
    top_k: int | None = option(None, "Draw only from so many of the likeliest tokens.", minimum=1)
    top_p: float = option(
        1.0,
        "Draw only from the likeliest tokens that together have this probability.",
        minimum=0.0,
        maximum=1.0,
    )
    min_p: float = option(
        0.0,
        "Draw only from tokens at least this likely, measured against the likeliest.",
        minimum=0.0,
        maximum=1.0,
    )
    repetition_penalty: float = option(
        1.0,
        "Above 1, makes tokens of the prompt's text and of the answer less likely to come again.",
        minimum=0.1,
        maximum=10.0,
    )
    presence_penalty: float = option(
        0.0,
        "Taken off the logits of tokens that the answer already has.",
        minimum=-2.0,
        maximum=2.0,
    )
    frequency_penalty: float = option(
        0.0,
        "Taken off the logits of tokens as often as the answer already has them.",
        minimum=-2.0,
        maximum=2.0,
    )
    logit_bias: Mapping[int, float] | None = option(
        None, "Added to the logits of these token ids, -100 to 100 each."
    )
    seed: int | None = option(
        None,
        "Makes drawn answers repeatable; no effect at temperature 0.",
        minimum=0,
        maximum=2**32 - 1,
    )
    stop: str | Sequence[str] = option(
        (), "End the answer before this text; may be given several times."
    )
    ignore_eos: bool = option(False, "Write on where the model would end its answer.")
    logprobs: int | None = option(
        None,
        "Also give the log-probability of every token, and of so many of the likeliest.",
        minimum=0,
        maximum=20,
    )

    def __post_init__(self) -> None:
        check_limits(self)
        check_stops(self.stop)
        check_bias(self.logit_bias)

    @property
    def stop_strings(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """How a model is put on a machine. None means: decide, and say why."""

    device: str | None = option(
        None, "Where to run: cpu, cuda, cuda:1, mps. Left out: cuda where there is one, else cpu."
    )
    dtype: str | None = option(
        None,
        "Number format of the weights. Left out: bfloat16; float32 on mps and old CUDA devices.",
        choices=DTYPES,
    )
    weights: str | None = option(
        None,
        "Pack the language model's weights while loading (CPU only): a third or half of the "
        "memory, answers a little less exact. Left out: as the model folder has them.",
        choices=WEIGHTS,
    )
    activations: str | None = option(
        None,
        "Round what packed layers and the vision tower take in to 8 bits too: prompts and pictures "
        "are read sooner, answers are a little less exact. Left out: as it is.",
        choices=ACTIVATIONS,
    )
    num_crops: int | None = option(
        None,
        "Most 336-pixel crops to cut a picture into. Left out: the checkpoint's own number.",
        minimum=1,
        maximum=64,
    )
    crops: str | None = option(
        None,
        "auto: cut a small picture into no more crops than it has pixels for, instead of enlarging "
        "it to num_crops. Quicker; the model may read small print less well.",
        choices=CROPS,
    )

    def __post_init__(self) -> None:
        check_limits(self)


class EngineOptions(TypedDict, total=False):
    """EngineConfig as keyword arguments."""

    max_batch: int
    chunk_tokens: int | None
    kv_memory: float | None
    kv_dtype: str | None
    prefix_cache: bool
    image_memory: float
    cache_dir: str | os.PathLike[str] | None
    cache_disk: float
    speculate: int
    fused: bool | None


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """How a loaded model serves its requests. None means: by the device."""

    max_batch: int = option(32, "Most requests to run at once.", minimum=1, maximum=256)
    chunk_tokens: int | None = option(
        None,
        "Most tokens of prompts to read between two tokens of running answers. Left out: 512 on "
        "the CPU, else 2048.",
        minimum=1,
    )
    kv_memory: float | None = option(
        None,
        "GiB for the keys and values of running and earlier requests. Left out: half of the free "
        "memory, 0.8 on CUDA, but no more than is of use.",
        minimum=0.0,
    )
    kv_dtype: str | None = option(
        None, "Store keys and values in fewer bits (CUDA only).", choices=("fp8",)
    )
    prefix_cache: bool = option(
        True, "Find again what was read for earlier requests that begin alike."
    )
    image_memory: float = option(
        0.25,
        "GiB for encoded pictures that no request needs now; a quarter as much main memory is for "
        "what was read up to their ends.",
        minimum=0.0,
    )
    cache_dir: str | None = option(
        None,
        "A folder in which to keep pictures as the model has read them, so that the next question "
        "on one starts at once after a restart. Private: it holds what the pictures show.",
    )
    cache_disk: float = option(
        10.0,
        "GiB that cache_dir may grow to; what was used longest ago goes first.",
        minimum=0.0,
    )
    speculate: int = option(
        0,
        "Tokens to guess from earlier text at each step; right guesses are kept.",
        minimum=0,
        maximum=16,
    )
    fused: bool | None = option(
        None,
        "Read with fused kernels, few tokens as one CUDA graph (CUDA with Triton only). Left out: "
        "where they run.",
    )

    def __post_init__(self) -> None:
        check_limits(self)


def sampling_params(*given: Mapping[str, Any]) -> SamplingParams:
    """SamplingParams from keyword arguments, later ones before earlier.

    Raises OptionError for a name that is no option, with the nearest that is.
    """
    options = {name: value for mapping in given for name, value in mapping.items()}
    check_names(SamplingParams, options)
    return SamplingParams(**options)


def engine_config(options: Mapping[str, Any]) -> EngineConfig:
    """EngineConfig from keyword arguments. Raises OptionError as `sampling_params` does."""
    check_names(EngineConfig, options)
    given = dict(options)
    if isinstance(given.get("cache_dir"), os.PathLike):
        given["cache_dir"] = os.fspath(given["cache_dir"])
    return EngineConfig(**given)
