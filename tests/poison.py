"""Model folders whose own code leaves a mark when it is run, and a program that loads them.

    python poison.py NAME_OF_A_BRIDGE FOLDER...     # prints what came of it, one JSON object a line

Every load is tried with trust_remote_code True, False and absent.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import micro
import torch

MARK = "mark"  # beside the folders
_OFFICIAL = Path(__file__).parent / "data" / "phi3v"
_CLASS = """
class {name}:
    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        return cls()
    @classmethod
    def register_for_auto_class(cls, *args, **kwargs):
        pass
"""
_CONFIG = """
from transformers import PreTrainedConfig
class Phi3VConfig(PreTrainedConfig):
    model_type = "phi3_v"
"""
_FILES = {
    "configuration_phi3_v.py": _CONFIG,
    "modeling_phi3_v.py": "".join(map(_CLASS.format_map, [{"name": "Phi3VForCausalLM"}])),
    "processing_phi3_v.py": _CLASS.format(name="Phi3VProcessor"),
    "image_processing_phi3_v.py": _CLASS.format(name="Phi3VImageProcessor"),
    "image_embedding_phi3_v.py": "",
    "tokenization_phi3_v.py": _CLASS.format(name="Phi3VTokenizer"),
    "custom_generate/generate.py": "def generate(model, *args, **kwargs):\n    pass\n",
}


class Pickled:
    """Leaves the mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (_leave(self.mark, "pickle"),)


def write_pickle(path: Path, mark: Path) -> None:
    torch.save({"model.norm.weight": Pickled(mark)}, path)


def _leave(mark: Path, name: str) -> str:
    return f"with open({str(mark)!r}, 'a') as file: file.write({name!r} + '\\n')\n"


def change(folder: Path, file: str, **changes: Any) -> None:
    """Set keys of one of a folder's JSON files."""
    path = folder / file
    values = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(values | changes))


def write(folder: Path) -> Path:
    """micro with the official `auto_map`s and all the code they name; each file leaves the mark."""
    micro.write(folder)
    mark = folder.parent / MARK
    for name, text in _FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(_leave(mark, name) + text)
    for file in ("config.json", "preprocessor_config.json"):
        change(folder, file, auto_map=json.loads((_OFFICIAL / file).read_text())["auto_map"])
    named = {"AutoProcessor": "processing_phi3_v.Phi3VProcessor"}
    change(folder, "tokenizer_config.json", auto_map=named)
    return folder


def write_hostile(parent: Path) -> list[Path]:
    """Folders that name, each in one place, what the official ones do not."""
    clean = write(parent / "clean")
    code = {"AutoProcessor": "processing_phi3_v.Phi3VProcessor"}

    def copy(name: str, file: str, **changes: Any) -> Path:
        folder = Path(shutil.copytree(clean, parent / name))
        change(folder, file, **changes)
        return folder

    model = "modeling_phi3_v.Phi3VForCausalLM"
    task = {"impl": model, "pt": ["AutoModelForCausalLM"]}
    maps = dict.fromkeys(("AutoConfig", "AutoModelForImageTextToText", "AutoModel"), model)
    videos = {"AutoVideoProcessor": "image_processing_phi3_v.Phi3VImageProcessor"}
    folders = [
        clean,
        copy("other_model_map", "config.json", auto_map=maps),
        copy("custom_pipeline", "config.json", custom_pipelines={"image-text-to-text": task}),
        copy("attention", "config.json", attn_implementation="nobody/kernel:hidden"),
        copy("processor_config", "processor_config.json", auto_map=code),
        copy("video_map", "video_preprocessor_config.json", auto_map=videos),
        copy(
            "named_video_processor",
            "video_preprocessor_config.json",
            video_processor_type="Mine",
            auto_map=videos,
        ),
        copy("named_processor", "preprocessor_config.json", processor_class="Mine"),
        copy("named_image_processor", "preprocessor_config.json", image_processor_type="Mine"),
        copy(
            "tokenizer_map",
            "tokenizer_config.json",
            auto_map={"AutoTokenizer": ["tokenization_phi3_v.Phi3VTokenizer", None]},
        ),
        copy("pickle", "config.json"),
        copy("adapter", "adapter_config.json", peft_type="LORA", r=2, target_modules=["qkv_proj"]),
    ]
    (parent / "pickle" / "model.safetensors").unlink()
    write_pickle(parent / "pickle" / "pytorch_model.bin", parent / MARK)
    write_pickle(parent / "adapter" / "adapter_model.bin", parent / MARK)
    return folders


def loads(bridge: Any) -> dict[str, Callable[..., Any]]:
    """Everything that is tried on a folder."""
    from transformers import (
        AutoConfig,
        AutoModel,
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
        AutoProcessor,
        AutoTokenizer,
        pipeline,
    )
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    autos = (
        AutoConfig,
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
        AutoModel,
        AutoProcessor,
        AutoImageProcessor,
        AutoTokenizer,
    )
    names = ("Phi3VConfig", "Phi3VForCausalLM", "Phi3VProcessor", "Phi3VImageProcessor")
    ours = [getattr(bridge, name) for name in names if hasattr(bridge, name)]
    tried = {each.__name__: each.from_pretrained for each in (*autos, *ours)}
    for task in ("image-text-to-text", "text-generation"):
        tried[task] = lambda folder, task=task, **options: pipeline(task, folder, **options).model
    return tried


def main(bridge: str, *folders: str) -> None:
    __import__(bridge)
    for folder in folders:
        mark = Path(folder).parent / MARK
        for name, load in loads(sys.modules[bridge]).items():
            for trust in (True, False, None):
                for module in [m for m in sys.modules if m.startswith("transformers_modules")]:
                    del sys.modules[module]  # else the same code would not be run again
                mark.write_text("")
                try:
                    result = load(folder, **({} if trust is None else {"trust_remote_code": trust}))
                    came = f"{type(result).__module__}.{type(result).__name__}"
                except Exception as error:  # whatever becomes of a hostile folder
                    came = f"{type(error).__name__}: {error}"
                row = (Path(folder).name, name, trust, came, mark.read_text().split())
                print("\n" + json.dumps(row))  # whatever was asked before it


if __name__ == "__main__":
    main(*sys.argv[1:])
