"""Where in frequency the chain departs: power spectra of the forward and the chain stream at equal level.

Power is the mean over samples, channels and a band's modes of |c|², c the coefficients of x_t − α_t μ in an orthonormal
basis, the DCT-II or another of `statistics.bands`, so that white noise of variance σ² reads σ² at every frequency. For
x_t ~ q the expectation is α² S(f) + σ², with S the data's spectrum (design §4.10). The one number is

    HF = 10 log₁₀ [Σ_{f ≥ ¼} P_chain / Σ_{f ≥ ¼} P_data]  dB at the clean end,   f in cycles per pixel.

It is not zero for a perfect denoiser with finitely many steps; the Gaussian reference says what to expect there. The
four Haar sub-bands LL, LH, HL, HH tell the same in the wavelets' words.
"""

import numpy as np
import xarray as xr

from exposure_bias.diagnostics.excess import reference_of
from exposure_bias.diagnostics.jackknife import (
    T_QUANTILE,
    Array,
    grouped,
    interval,
    jackknife,
    why_no_interval,
    with_errors,
)
from exposure_bias.errors import InputError
from exposure_bias.recording import Recording
from exposure_bias.references import gaussian_power
from exposure_bias.statistics.bands import BASES, COMPONENTS, haar, spectrum_bands

DECIBEL = 10 / np.log(10)
CURVE, BANDS = ("step", "frequency"), ("step", "band")


def spectrum(recording: Recording, basis: str = "dct") -> xr.Dataset:
    """Radial power spectra of both streams per level, their ratio with a band, and HF.

    basis: dct, or one that was recorded with `record(..., spectra=)`: hann, fft, luma (`statistics.bands`). With luma,
    `channel` is luminance, red − blue and magenta − green.

    Returns, over (step, frequency), pooled over channels: power_forward, power_chain; power_expected = α²S + σ²;
    ratio = chain / forward with ratio_low, ratio_high (95 %, jackknife on the logarithm); signal_forward and
    signal_chain = (P − σ²)/α², NaN where α²S < σ²; prediction_ratio, of x̂_0 in the chain over x̂_0 in the forward
    stream. power_gaussian, ratio_gaussian: the Gaussian reference, if the sampler has one. Over (frequency):
    power_data and modes. Over (step, band): haar_ratio, chain / forward in each Haar sub-band, with haar_ratio_low,
    haar_ratio_high and haar_ratio_gaussian. At the clean end, in dB with `_low`, `_high` and `_gaussian`: hf; over
    (channel) hf_channel; over (band) haar, the chain's sub-bands against the data's. `_se` partners; that of a ratio
    is of its logarithm.

    Raises InputError if the recording lacks the forward or the chain stream, or this basis.
    """
    forward, chain, data = (_in_basis(recording, name, basis) for name in ("forward", "chain", "data"))
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
    result = _with_ratio(result, "ratio", CURVE, count, sums["power_chain"], sums["power_forward"])
    if basis == "dct":
        predictions = [_pooled(s, "prediction_spectrum", modes) for s in (chain, forward)]
        result = _with_ratio(result, "prediction_ratio", CURVE, count, *predictions)
    above, below, original = (_pooled(s, "state_haar", chain["band_modes"].values) for s in (chain, forward, data))
    result = _with_ratio(result.assign_coords(band=chain["band"]), "haar_ratio", BANDS, count, above, below)
    visible = (result["alpha"] ** 2 * result["power_data"] >= result["sigma"] ** 2) & (result["alpha"] > 0)
    for stream in ("forward", "chain"):
        signal = (result[f"power_{stream}"] - result["sigma"] ** 2) / result["alpha"] ** 2
        result[f"signal_{stream}"] = signal.where(visible)
    high = [grouped(stream, "state_high")[:, -1] for stream in (chain, data)]
    result = _with_decibel(result, "hf", (), count, *(power.sum(1) for power in high))
    result = _with_decibel(result, "hf_channel", ("channel",), count, *high)
    result = _with_decibel(result, "haar", ("band",), count, above[:, -1], original[:, -1])
    if basis == "luma":
        result = result.assign_coords(channel=list(COMPONENTS))
    result, reasons = _with_reference(result, recording, basis)
    result.attrs = recording.description | {"basis": basis} | why_no_interval(count) | reasons
    return result


