"""Where in frequency the chain departs: power spectra of the forward and the chain stream at equal level.

Power is the mean over samples, channels and a band's modes of |c|², c the orthonormal DCT coefficients of x_t − α_t μ,
so that white noise of variance σ² reads σ² at every frequency. For x_t ~ q the expectation is α² S(f) + σ², with S the
data's spectrum (design §4.10). The one number is

    HF = 10 log₁₀ [Σ_{f ≥ ¼} P_chain / Σ_{f ≥ ¼} P_data]  dB at the clean end,   f in cycles per pixel.

It is not zero for a perfect denoiser with finitely many steps; the Gaussian reference says what to expect there.
"""

import numpy as np
import xarray as xr

from exposure_bias.diagnostics.jackknife import T_QUANTILE, Array, grouped, jackknife, why_no_interval, with_errors
from exposure_bias.recording import Recording
from exposure_bias.references import gaussian_of, gaussian_power
from exposure_bias.statistics.bands import Bands, dct

DECIBEL = 10 / np.log(10)
CURVE = ("step", "frequency")


def spectrum(recording: Recording) -> xr.Dataset:
    """Radial power spectra of both streams per level, their ratio with a band, and HF.

    Returns, over (step, frequency), pooled over channels: power_forward, power_chain; power_expected = α²S + σ²;
    ratio = chain / forward with ratio_low, ratio_high (95 %, jackknife on the logarithm); signal_forward and
    signal_chain = (P − σ²)/α², NaN where α²S < σ²; prediction_ratio, of x̂_0 in the chain over x̂_0 in the forward
    stream. power_gaussian, ratio_gaussian: the Gaussian reference, if the sampler has one. Over (frequency):
    power_data and modes. hf in dB (hf_low, hf_high, hf_gaussian, and hf_channel over channel). `_se` partners; that of
    a ratio is of its logarithm.

    Raises InputError if the recording lacks the forward or the chain stream.
    """
    forward, chain, data = recording["forward"], recording["chain"], recording["data"]
    modes = chain["frequency_modes"].values
    count = chain["count"].values
    sums = {
        "power_forward": _pooled(forward, "state_spectrum", modes),
        "power_chain": _pooled(chain, "state_spectrum", modes),
    }
    power_data = _pooled(data, "state_spectrum", modes)[:, 0]
    coords = {k: chain[k] for k in ("step", "timestep", "alpha", "sigma", "frequency")}
    result = xr.Dataset({"modes": ("frequency", modes)}, coords)
    result = with_errors(result, CURVE, **{k: jackknife(_mean, count, v) for k, v in sums.items()})
    result = with_errors(result, ("frequency",), power_data=jackknife(_mean, count, power_data))
    result["power_expected"] = result["alpha"] ** 2 * result["power_data"] + result["sigma"] ** 2
    result = _with_ratio(result, "ratio", count, sums["power_chain"], sums["power_forward"])
    predictions = [_pooled(s, "prediction_spectrum", modes) for s in (chain, forward)]
    result = _with_ratio(result, "prediction_ratio", count, *predictions)
    visible = (result["alpha"] ** 2 * result["power_data"] >= result["sigma"] ** 2) & (result["alpha"] > 0)
    for stream in ("forward", "chain"):
        signal = (result[f"power_{stream}"] - result["sigma"] ** 2) / result["alpha"] ** 2
        result[f"signal_{stream}"] = signal.where(visible)
    result = _with_hf(result, count, grouped(chain, "state_high")[:, -1], grouped(data, "state_high")[:, 0])
    result = _with_reference(result, recording)
    result.attrs = recording.description | why_no_interval(count)
    return result


def _pooled(stream: xr.Dataset, name: str, modes: Array) -> Array:
    """Σ over samples of the power per mode, mean over channels, (group, step, frequency)."""
    return grouped(stream.transpose("group", "step", "channel", "frequency", ...), name).mean(2) / modes


def _mean(n: float, total: Array) -> Array:
    return total / n


def _log_ratio(_: float, above: Array, below: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.log(above / below)
    return np.where(np.isfinite(ratio), ratio, np.nan)


def _with_ratio(result: xr.Dataset, name: str, count: Array, above: Array, below: Array) -> xr.Dataset:
    log_ratio, se = jackknife(_log_ratio, count, above, below)
    values = {"": 0.0, "_low": -T_QUANTILE, "_high": T_QUANTILE}
    result = result.assign({f"{name}{k}": (CURVE, np.exp(log_ratio + t * se)) for k, t in values.items()})
    result[name] = (CURVE, np.exp(log_ratio))
    result[f"{name}_se"] = (CURVE, se)
    return result


def _with_hf(result: xr.Dataset, count: Array, chain: Array, data: Array) -> xr.Dataset:
    """HF over all channels and by channel, from Σ power at high frequencies, (group, channel)."""
    value, se = jackknife(_log_ratio, count, chain.sum(1), data.sum(1))
    channel, channel_se = jackknife(_log_ratio, count, chain, data)
    result = with_errors(result, (), hf=(DECIBEL * value, DECIBEL * se))
    result["hf_low"], result["hf_high"] = (result["hf"] + t * result["hf_se"] for t in (-T_QUANTILE, T_QUANTILE))
    return with_errors(result, ("channel",), hf_channel=(DECIBEL * channel, DECIBEL * channel_se))


def _with_reference(result: xr.Dataset, recording: Recording) -> xr.Dataset:
    reference = gaussian_of(recording)
    if reference is None:
        return result
    bands: Bands = dct(*recording["data"]["mean"].shape[1:])
    chain, forward = gaussian_power(reference, recording, bands)
    count = len(bands.label)
    result["power_gaussian"] = (CURVE, chain[:, :count] / bands.count[:count])
    with np.errstate(divide="ignore", invalid="ignore"):
        result["ratio_gaussian"] = (CURVE, chain[:, :count] / forward[:, :count])
        result["hf_gaussian"] = ((), DECIBEL * np.log(chain[-1, count] / forward[-1, count]))
    return result
