"""The full 4.1 B model on the CPU in bfloat16, against transformers' CLIP and Phi3, same weights.

    python tests/reference/make_checkpoint.py FOLDER --preset full --files tests/data/phi3v
    python benchmarks/full_cpu.py FOLDER [ROUNDS]

One picture at 4 crops (757 image tokens), interleaved: vision, prefill, decode by ours, then by
theirs, ROUNDS times over. Both share the weights in memory. Theirs leaves the projector out and
is handed the finished input embeddings, so it has a little less to do. Needs transformers and
about 12 GB of memory.
"""

from __future__ import annotations

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
from phisight.params import EngineConfig, SamplingParams

NEW_TOKENS = 16
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


@torch.inference_mode()
def main() -> None:
    folder = Path(sys.argv[1])
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    before, began = rss_gib(), time.perf_counter()
    model = phisight.load(folder, device="cpu", dtype="bfloat16", num_crops=4)
    loaded = time.perf_counter() - began
    weights = sum(p.nbytes for p in model.network.parameters()) / 2**30
    for weight in model.network.parameters():
        weight.view(-1)[::2048].float().sum()  # touch every page of the mapping
    peak = rss_gib() - before
    clip, language = theirs(folder, model)
    engine = Engine(model.network, EngineConfig(prefix_cache=False, image_memory=0.0))

    with Image.open(PICTURE) as picture:
        prompt = model.processor.prompt("What is this?", [picture])
    image = prompt.images[0]
    crops = image.pixels.bfloat16()
    times: dict[str, list[float]] = {}
    tokens: dict[str, list[int]] = {"ours": [], "theirs": []}

    def clock(name: str, start: float) -> None:
        times.setdefault(name, []).append(time.perf_counter() - start)

    for _ in range(rounds):
        start = time.perf_counter()
        encoded = [model.network.encode_image(crops, image.layout.rows, image.layout.cols)]
        clock("ours_vision", start)
        engine.add(Request(prompt.ids, encoded, SamplingParams(max_tokens=NEW_TOKENS)))
        tokens["ours"] = []
        start = time.perf_counter()
        while not engine.is_idle:
            for output in engine.step():
                assert isinstance(output.result, Token)
                clock("ours_decode" if tokens["ours"] else "ours_prefill", start)
                start = time.perf_counter()
                tokens["ours"].append(output.result.token_id)

        start = time.perf_counter()
        clip(crops, output_hidden_states=True)
        clock("theirs_vision", start)
        embeds = model.network.embed(prompt.ids, encoded)[None]
        start = time.perf_counter()
        out = language(inputs_embeds=embeds, use_cache=True, logits_to_keep=1)
        tokens["theirs"] = [int(out.logits[0, -1].argmax())]
        clock("theirs_prefill", start)
        for _ in range(NEW_TOKENS - 1):
            start = time.perf_counter()
            last = torch.tensor([tokens["theirs"][-1:]])
            out = language(last, past_key_values=out.past_key_values, use_cache=True)
            tokens["theirs"].append(int(out.logits[0, -1].argmax()))
            clock("theirs_decode", start)

    parts = ("vision", "prefill", "decode")
    ratios = {
        part: round(
            statistics.median(
                a / b for a, b in zip(times[f"ours_{part}"], times[f"theirs_{part}"], strict=True)
            ),
            3,
        )
        for part in parts
    }
    step = statistics.median(times["ours_decode"])
    moved = model.network.bytes_per_step(1, len(prompt.ids))
    total = {
        who: sum(statistics.median(times[f"{who}_{part}"]) for part in parts[:2])
        + (NEW_TOKENS - 1) * statistics.median(times[f"{who}_decode"])
        for who in ("ours", "theirs")
    }
    same = [a == b for a, b in zip(tokens["ours"], tokens["theirs"], strict=True)]
    record(
        "full_cpu",
        transformers=transformers.__version__,
        prompt_tokens=len(prompt.ids),
        crops=len(crops),
        load_s=round(loaded, 2),
        weights_gib=round(weights, 2),
        peak_over_weights=round(peak / weights, 3),
        **{f"{name}_s": spread(seconds) for name, seconds in times.items()},
        ours_over_theirs=ratios,
        total_s={who: round(seconds, 2) for who, seconds in total.items()},
        decode_gb_per_s=round(moved / step / 1e9, 1),
        prefill_tflop_per_s=round(
            model.network.flops(len(prompt.ids), 0)
            / statistics.median(times["ours_prefill"])
            / 1e12,
            3,
        ),
        same_first_tokens=same.index(False) if False in same else len(same),
        bar="ours_over_theirs at most 1 in total",
    )


if __name__ == "__main__":
    main()