def _in_basis(recording: Recording, name: str, basis: str) -> xr.Dataset:
    """One stream's dataset, whose state_spectrum and state_high are those of this basis."""
    stream = recording[name]
    if basis == "dct":
        return stream
    if basis not in BASES:
        raise InputError(f"unknown basis {basis!r} of spectra: allowed are {', '.join(BASES)}")
    if f"state_{basis}" not in stream:
        raise InputError(
            f"this recording has no {basis} spectra, only {', '.join(_bases(recording))}: record again with "
            f"spectra=({basis!r},), at the command line --spectra {basis}"
        )
    chosen = stream.drop_vars(["state_spectrum", "prediction_spectrum", "state_high"], errors="ignore")
    names = {f"state_{basis}": "state_spectrum", f"state_{basis}_high": "state_high"}
    if basis == "luma":
        return chosen.drop_vars("channel", errors="ignore").rename(names)
    modes = {"fourier_frequency": "frequency", "fourier_frequency_modes": "frequency_modes"}
    return chosen.drop_dims("frequency").rename(names | modes)


def _bases(recording: Recording) -> list[str]:
    return ["dct", *recording.provenance["run"].get("spectra", [])]


def _pooled(stream: xr.Dataset, name: str, modes: Array) -> Array:
    """Σ over samples of the power per mode, mean over channels, (group, step, band)."""
    return grouped(stream, name).mean(2) / modes


def _mean(n: float, total: Array) -> Array:
    return total / n


def _log_ratio(_: float, above: Array, below: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.log(above / below)
    return np.where(np.isfinite(ratio), ratio, np.nan)


def _with_ratio(
    result: xr.Dataset, name: str, dims: tuple[str, ...], count: Array, above: Array, below: Array
) -> xr.Dataset:
    log_ratio, se = jackknife(_log_ratio, count, above, below)
    values = {"": 0.0, "_low": -T_QUANTILE, "_high": T_QUANTILE}
    result = result.assign({f"{name}{k}": (dims, np.exp(log_ratio + t * se)) for k, t in values.items()})
    result[name] = (dims, np.exp(log_ratio))
    result[f"{name}_se"] = (dims, se)
    return result


def _with_decibel(
    result: xr.Dataset, name: str, dims: tuple[str, ...], count: Array, chain: Array, data: Array
) -> xr.Dataset:
    """Power of the chain over the data's in dB, with its interval."""
    value, se = jackknife(_log_ratio, count, chain, data)
    result = with_errors(result, dims, **{name: (DECIBEL * value, DECIBEL * se)})
    low, high = interval(result, name)
    return result.assign({f"{name}_low": low, f"{name}_high": high})


def _with_reference(result: xr.Dataset, recording: Recording, basis: str) -> tuple[xr.Dataset, dict[str, str]]:
    reference, reasons = reference_of(recording)
    if reference is None:
        return result, reasons
    shape = recording["data"]["mean"].shape
    bands = spectrum_bands(basis, shape)
    chain, forward = gaussian_power(reference, recording, bands)
    haar_chain, haar_forward = (power.mean(1) for power in gaussian_power(reference, recording, haar(*shape[1:])))
    count = len(bands.label)
    curve, expected = (power[..., :count].mean(1) for power in (chain, forward))
    result["power_gaussian"] = (CURVE, curve / bands.count[:count])
    with np.errstate(divide="ignore", invalid="ignore"):
        result["ratio_gaussian"] = (CURVE, curve / expected)
        result["haar_ratio_gaussian"] = (BANDS, haar_chain / haar_forward)
        result["hf_gaussian"] = ((), DECIBEL * np.log(chain[-1, :, count].sum() / forward[-1, :, count].sum()))
        result["hf_channel_gaussian"] = ("channel", DECIBEL * np.log(chain[-1, :, count] / forward[-1, :, count]))
        result["haar_gaussian"] = ("band", DECIBEL * np.log(haar_chain[-1] / haar_forward[-1]))
    return result, reasons
