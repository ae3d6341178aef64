"""The official classes' names, on our modules, for today's transformers.

    import phisight.hf                      # before the how-to's own code

registers them, so that AutoModelForCausalLM, AutoProcessor, pipelines and their like take them for
every folder that names the official classes: its code is not run, whatever `trust_remote_code`
says. Folders that name others, to get their code run, are transformers' own affair: it asks, and
trust_remote_code=True says yes. Nothing here needs it.
"""

from __future__ import annotations

try:
    from transformers import (
        AutoConfig,
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
        AutoProcessor,
    )

    # Not from the top: there transformers 5.17 says that it needs torchvision, which we do not.
    from transformers.models.auto.image_processing_auto import AutoImageProcessor
    from transformers.models.auto.video_processing_auto import AutoVideoProcessor
except ModuleNotFoundError as error:
    if error.name != "transformers":
        raise
    raise ModuleNotFoundError(
        "phisight.hf needs transformers: pip install 'phisight[hf]'", name=error.name
    ) from None

from phisight.hf.cache import Phi3VCache
from phisight.hf.collator import Phi3VCollator
from phisight.hf.config import Phi3VConfig
from phisight.hf.image_processor import Phi3VImageProcessor, Phi3VVideoProcessor
from phisight.hf.model import Phi3VForCausalLM
from phisight.hf.processor import Phi3VProcessor

__all__ = [
    "Phi3VCache",
    "Phi3VCollator",
    "Phi3VConfig",
    "Phi3VForCausalLM",
    "Phi3VImageProcessor",
    "Phi3VProcessor",
]


def _register() -> None:
    """Tell transformers' Auto classes; again after a reload."""
    AutoConfig.register("phi3_v", Phi3VConfig, exist_ok=True)
    for auto in (AutoModelForCausalLM, AutoModelForImageTextToText):
        auto.register(Phi3VConfig, Phi3VForCausalLM, exist_ok=True)
    backends = {"pil": Phi3VImageProcessor, "torchvision": Phi3VImageProcessor}
    AutoImageProcessor.register(Phi3VConfig, image_processor_classes=backends, exist_ok=True)
    AutoVideoProcessor.register(Phi3VConfig, Phi3VVideoProcessor, exist_ok=True)
    AutoProcessor.register(Phi3VConfig, Phi3VProcessor, exist_ok=True)


_register()
