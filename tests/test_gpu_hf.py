"""The bridge on a CUDA device; run by hand with `pytest -m gpu`."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from pathlib import Path

import micro
import numpy as np
import pytest
import torch
from naive import greedy
from test_hf_engine import (
    assigned,
    both,
    by_data,
    in_place,
    loaded,
    merged,
    narrowed,
    one_module,
    trained,
)
from test_hf_generate import BATCH, EXAMPLES, bridged, new_tokens, padded, text
from test_hf_model import golden_inputs
from test_model import NAMES
from transformers import AutoModelForCausalLM, AutoProcessor

import phisight.hf
from phisight.hf import Phi3VForCausalLM

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def tiny_bridge(tiny_folder: Path) -> Phi3VForCausalLM:
    model = AutoModelForCausalLM.from_pretrained(
        tiny_folder, dtype=torch.float32, device_map="cuda", trust_remote_code=True
    )
    model.generation_config.eos_token_id = None
    return model


@pytest.mark.parametrize("name", NAMES)
def test_official_logits_and_tokens(
    tiny_bridge: Phi3VForCausalLM, tiny_folder: Path, name: str
) -> None:
    inputs, arrays = golden_inputs(tiny_folder, name)
    out = tiny_bridge.generate(
        **inputs.to("cuda:0"),
        max_new_tokens=32,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    logits = out.logits[0].cpu().numpy()
    assert np.abs(logits - arrays["logits"]).max() <= 1e-4 * np.abs(arrays["logits"]).max()
    expected = arrays.get("nocache_tokens", arrays["tokens"])
    new = out.sequences[:, arrays["input_ids"].shape[1] :]
    assert np.array_equal(new.cpu().numpy(), expected)


@pytest.mark.parametrize("options", [{}, {"use_cache": False}, {"num_beams": 1}])
def test_rows_of_a_batch_cross_the_border_each_by_itself(options: dict[str, object]) -> None:
    network = micro.network(micro.config()).cuda()
    model = bridged(network).cuda()
    rows = [text(length, length) for length in (1, 38, 39, 40, 41, 25)]
    inputs = {key: value.cuda() for key, value in padded(rows).items()}
    got = new_tokens(model, inputs, max_new_tokens=20, **options)
    for row, tokens in zip(rows, got.tolist(), strict=True):
        assert tokens == greedy(network, row, max_tokens=20)[0]


def test_a_batch_with_pictures_answers_as_each_alone(nano_folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(nano_folder, dtype=torch.float32).cuda()
    processor = AutoProcessor.from_pretrained(nano_folder)
    texts = [prompt for prompt, _ in BATCH]
    pictures = [[EXAMPLES / f"{name}.png" for name in names] for _, names in BATCH]
    together = processor(texts, pictures, padding=True).to("cuda")
    rows = new_tokens(model, together, max_new_tokens=24).tolist()
    for row, prompt, own in zip(rows, texts, pictures, strict=True):
        single = new_tokens(model, processor(prompt, own).to("cuda"), max_new_tokens=24)[0]
        assert row[: len(single)] == single.tolist()


def test_a_model_spread_over_cpu_and_gpu(tiny_folder: Path) -> None:
    inputs, arrays = golden_inputs(tiny_folder, "landscape_nc4")
    spread = {
        "model.embed_tokens": 0,
        "model.vision_embed_tokens": "cpu",
        "model.layers.0": "cpu",
        "model.layers.1": 0,
        "model.layers.2": "cpu",
        "model.layers.3": 0,
        "model.norm": 0,
        "lm_head": "cpu",
    }
    model = AutoModelForCausalLM.from_pretrained(
        tiny_folder, dtype=torch.float32, device_map=spread
    )
    model.generation_config.eos_token_id = None
    out = new_tokens(model, inputs.to("cuda"), max_new_tokens=8)
    assert out[0].tolist() == arrays["tokens"][0][:8].tolist()


def test_nano_reads_the_book_in_bfloat16(nano_folder: Path) -> None:
    model = phisight.hf.Phi3VForCausalLM.from_pretrained(nano_folder).cuda()
    assert model.dtype == torch.bfloat16
    processor = AutoProcessor.from_pretrained(nano_folder)
    prompt, _ = BATCH[3]
    inputs = processor(prompt, EXAMPLES / "book.png").to("cuda:0")
    answer = processor.decode(
        new_tokens(model, inputs, max_new_tokens=100)[0], skip_special_tokens=True
    )
    assert answer == 'The title of the book is "ALONE" and the author is Morgan Maxwell.'


# The engine behind `generate`, its steps as the modules do them and in CUDA graphs.


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("fused", [False, None])
@pytest.mark.parametrize("change", [in_place, by_data, loaded, assigned, trained, merged, narrowed])
def test_answers_are_of_the_weights_as_they_are(
    change: Callable[..., None], fused: bool | None
) -> None:
    model = bridged(micro.network(micro.config())).cuda()
    model.engine.fused = fused
    inputs = {key: value.cuda() for key, value in padded([text(70), text(35, 1)]).items()}
    before, _ = both(model, inputs, max_new_tokens=16, do_sample=False)
    change(model)
    ours, theirs = both(model, inputs, max_new_tokens=16, do_sample=False)
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, before)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("change", [in_place, by_data, loaded, assigned, merged, one_module])
def test_graphs_read_the_weights_as_they_are(
    tiny_folder: Path, change: Callable[..., None]
) -> None:
    """Kept graphs against a model that never had any, bit for bit."""
    model = Phi3VForCausalLM.from_pretrained(tiny_folder, dtype=torch.bfloat16).cuda()
    model.engine.fused = True
    inputs = golden_inputs(tiny_folder, "landscape_nc4")[0].to("cuda:0")

    def ask(asked: Phi3VForCausalLM) -> torch.Tensor:
        ids: torch.Tensor = asked.generate(
            **inputs, max_new_tokens=12, do_sample=False, eos_token_id=[]
        )
        assert asked.engine.taken == "the engine"
        return ids

    before = ask(model)
    assert torch.equal(ask(model), before)
    change(model)
    fresh = copy.deepcopy(model)
    after = ask(model)
    assert torch.equal(after, ask(fresh))
    assert not torch.equal(after, before)


def test_the_engine_s_memory_is_the_call_s(tiny_folder: Path) -> None:
    model = Phi3VForCausalLM.from_pretrained(tiny_folder, dtype=torch.bfloat16).cuda()
    model.engine.fused = False
    inputs = {"input_ids": torch.tensor([text(30)], device="cuda")}
    model.generate(**inputs, max_new_tokens=20, do_sample=False)
    held = torch.cuda.memory_allocated()
    for _ in range(3):
        model.generate(**inputs, max_new_tokens=20, do_sample=False)
    assert model.engine.taken == "the engine"
    assert torch.cuda.memory_allocated() <= held
    model.engine.fused = True
    free = []
    for _ in range(3):  # the first leaves what libraries keep for themselves: 77 MB on an H100
        model.generate(**inputs, max_new_tokens=20, do_sample=False)
        kept = torch.cuda.memory_allocated()
        model.engine.free()
        gc.collect()
        free.append(torch.cuda.memory_allocated())
        assert kept > free[-1] + 2**20
    assert free[2] <= free[0] <= held + 2**27
