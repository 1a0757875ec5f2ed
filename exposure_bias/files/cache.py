"""The folder in which costly results are kept from one run to the next, by their content."""

import os
from pathlib import Path

VARIABLE = "EXPOSURE_BIAS_CACHE"


def folder() -> Path:
    """That of the environment variable EXPOSURE_BIAS_CACHE, by default ~/.cache/exposure_bias."""
    return Path(os.environ.get(VARIABLE) or Path.home() / ".cache" / "exposure_bias")
