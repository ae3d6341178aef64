"""Stand-ins for what the how-to finds on its own machine: a network, the full model, a GPU.

Owns nothing of phisight: with a network and a GPU, `import phisight.hf` is all the how-to needs.
Here its model name leads to the bundled nano and its picture addresses to this folder.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import requests
import torch
import transformers

import phisight

HERE = Path(__file__).parent
NANO = Path(phisight.__file__).parent / "assets" / "nano"
MODEL_ID = "microsoft/Phi-3-vision-128k-instruct"
PICTURES = {
    "https://g.foolcdn.com/editorial/images/767633/nvidiadatacenterrevenuefy2017tofy2024.png": (
        "chart.png"
    ),
    "https://marketplace.canva.com/EAFPHUaBrFc/1/0/1003w/"
    "canva-black-and-white-modern-alone-story-book-cover-QHBKwQnsgzs.jpg": "book.png",
    "https://hinhnen.ibongda.net/upload/wallpaper/doi-bong/2012/11/22/"
    "arsenal-wallpaper-free.jpg": "pair-a.png",
    "https://assets-webp.khelnow.com/d7293de2fa93b29528da214253f1d8d0/news/uploads/2021/07/"
    "Arsenal-1024x576.jpg.webp": "pair-b.png",
}


def get(url: str, *, stream: bool) -> SimpleNamespace:
    """What the how-to uses of `requests.get`: `.raw`, here a picture of this folder, opened."""
    return SimpleNamespace(raw=(HERE / PICTURES[url]).open("rb"))


def stand_in() -> None:
    """Put the stand-ins in their places, and say so. Goes to a temporary folder."""
    requests.get = get
    print("requests.get gives", ", ".join(PICTURES.values()))

    # transformers takes a folder of that name before it asks the hub.
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    shutil.copytree(NANO, folder / MODEL_ID)
    os.chdir(folder)
    print(MODEL_ID, "is the bundled nano")

    if not torch.cuda.is_available():
        moved = transformers.BatchFeature.to

        def to(self: transformers.BatchFeature, device: str) -> Any:
            return moved(self, device.replace("cuda:0", "cpu"))

        torch.nn.Module.cuda = lambda self: self
        transformers.BatchFeature.to = to
        print("there is no GPU: .cuda() and .to('cuda:0') stay on the CPU")

    transformers.utils.logging.disable_progress_bar()
