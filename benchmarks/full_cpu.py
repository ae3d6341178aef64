"""The full 4.1 B model on the CPU against transformers' CLIP and Phi3 in bfloat16, same weights.

    python tests/reference/make_checkpoint.py FOLDER --preset full --files tests/data/phi3v
    phisight quantize FOLDER OURS
    python benchmarks/full_cpu.py FOLDER [ROUNDS [OURS [ACTIVATIONS]]]

One picture at 4 crops (757 image tokens), interleaved: vision, prefill, decode by ours, then by
theirs, ROUNDS times over, and in every other round a prompt of 2,529 tokens. Ours has bfloat16
weights, shared in memory with theirs, or those of the folder OURS, perhaps with rounded inputs
(ACTIVATIONS is int8). Theirs leaves the projector out and is handed the finished input embeddings,
so it has a little less to do; time to the first token is vision and prefill. Needs transformers and
about 12 GB of memory.
"""

from __future__ import annotations

import random
import resource
import statistics
import sys
import time
from pathlib import Path

import torch
import transformers
from PIL import Image
from record import record, spread
from safetensors import safe_open
from transformers import CLIPVisionConfig, CLIPVisionModel, Phi3Config, Phi3ForCausalLM

import phisight
from phisight.engine.engine import Engine
from phisight.engine.request import Request, Token
from phisight.jsonfile import read_json
from phisight.model.phi3v import Crops
from phisight.params import EngineConfig, SamplingParams

NEW_TOKENS = 16
PARAMS = SamplingParams(max_tokens=NEW_TOKENS)
LONG = 2529  # tokens: a picture of 16 crops and a question
PICTURE = Path(__file__).parents[1] / "examples" / "chart.png"
TOWER = "model.vision_embed_tokens.img_processor.vision_model."


def rss_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def theirs(folder: Path, model: phisight.Model) -> tuple[CLIPVisionModel, Phi3ForCausalLM]:
    """transformers' two networks over the tensors already in memory."""
    raw = read_json(folder / "config.json")
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    names += ("vocab_size", "rms_norm_eps", "rope_theta", "rope_scaling", "sliding_window")
    names += ("max_position_embeddings", "original_max_position_embeddings")
    values = {name: raw[name] for name in names}
    values["rope_scaling"] = {**raw["rope_scaling"], "type": "longrope"}
    config = Phi3Config(**values, pad_token_id=0, attn_implementation="sdpa")
    vision = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
        attn_implementation="sdpa",
    )
    with torch.device("meta"):
        language, clip = Phi3ForCausalLM(config), CLIPVisionModel(vision)
    state = model.network.state_dict()
    wanted = language.state_dict()
    language.load_state_dict({k: state[k] for k in wanted}, strict=True, assign=True)
    index = read_json(folder / "model.safetensors.index.json")["weight_map"]
    tensors = {}
    for name in clip.state_dict():
        if (TOWER + name) in state:
            tensors[name] = state[TOWER + name]
        elif (TOWER + name) in index:
            with safe_open(folder / index[TOWER + name], framework="pt") as file:
                tensors[name] = file.get_tensor(TOWER + name)
    clip.load_state_dict(tensors, strict=False, assign=True)
    for module in (language, clip):  # buffers made on the meta device
        for part in module.modules():
            if "position_ids" in part._buffers:
                part.position_ids = torch.arange(577)[None]
    language.model.rotary_emb = type(language.model.rotary_emb)(config)
    return clip.eval(), language.eval()


class Clock:
    """Seconds since given starts, by name; told as they come, but for a token's."""

    def __init__(self) -> None:
        self.times: dict[str, list[float]] = {}

    def __call__(self, name: str, start: float) -> None:
        seconds = time.perf_counter() - start
        self.times.setdefault(name, []).append(seconds)
        if "decode" not in name:
            print(name, round(seconds, 2), file=sys.stderr, flush=True)


def answer(engine: Engine, request: Request, clock: Clock) -> list[int]:
    engine.add(request)
    tokens: list[int] = []
    start = time.perf_counter()
    while not engine.is_idle:
        for output in engine.step():
            assert isinstance(output.result, Token)
            clock("ours_decode" if tokens else "ours_prefill", start)
            start = time.perf_counter()
            tokens.append(output.result.token_id)
    return tokens


def answer_theirs(language: Phi3ForCausalLM, embeds: torch.Tensor, clock: Clock) -> list[int]:
    start = time.perf_counter()
    out = language(inputs_embeds=embeds, use_cache=True, logits_to_keep=1)
    tokens = [int(out.logits[0, -1].argmax())]
    clock("theirs_prefill", start)
    for _ in range(NEW_TOKENS - 1):
        start = time.perf_counter()
        last = torch.tensor([tokens[-1:]])
        out = language(last, past_key_values=out.past_key_values, use_cache=True)
        tokens.append(int(out.logits[0, -1].argmax()))
        clock("theirs_decode", start)
    return tokens


