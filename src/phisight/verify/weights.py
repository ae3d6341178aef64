"""A folder's weights, without loading them: keys, shapes, and values that are no numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from phisight.config import ModelConfig
from phisight.errors import CheckpointError
from phisight.model.files import locate_tensors, stored_shapes
from phisight.model.scan import StoredTensor, another_models_config, scan_file
from phisight.model.weights import check_weights
from phisight.verify.report import Finding, listed, worst


def check_keys(
    folder: Path, config: ModelConfig, refused: Mapping[str, str]
) -> tuple[Finding, bool]:
    """Names and shapes against config.json. Raises CheckpointError."""
    files = locate_tensors(folder)
    for name in sorted({path.name for path in files.values()} & refused.keys()):
        raise CheckpointError(f"{name} {refused[name]}")  # an index may name any file of the folder
    shapes = stored_shapes(files)
    foreign = another_models_config(shapes, config)
    if foreign is None:
        check_weights(folder, config)
    faults = [] if foreign is None else [foreign]
    fine = f"{len(shapes)} tensors, names and shapes as config.json asks"
    return worst("weights", faults, [], fine), not faults


def check_values(folder: Path) -> tuple[Finding, int]:
    """Look through every value of every file that is there, whatever an index says.

    How many there are; 0 where they cannot be used.
    """
    tensors: list[StoredTensor] = []
    faults = []
    for path in sorted(folder.glob("*.safetensors")):
        try:
            tensors += scan_file(path)
        except CheckpointError as error:
            faults.append(str(error))
    bad = [t for t in tensors if t.num_bad]
    if bad:
        names = [f"{t.name} ({t.num_bad} of {t.num_values} values)" for t in bad]
        faults.append(f"{len(bad)} of {len(tensors)} tensors hold NaN or infinity: {listed(names)}")
    if not tensors and not faults:
        faults.append("no tensors to look through")
    count = sum(t.num_values for t in tensors)
    fine = f"{count:,} values in {', '.join(sorted({t.dtype for t in tensors}))}, all finite"
    return worst("values", faults, [], fine), 0 if faults else count
