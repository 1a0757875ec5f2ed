"""A `Run` where a test makes a recording by hand."""

from typing import Any

from exposure_bias.run import DataId, ModelId, Run
from exposure_bias.schedules import Level


def run(images: int = 0, **changes: Any) -> Run:
    """A run of a model of no consequence on so many images."""
    levels = (Level(0.0, 0.5, 0.5), Level(-1.0, 1.0, 0.0))
    common: dict[str, Any] = {
        "schedule": "linear",
        "parameterisation": "vp",
        "levels": levels,
        "sampler": "ddpm",
    }
    return Run(
        model=ModelId("model", "weights", "epsilon"),
        data=DataId("data", images=images),
        **(common | changes),
    )
