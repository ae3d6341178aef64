"""phisight: run Phi-3-Vision on your own machine.

    import phisight
    model = phisight.load()                  # the bundled `nano`; or a folder, a name, a hub id
    print(model.ask("What does this chart show?", images=["chart.png"]).text)

Names are imported on first use, so that `import phisight` and `phisight --help` need no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from phisight.answer import Answer, Stream, Timings, TokenLogprob, Usage
    from phisight.api import Model, load
    from phisight.chat import Chat
    from phisight.cost import Cost
    from phisight.errors import InputError, PhisightError
    from phisight.fetch import NO_URLS, PUBLIC_URLS, UrlPolicy
    from phisight.model.phi3v import EncodedImage
    from phisight.params import SamplingParams
    from phisight.preview import preview_crops
    from phisight.processing.image import open_image
    from phisight.processing.processor import Prompt
    from phisight.tasks import table_rows

__version__ = "0.1.0"

_OWNERS = {
    "Answer": "answer",
    "Chat": "chat",
    "Cost": "cost",
    "EncodedImage": "model.phi3v",
    "InputError": "errors",
    "Model": "api",
    "NO_URLS": "fetch",
    "PUBLIC_URLS": "fetch",
    "PhisightError": "errors",
    "Prompt": "processing.processor",
    "SamplingParams": "params",
    "Stream": "answer",
    "Timings": "answer",
    "TokenLogprob": "answer",
    "UrlPolicy": "fetch",
    "Usage": "answer",
    "load": "api",
    "open_image": "processing.image",
    "preview_crops": "preview",
    "table_rows": "tasks",
}

__all__ = [
    "NO_URLS",
    "PUBLIC_URLS",
    "Answer",
    "Chat",
    "Cost",
    "EncodedImage",
    "InputError",
    "Model",
    "PhisightError",
    "Prompt",
    "SamplingParams",
    "Stream",
    "Timings",
    "TokenLogprob",
    "UrlPolicy",
    "Usage",
    "load",
    "open_image",
    "preview_crops",
    "table_rows",
]


def __getattr__(name: str) -> object:
    if name not in _OWNERS:
        raise AttributeError(f"module 'phisight' has no attribute {name!r}")
    return getattr(importlib.import_module(f"phisight.{_OWNERS[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
