"""Which noise level do the chain's states look like? The arithmetic. No torch here.

A state of the forward process at noise-to-signal ratio r = σ/α has, per mode of a band with data
power S, E|x/α|² = S + r². So the chain's power P says which level its states resemble,

    r_power² = P/α² − S,

band by band: 1.05 r in a band means that there the states look 5 % noisier than they should, and
less than r that they lack power. The network has an opinion too. It says more noise, ‖ε̂‖, where a
state looks noisier than the level that it is told. With s = d log ‖ε̂‖ / d log r measured on true
states of other levels r under the same label,

    log(r_network/r) = log(‖ε̂(x̂)‖ / ‖ε̂(x)‖) / s.

Neither is 1 for a perfect network with few steps: the solver's error is in the states. So the value
of a perfect network of Gaussian data with the same steps and sampler stands beside both.
(Effective noise levels: arXiv 2604.16044, which gives neither intervals nor such a value.)
"""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from exposure_bias.diagnostics.excess import reference_of
from exposure_bias.jackknife import (
    Array,
    Estimate,
    grouped,
    jackknife,
    sums_by_group,
    why_no_interval,
    with_estimates,
)
from exposure_bias.recording import Recording
from exposure_bias.references import gaussian_power
from exposure_bias.statistics.bands import dct

LEAST_SLOPE = 0.1  # below it the network does not tell noise levels apart


def power_ratio(recording: Recording) -> tuple[Estimate, Array | None]:
    """r_power/r over (step, frequency) at the noisy levels, and a perfect network's.

    NaN where the chain has less power than the data alone.
    """
    chain, data = recording["chain"].isel(step=slice(-1)), recording["data"]
    modes = chain["frequency_modes"].values
    alpha, sigma = (chain[k].values[:, None] for k in ("alpha", "sigma"))
    power = grouped(chain, "state_spectrum").mean(2) / modes
    known = grouped(data, "state_spectrum").mean(2)[:, 0] / modes

    def ratio(n: float, total: Array, of_data: Array) -> Array:
        return _ratio(total / n, of_data / n, alpha, sigma)

    found = jackknife(ratio, chain["count"].values, power, known, scale="log")
    reference, _ = reference_of(recording)
    if reference is None:
        return found, None
    bands = dct(*data["mean"].shape[1:])
    both = gaussian_power(reference, recording, bands)
    perfect, expected = (p[:-1, :, : len(modes)].mean(1) / modes for p in both)
    of_law = (expected - sigma**2) / np.where(alpha > 0, alpha, np.nan) ** 2
    return found, _ratio(perfect, of_law, alpha, sigma)


def _ratio(power: Array, of_data: Array, alpha: Array, sigma: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        square = power / alpha**2 - of_data
        ratio: Array = np.sqrt(np.where(square > 0, square, np.nan)) * alpha / sigma
    return ratio


def network_ratio(
    slope: Sequence[float] | Array, recording: Recording
) -> tuple[Estimate, Array | None]:
    """r_network/r over (step) at the noisy levels, and a perfect network's.

    slope: d log ‖ε̂‖ / d log r at each recorded noisy level, NaN where it is not known.
    """
    forward, chain = (recording[k].isel(step=slice(-1)) for k in ("forward", "chain"))
    norms = [s["epsilon_norm"].transpose("sample", "step").values for s in (chain, forward)]
    sums = [sums_by_group(norm.astype(np.float64), chain["image"].values) for norm in norms]
    steep = np.asarray(slope, np.float64)
    steep = np.where(np.abs(steep) >= LEAST_SLOPE, steep, np.nan)

    def ratio(n: float, above: Array, below: Array) -> Array:
        ratio: Array = np.exp(np.log(above / below) / steep)
        return ratio

    found = jackknife(ratio, chain["count"].values, *sums, scale="log")
    reference, _ = reference_of(recording)
    if reference is None:
        return found, None
    perfect = reference["epsilon_norm_chain"].values / reference["epsilon_norm_forward"].values
    return found, np.exp(np.log(perfect[:-1]) / steep)


def effective_level_of(slope: Array, recording: Recording) -> xr.Dataset:
    """Both effective levels of a recording, with their intervals and references."""
    chain = recording["chain"].isel(step=slice(-1))
    names = ("step", "timestep", "alpha", "sigma")
    result = xr.Dataset(coords={name: chain[name] for name in names})
    found, perfect = network_ratio(slope, recording)
    result = with_estimates(result, ("step",), network_ratio=found)
    result["slope"] = ("step", slope)
    if perfect is not None:
        result["network_ratio_gaussian"] = ("step", perfect)
    if "state_spectrum" in chain:
        result = result.assign_coords(frequency=chain["frequency"])
        found, perfect = power_ratio(recording)
        result = with_estimates(result, ("step", "frequency"), power_ratio=found)
        if perfect is not None:
            result["power_ratio_gaussian"] = (("step", "frequency"), perfect)
    reasons = reference_of(recording)[1]
    result.attrs = recording.description | why_no_interval(chain["count"].values) | reasons
    return result
