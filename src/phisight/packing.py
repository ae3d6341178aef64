"""Which format a model's weights are packed in: what its config.json says, what callers may ask."""

from __future__ import annotations

from phisight import jsonfile
from phisight.errors import ConfigError, OptionError
from phisight.params import WEIGHTS


def packed_config(weights: str) -> dict[str, str]:
    """`quantization_config` of a folder with packed weights."""
    return {"quant_method": "phisight", "weights": weights}


def stored_weights(quantization: object) -> str | None:
    """The format in a `quantization_config`; None without one. Raises ConfigError for others'."""
    if quantization is None:
        return None
    for weights in WEIGHTS:
        if quantization == packed_config(weights):
            return weights
    raise ConfigError(
        f"quantization_config={jsonfile.brief(quantization)}: not implemented; only what `phisight "
        "quantize` writes is read, so begin from the model's full weights"
    )


def chosen_weights(stored: str | None, asked: str | None, activations: str | None) -> str | None:
    """The format to run in. Raises OptionError if the weights are packed in another already, or if
    inputs are to be rounded where none are packed."""
    if stored is not None and asked is not None and asked != stored:
        raise OptionError(
            f"weights={asked}: this model's are in {stored} already; begin from its full weights"
        )
    if activations is not None and not (asked or stored):
        raise OptionError(
            f"activations={activations}: only with packed weights; add weights={WEIGHTS[-1]} or "
            "take a folder that `phisight quantize` wrote"
        )
    return asked or stored
