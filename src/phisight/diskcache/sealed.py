"""Safetensors files with labels and a hash of everything in their header, and whether they fit."""

from __future__ import annotations

import hashlib
import json

FORMAT = "phisight 1"  # of the files: others are not read
LONGEST_HEADER = 2**20  # bytes


def sealed(blob: bytes, labels: dict[str, str]) -> list[bytes | memoryview]:
    """The pieces of a safetensors file whose header also has labels, and a hash of all."""
    length = int.from_bytes(blob[:8], "little")
    tensors, data = json.loads(blob[8 : 8 + length]), memoryview(blob)[8 + length :]
    tensors.pop("__metadata__", None)
    header = {"__metadata__": labels | {"hash": _hash(tensors, labels, data)}, **tensors}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return [len(text).to_bytes(8, "little"), text, data]


def fault_of(blob: bytes, labels: dict[str, str]) -> str | None:
    """What is wrong with a file; None if it is the one that was sealed with these labels."""
    length = int.from_bytes(blob[:8], "little")
    if len(blob) < 8 or length > min(LONGEST_HEADER, len(blob) - 8):
        return "it is cut short, or no safetensors file"
    try:
        tensors = json.loads(blob[8 : 8 + length])
        found = tensors.pop("__metadata__")
        digest = found.pop("hash")
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return "its header is damaged"
    if found != labels:
        return "it was written for another model or by another version"
    if digest != _hash(tensors, labels, memoryview(blob)[8 + length :]):
        return "its hash does not fit: it is damaged"
    return None


def _hash(tensors: dict[str, object], labels: dict[str, str], data: memoryview) -> str:
    link = hashlib.sha256(json.dumps([tensors, labels], sort_keys=True).encode())
    link.update(data)
    return link.hexdigest()