def ratios(times: dict[str, list[float]]) -> dict[str, float]:
    """Medians of ours over theirs."""
    parts = ("vision", "prefill", "decode", "long_prefill", "first_token")
    return {
        part: round(
            statistics.median(
                a / b for a, b in zip(times[f"ours_{part}"], times[f"theirs_{part}"], strict=True)
            ),
            3,
        )
        for part in parts
    }


def total(times: dict[str, list[float]], who: str) -> float:
    """Seconds for a whole answer."""
    first, step = (statistics.median(times[f"{who}_{part}"]) for part in ("first_token", "decode"))
    return round(first + (NEW_TOKENS - 1) * step, 2)


@torch.inference_mode()
def main() -> None:
    folder = Path(sys.argv[1])
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    before, began = rss_gib(), time.perf_counter()
    ours = Path(sys.argv[3]) if len(sys.argv) > 3 else folder
    activations = sys.argv[4] if len(sys.argv) > 4 else None
    model = phisight.load(
        ours, device="cpu", dtype="bfloat16", num_crops=4, activations=activations
    )
    loaded = time.perf_counter() - began
    weights = sum(p.nbytes for p in model.network.parameters()) / 2**30
    for weight in model.network.parameters():
        weight.view(-1)[::2048].float().sum()  # touch every page of the mapping
    peak = rss_gib() - before
    full = model if ours == folder else phisight.load(folder, device="cpu", dtype="bfloat16")
    clip, language = theirs(folder, full)
    config = EngineConfig(prefix_cache=False, image_memory=0.0, chunk_tokens=4096)
    engine = Engine(model.network, config)
    ids = random.Random(0).choices(range(3, 32000), k=LONG)

    with Image.open(PICTURE) as picture:
        prompt = model.processor.prompt("What is this?", [picture])
    image = prompt.images[0]
    crops = image.pixels.bfloat16()
    shown = Crops(crops, image.layout.rows, image.layout.cols, image.num_tokens, image.key)
    clock, tokens = Clock(), {}
    for turn in range(rounds):
        start = time.perf_counter()
        encoded = model.network.encode_images([shown])
        clock("ours_vision", start)
        tokens["ours"] = answer(engine, Request(prompt.ids, encoded, PARAMS), clock)
        start = time.perf_counter()
        clip(crops, output_hidden_states=True)
        clock("theirs_vision", start)
        embeds = model.network.embed(prompt.ids, encoded)[None]
        tokens["theirs"] = answer_theirs(language, embeds, clock)
        if turn % 2 == 0:
            start = time.perf_counter()
            answer(engine, Request(ids, [], SamplingParams(max_tokens=1)), Clock())
            clock("ours_long_prefill", start)
            start = time.perf_counter()
            language(torch.tensor([ids]), use_cache=True, logits_to_keep=1)
            clock("theirs_long_prefill", start)
    times = clock.times
    for who in ("ours", "theirs"):
        pairs = zip(times[f"{who}_vision"], times[f"{who}_prefill"], strict=True)
        times[f"{who}_first_token"] = [vision + prefill for vision, prefill in pairs]
    same = [a == b for a, b in zip(tokens["ours"], tokens["theirs"], strict=True)]
    step, read = (statistics.median(times[f"ours_{part}"]) for part in ("decode", "prefill"))
    moved = model.network.bytes_per_step(1, len(prompt.ids))
    record(
        "full_cpu",
        transformers=transformers.__version__,
        weights=model.config.weights or "bfloat16",
        activations=activations,
        prompt_tokens=len(prompt.ids),
        long_prompt_tokens=LONG,
        crops=len(crops),
        load_s=round(loaded, 2),
        weights_gib=round(weights, 2),
        peak_over_weights=round(peak / weights, 3),
        **{f"{name}_s": spread(seconds) for name, seconds in times.items()},
        ours_over_theirs=ratios(times),
        total_s={who: total(times, who) for who in ("ours", "theirs")},
        decode_gb_per_s=round(moved / step / 1e9, 1),
        prefill_tflop_per_s=round(model.network.flops(len(prompt.ids), 0) / read / 1e12, 3),
        same_first_tokens=same.index(False) if False in same else len(same),
        bar="ours_over_theirs at most 0.67 in vision, 0.55 to the first token",
    )


if __name__ == "__main__":
    main()
