"""What a loaded model computes, as one hash: for whoever keeps what it has computed."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors.torch import save

from phisight import __version__
from phisight.model.phi3v import Phi3V

_PIECES, _PIECE = 4, 1024  # numbers of each parameter that are looked at


def identity_of(model: Phi3V, folder: Path) -> bytes:
    """Equal for the same weights in the same folder, packing, dtype and versions; 32 bytes.

    To read all the weights would take seconds at 4 B parameters. So it is their files' names, sizes
    and times of change, and some numbers of every one of them: a fine-tuned model in a folder of
    its own has other times, one copied with its times kept has other numbers, and one in which a
    few rows were changed has been written since.
    """
    link = hashlib.sha256(f"{__version__} {torch.__version__} {model.config}".encode())
    for path in sorted(folder.glob("*.safetensors")):
        found = path.stat()
        link.update(f"{path.name} {found.st_size} {found.st_mtime_ns};".encode())
    samples = {}
    for name, parameter in model.named_parameters():
        numbers = parameter.detach().reshape(-1)
        link.update(f"{name} {parameter.dtype} {tuple(parameter.shape)};".encode())
        step = max(1, (len(numbers) - _PIECE) // (_PIECES - 1))
        starts = range(0, len(numbers), step)[:_PIECES]
        pieces = [numbers[start : start + _PIECE] for start in starts]
        samples[name] = torch.cat(pieces).cpu().view(torch.uint8)
    link.update(save(samples))
    return link.digest()
