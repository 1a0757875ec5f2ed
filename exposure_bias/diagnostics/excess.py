"""The Gaussian reference beside a diagnostic, and when there is none to take a difference with.

"Excess" always names its reference: `excess_over_gaussian` is the gap less that of a perfect denoiser on Gaussian data
of the same mean and covariance (design §4.4a). For other data that reference is not the data's own floor.
"""

import xarray as xr

from exposure_bias.recording import Recording, is_guided, no_reference
from exposure_bias.references import gaussian_of


def reference_of(recording: Recording) -> tuple[xr.Dataset | None, dict[str, str]]:
    """The recording's Gaussian reference, or None, and attributes that say why there is none or what it leaves out."""
    run = recording.provenance["run"]
    guidance = run["model"].get("guidance")
    if is_guided(guidance):
        return None, {"no_reference": no_reference(guidance)}
    reference = gaussian_of(recording)
    if reference is None:
        return None, {"no_reference": f"sampler {run['sampler']} has no Gaussian reference"}
    left_out = {} if run["clip"].startswith("x0 unclipped") else {"reference": "Gaussian, without this run's clipping"}
    return reference, left_out
