"""The Gaussian reference beside a diagnostic, and when there is none to take a difference with.

"Excess" always names its reference: `excess_over_gaussian` is a statistic less that of a perfect
denoiser on Gaussian data of the same mean and covariance, in the statistic's own
units, with the statistic's own error. For other data that reference is not the data's own floor.
"""

import xarray as xr

from exposure_bias.clipping import UNCLIPPED
from exposure_bias.jackknife import Estimate
from exposure_bias.recording import Recording
from exposure_bias.references import gaussian_of
from exposure_bias.results.terms import SHARE, Term

EXCESS = Term(
    "excess over the Gaussian reference",
    SHARE,
    "The number less that of a perfect denoiser of Gaussian data with these very steps.",
)


def reference_of(recording: Recording) -> tuple[xr.Dataset | None, dict[str, str]]:
    """The recording's Gaussian reference, or None, and attributes.

    These say why there is none or what it leaves out.
    """
    run = recording.run
    if run.no_reference:
        return None, {"no_reference": run.no_reference}
    reference = gaussian_of(recording)
    if reference is None:
        why = (
            f"sampler {run.sampler} has no Gaussian reference"
            if run.linear_steps is None
            else "of states this large only the leading directions are known"
        )
        return None, {"no_reference": why}
    left_out = (
        {} if run.clip == UNCLIPPED else {"reference": "Gaussian, without this run's clipping"}
    )
    return reference, left_out


def with_excess(
    dataset: xr.Dataset, dims: tuple[str, ...], name: str, estimate: Estimate
) -> xr.Dataset:
    """The dataset with excess_over_gaussian: `estimate` less `name`_gaussian, and its interval."""
    reference = dataset[f"{name}_gaussian"].values
    error = estimate.linear_error
    dataset = dataset.assign(excess_over_gaussian=(dims, estimate.value - reference))
    dataset["excess_over_gaussian_se"] = (dims, error, {"scale": "linear"})
    kinds = [("", estimate.ends()), ("_band", estimate.ends(estimate.widest))]
    for kind, (low, high) in kinds:
        dataset[f"excess_over_gaussian{kind}_low"] = (dims, low - reference)
        dataset[f"excess_over_gaussian{kind}_high"] = (dims, high - reference)
    return dataset
