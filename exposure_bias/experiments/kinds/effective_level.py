"""The kind of what `effective_level` returns."""

import numpy as np
import xarray as xr

from exposure_bias.results import Column, Drawing, Kind, Term
from exposure_bias.results.numbers import farthest_from_one, told
from exposure_bias.results.tables import LEVEL, level_in_words
from exposure_bias.results.terms import SHARE


def _sentence(results: xr.Dataset) -> str:
    ratio = results["network_ratio"].values
    if not np.isfinite(ratio).any():
        return "The network hardly tells noise levels apart, so it does not say which these are."
    here = results.isel(step=farthest_from_one(ratio))
    name = "network_ratio_gaussian"
    perfect = ""
    if name in results:
        perfect = f"; a perfect network of Gaussian data shows {float(here[name]):.3g}"
    return (
        f"At {level_in_words(here)} the network sees {told(here, 'network_ratio')} times the noise"
        f" that the level has (right is 1 with very many steps{perfect})."
    )


EFFECTIVE_LEVEL = Kind(
    name="effective_level",
    title="Effective noise level",
    question=(
        "Which noise level do the chain's states look like, by their power in each frequency and by"
        " what the network says of them?"
    ),
    variables={
        "network_ratio": Term(
            "effective noise level, by the network",
            SHARE,
            "σ/α of the true states that the network says as much noise of, over the level's own.",
            1,
        ),
        "power_ratio": Term(
            "effective noise level, by power",
            SHARE,
            "σ/α of the true states of equal power, over the level's own, by frequency. Empty where"
            " the chain has less power than the data.",
            1,
        ),
        "slope": Term(
            "sensitivity",
            SHARE,
            "d log ‖ε̂‖ / d log σ/α, at true states of other levels under the same label.",
        ),
    },
    columns=(
        LEVEL,
        Column("effective over own σ/α", "network_ratio"),
        Column("perfect network of Gaussian data", "network_ratio_gaussian"),
    ),
    sentence=_sentence,
    figures=(Drawing("exposure_bias.plots:effective_level"),),
    needs={"network_ratio": ("step",), "network_ratio_se": ("step",)},
)
