"""Configuration, preprocessor, tokenizer and chat template: does what they say fit together?

Owns the marks of the published models. Knows nothing of weights or of running a model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phisight.config import ModelConfig, read_model_config, read_processor_config
from phisight.jsonfile import read_json
from phisight.processing.chat import ChatTemplate
from phisight.processing.tokenizer import Tokenizer
from phisight.verify.report import Finding, worst

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_CONTROL = ("<s>", "<|user|>", "<|assistant|>", "<|end|>", "<|system|>", "<|endoftext|>")
_OPTIONAL = ("<|system|>", "<|endoftext|>")  # questions can be asked without them
_SENTENCE = "A test, 图表 and 視覺, 🙂🚀: <|user|> <|end|> <|image_1|> <s> stay text."
_CONVERSATION = (
    {"role": "user", "content": "<|image_1|>\nWhat is shown?"},
    {"role": "assistant", "content": "A chart."},
    {"role": "user", "content": "Which bar is the highest?"},
)
_RENDERED = (
    "<|user|>\n<|image_1|>\nWhat is shown?<|end|>\n<|assistant|>\nA chart.<|end|>\n"
    "<|user|>\nWhich bar is the highest?<|end|>\n<|assistant|>\n"
)


@dataclass(frozen=True)
class Family:
    """A published model, and what marks its folder and those of its finetunes."""

    name: str
    rope_sha256: str  # of its short and long RoPE factors, see `rope_fingerprint`
    num_crops: int


# Phi-3-vision's factors are those of tests/data/phi3v/config.json. Phi-3.5-vision's stand alike in
# sdpython/experimental-experiment (experimental_experiment/torch_models/llm_model_helper.py, a copy
# of its config.json) and in the log of mlc-ai/mlc-llm issue 3394.
FAMILIES = (
    Family("Phi-3-vision", "125d65b288a412a44d363c37e66f097164f15c820ae81408cd5f6953d9bc5d06", 16),
    Family("Phi-3.5-vision", "116e792dd2ef8dc63dc5f682b8bddb1b769854393120a084f79e6087a9a124b7", 4),
)


def rope_fingerprint(short: tuple[float, ...], long: tuple[float, ...]) -> str:
    """SHA-256 of both factor lists as JSON, which writes a float in its shortest exact form."""
    return hashlib.sha256(json.dumps([list(short), list(long)]).encode()).hexdigest()


def check_config(folder: Path) -> tuple[Finding, tuple[ModelConfig, Family | None]]:
    """Read config.json and say whose it is. Raises ConfigError."""
    config = read_model_config(folder)
    rope = rope_fingerprint(config.rope.short_factor, config.rope.long_factor)
    by_rope = next((item for item in FAMILIES if item.rope_sha256 == rope), None)
    recognised = by_rope or _by_name(read_json(folder / "config.json"))
    sizes = f"{config.num_layers} layers of {config.hidden_size}, context {config.max_positions}"
    notes = []
    if recognised is not None and by_rope is None:
        notes.append(
            f"config.json calls itself {recognised.name}, whose RoPE factors are others ({sizes})"
        )
    whose = f"{recognised.name}'s, by its RoPE factors" if recognised else "not a published model's"
    return worst("config", [], notes, f"{whose}: {sizes}"), (config, recognised)


def check_preprocessor(folder: Path, recognised: Family | None) -> tuple[Finding, bool]:
    """Crops and normalization against the model's. Raises ConfigError."""
    config = read_processor_config(folder)
    faults, notes = [], []
    for key, found, expected in (
        ("image_mean", config.image_mean, CLIP_MEAN),
        ("image_std", config.image_std, CLIP_STD),
    ):
        if found != expected:
            faults.append(f"{key}={list(found)} is not CLIP's {list(expected)}")
    if recognised is not None and config.num_crops != recognised.num_crops:
        theirs = next((item for item in FAMILIES if item.num_crops == config.num_crops), None)
        if theirs is not None:
            faults.append(
                f"preprocessor_config.json has num_crops={config.num_crops}, which is "
                f"{theirs.name}'s; config.json is {recognised.name}'s, whose number is "
                f"{recognised.num_crops}: take the file that came with these weights"
            )
        else:
            notes.append(
                f"num_crops={config.num_crops}; {recognised.name} ships {recognised.num_crops}"
            )
    fine = f"num_crops={config.num_crops}, mean and deviation CLIP's"
    return worst("preprocessor", faults, notes, fine), True


def check_tokenizer(folder: Path, config: ModelConfig | None) -> tuple[Finding, bool]:
    """Control tokens, size, and a sentence there and back; whether it can be used at all.

    Raises ConfigError.
    """
    tokenizer = Tokenizer(folder)
    missing = [
        t for t in _CONTROL if not any(isinstance(i, int) for i in tokenizer.split_control(t))
    ]
    faults = [f"control token {token} is missing" for token in missing if token not in _OPTIONAL]
    notes = [f"control token {token} is missing" for token in missing if token in _OPTIONAL]
    fits = config is None or tokenizer.size <= config.vocab_size
    if config is not None and not fits:
        faults.append(
            f"tokenizer.json has {tokenizer.size} tokens, config.json only "
            f"vocab_size={config.vocab_size}"
        )
    ids = tokenizer.encode_plain(_SENTENCE)
    back = tokenizer.decode(ids)
    if back != _SENTENCE:
        faults.append(f"{_SENTENCE!r} comes back as {back[:120]!r}")
    fine = (
        f"{tokenizer.size} ids, {len(_CONTROL) - len(missing)} control tokens; English, Chinese, "
        f"emoji and control tokens as text survive ({len(ids)} ids)"
    )
    return worst("tokenizer", faults, notes, fine), fits


def check_template(folder: Path) -> tuple[Finding, bool]:
    """A conversation through the template, to the letter. Raises ConfigError, PromptError."""
    rendered = ChatTemplate(folder).render(_CONVERSATION)
    faults = []
    if rendered != _RENDERED:
        at = _first_difference(rendered, _RENDERED)
        faults.append(
            f"the template does not render the Phi-3-V format; from character {at}: "
            f"expected {_cut(_RENDERED, at)}, got {_cut(rendered, at)}"
        )
    return worst("chat template", faults, [], "renders the Phi-3-V format to the letter"), True


def _by_name(data: Mapping[str, Any]) -> Family | None:
    """Only our own name is ever reported: theirs may be a path of the machine it was made on."""
    name = str(data.get("_name_or_path", ""))
    return next((item for item in FAMILIES if item.name in name), None)


def _first_difference(one: str, other: str) -> int:
    same = (a == b for a, b in zip(one, other, strict=False))
    return next((i for i, equal in enumerate(same) if not equal), min(len(one), len(other)))


def _cut(text: str, at: int) -> str:
    return repr(text[at : at + 60]) + ("..." if len(text) > at + 60 else "")
