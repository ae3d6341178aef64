"""Models by name: which there are, which one is used, where they lie, how they are fetched.

Knows nothing of what is inside a model but `model_type` in config.json and the names of the files
with weights. Only this room knows huggingface_hub.
"""

from __future__ import annotations

from phisight.hub.find import ModelFolder, find_model, use_model

__all__ = ["ModelFolder", "find_model", "use_model"]
