"""Where in frequency the chain departs: power spectra of forward and chain at equal level.

Power is the mean over samples, channels and a band's modes of |c|², c the coefficients of x_t − α_t
μ in an orthonormal basis, the DCT-II or another of `statistics.bands`, so that white noise of
variance σ² reads σ² at every frequency. For x_t ~ q the expectation is α² S(f) + σ², with S the
data's spectrum (docs/mathematics.md). The one number is

    HF = 10 log₁₀ [Σ_{f ≥ ¼} P_chain / Σ_{f ≥ ¼} P_data]  dB,

at the clean end, f in cycles per pixel. It is not zero for a perfect denoiser with finitely many
steps; the Gaussian reference says what to expect there. The four Haar sub-bands LL, LH, HL, HH tell
the same in the wavelets' words.
"""

from dataclasses import replace

import numpy as np
import xarray as xr

from exposure_bias.diagnostics.excess import reference_of
from exposure_bias.errors import InputError
from exposure_bias.jackknife import (
    DECIBEL,
    Array,
    Estimate,
    grouped,
    interval,
    jackknife,
    mean_of,
    ratio_of,
    why_no_interval,
    with_estimates,
)
from exposure_bias.recording import Recording
from exposure_bias.references import gaussian_power
from exposure_bias.results import Column, Drawing, Kind, Table, Term, returns
from exposure_bias.results.numbers import missing, told
from exposure_bias.results.tables import table_of, tidy
from exposure_bias.results.terms import COUNT, DECIBELS, SHARE, SQUARE
from exposure_bias.statistics.bands import (
    BASES,
    COMPONENTS,
    HIGH_FREQUENCY,
    NO_SPACE,
    default_bases,
    haar,
    spectrum_bands,
)

CURVE, BANDS = ("step", "frequency"), ("step", "band")


def _sentence(spectra: xr.Dataset) -> str:
    if not np.isfinite(spectra["hf"]):
        return "High frequencies cannot be compared: there is no mode or no power there."
    high = told(spectra, "hf", 1, "dB")
    found = (
        f"Power above ¼ cycle per pixel is off by {high} at the clean end{missing(spectra, 'hf')}."
    )
    opposite = _opposite(spectra)
    return f"{found} {opposite}" if opposite else found


def _opposite(spectra: xr.Dataset) -> str:
    """Say where bands err in opposite directions, which their sum hides; "" where they do not."""
    last = spectra.isel(step=-1)
    last = last.isel(frequency=np.flatnonzero(last["frequency"].values >= HIGH_FREQUENCY))
    ratio, low, high = (
        np.asarray(last[name].values if name in last else last["ratio"].values)
        for name in ("ratio", "ratio_low", "ratio_high")
    )
    if not np.isfinite(low).any():
        low = high = ratio
    with np.errstate(invalid="ignore"):
        more, less = (
            np.where((r >= MARKED) & (low > 1), r, np.nan)
            for r, low in ((ratio, low), (1 / np.where(ratio > 0, ratio, np.nan), 1 / high))
        )
    if not (np.isfinite(more).any() and np.isfinite(less).any()):
        return ""
    most, least = int(np.nanargmax(more)), int(np.nanargmax(less))
    where = last["frequency"].values
    return (
        "Bands err in opposite directions there, which this sum hides: power is"
        f" {ratio[most]:.2g} times the right one at {where[most]:.2g} cycles per pixel and"
        f" {ratio[least]:.2g} times at {where[least]:.2g}."
    )


def _tables(spectra: xr.Dataset) -> list[Table]:
    last = spectra.isel(step=-1).reset_coords(drop=True)
    high = ("hf", "hf_se", "hf_low", "hf_high", "hf_gaussian")
    decibel = "power over the data's (dB)"
    columns = (
        Column("frequency (cycles/pixel)", "frequency"),
        Column("data (data units²)", "power_data"),
        Column("chain (data units²)", "power_chain"),
        Column("chain over forward", "ratio"),
        Column("Gaussian reference", "ratio_gaussian"),
    )
    found = [
        table_of(last, "spectrum", "spectrum at the clean end", columns),
        Table(
            "high_frequencies",
            "high frequencies (dB at the clean end)",
            tidy(spectra[[k for k in high if k in spectra]]),
            (Column(decibel, "hf", signed=True), Column("Gaussian (dB)", "hf_gaussian", 1, True)),
        ),
    ]
    for name, title, variable, dim in (
        ("high_frequencies_by_channel", "high frequencies by channel", "hf_channel", "channel"),
        ("haar", "Haar sub-bands", "haar", "band"),
    ):
        here = [k for k in last if str(k) == variable or str(k).startswith(f"{variable}_")]
        here = [k for k in here if not str(k).startswith("haar_ratio")]
        shown = (
            Column(dim, dim),
            Column(decibel, variable, signed=True),
            Column("Gaussian (dB)", f"{variable}_gaussian", signed=True),
        )
        title = f"{title} (dB at the clean end)"
        found.append(Table(name, title, tidy(last[here], dim), shown))
    return found


MARKED = 1.12  # 0.5 dB: a band that is off by less is not worth a word
ROUND_OFF = 1e-14  # of the whole power, what float32 pixels make of none
HIGH_FREQUENCIES = Term(
    "high frequencies",
    DECIBELS,
    "Power of the samples at ¼ cycle per pixel and above over the data's, in decibels at the"
    " clean end. Below 0 the samples are too smooth.",
    0,
)
SPECTRUM = Kind(
    name="spectrum",
    title="Spectra",
    question=(
        "Which details are missing or too many? Power by spatial frequency: coarse shapes left,"
        " fine texture right. A ratio below one means details that the chain loses."
    ),
    variables={
        "hf": HIGH_FREQUENCIES,
        "modes": Term("modes", COUNT, "How many modes a frequency band has."),
        "power_data": Term("data", SQUARE, "Power per mode of the images themselves."),
        "power_chain": Term("chain", SQUARE, "Power per mode of the chain's states."),
        "power_forward": Term("forward", SQUARE, "Power per mode of true x_t."),
        "power_expected": Term("expected", SQUARE, "α² S + σ²: power per mode of noised data."),
        "power_gaussian": Term(
            "Gaussian reference", SQUARE, "Power per mode of a perfect denoiser of Gaussian data."
        ),
        "signal_forward": Term("signal, forward", SQUARE, "(P − σ²)/α² of true x_t."),
        "signal_chain": Term("signal, chain", SQUARE, "(P − σ²)/α² of the chain's states."),
        "ratio": Term(
            "chain over forward", SHARE, "Power of the chain over that of true states.", 1
        ),
        "prediction_ratio": Term(
            "prediction, chain over forward", SHARE, "The same ratio of the predicted x_0.", 1
        ),
        "hf_channel": Term("high frequencies by channel", DECIBELS, "HF of one channel.", 0),
        "haar": Term(
            "Haar sub-bands", DECIBELS, "Power of the chain over the data's, at the end.", 0
        ),
        "haar_ratio": Term("Haar sub-band, chain over forward", SHARE, "Power ratio by level.", 1),
    },
    tables=_tables,
    sentence=_sentence,
    figures=(Drawing("exposure_bias.plots:spectrum"),),
    needs={
        "power_data": ("frequency",),
        "power_chain": ("step", "frequency"),
        "ratio": ("step", "frequency"),
        "hf": (),
    },
)


@returns(SPECTRUM)
def spectrum(recording: Recording, basis: str = "dct") -> xr.Dataset:
    """Radial power spectra of both streams per level, their ratio with a band, and HF.

    basis: dct; of videos also plane and frames; or one that was recorded with `record(...,
    spectra=)`: hann, fft, luma (`statistics.bands`). With luma, `channel` is luminance, red − blue
    and magenta − green.

    Returns, over (step, frequency), pooled over channels: power_forward, power_chain;
    power_expected = α²S + σ²; ratio = chain / forward with ratio_low, ratio_high (95 %, jackknife
    on the logarithm); signal_forward and signal_chain = (P − σ²)/α², NaN where α²S < σ²;
    prediction_ratio, of x̂_0 in the chain over x̂_0 in the forward stream. power_gaussian,
    ratio_gaussian: the Gaussian reference, if the sampler has one. Over (frequency): power_data and
    modes. Over (step, band): haar_ratio, chain / forward in each Haar sub-band, with
    haar_ratio_low, haar_ratio_high and haar_ratio_gaussian. At the clean end, in dB with `_low`,
    `_high` and `_gaussian`: hf; over (channel) hf_channel; over (band) haar, the chain's sub-bands
    against the data's. `_se` partners; that of a ratio is of its logarithm, as its `scale` says. HF
    is NaN, and the attribute no_hf says why, where no mode has ¼ cycle per pixel or more.

    Raises InputError if the recording lacks the forward or the chain stream, or this basis, and for
    states without axes of space.
    """
    forward, chain, data = (
        _in_basis(recording, name, basis) for name in ("forward", "chain", "data")
    )
    count, modes = chain["count"].values, chain["frequency_modes"].values
    coords = {k: chain[k] for k in ("step", "timestep", "alpha", "sigma", "frequency", "band")}
    result = xr.Dataset({"modes": ("frequency", modes)}, coords)

    power = {
        name: _per_mode(s, "state_spectrum", modes)
        for name, s in (("forward", forward), ("chain", chain))
    }
    of_data = _per_mode(data, "state_spectrum", modes)[:, 0]
    streams = {f"power_{name}": jackknife(mean_of, count, v) for name, v in power.items()}
    result = with_estimates(result, CURVE, **streams)
    result = with_estimates(result, ("frequency",), power_data=jackknife(mean_of, count, of_data))
    result["power_expected"] = result["alpha"] ** 2 * result["power_data"] + result["sigma"] ** 2
    result = _with_ratio(result, "ratio", CURVE, _ratio(count, power["chain"], power["forward"]))
    if basis == "dct":
        predictions = [_per_mode(s, "prediction_spectrum", modes) for s in (chain, forward)]
        result = _with_ratio(result, "prediction_ratio", CURVE, _ratio(count, *predictions))
    result = _with_signals(result)

    sub_bands = [
        _per_mode(s, "state_haar", chain["band_modes"].values) for s in (chain, forward, data)
    ]
    result = _with_ratio(result, "haar_ratio", BANDS, _ratio(count, *sub_bands[:2]))
    high = [grouped(stream, "state_high")[:, -1] for stream in (chain, data)]
    floor = ROUND_OFF * float((of_data * modes).sum())
    ratios = {
        "hf": ((), [h.sum(1) for h in high]),
        "hf_channel": (("channel",), high),
        "haar": (("band",), [sub_bands[0][:, -1], sub_bands[2][:, -1]]),
    }
    for name, (dims, powers) in ratios.items():
        result = _with_decibel(result, name, dims, _above(floor, count, *powers))
    if basis == "luma":
        result = result.assign_coords(channel=list(COMPONENTS))
    result, reasons = _with_reference(result, recording, basis)
    if not np.isfinite(result["hf"]):
        reasons["no_hf"] = (
            "no mode has a frequency of 1/4 cycle per pixel or more, or the data have no power"
            " there"
        )
    result.attrs = recording.description | {"basis": basis} | why_no_interval(count) | reasons
    return result


def _in_basis(recording: Recording, name: str, basis: str) -> xr.Dataset:
    """One stream's dataset, whose state_spectrum and state_high are those of this basis."""
    stream = recording[name]
    if basis not in BASES:
        raise InputError(f"unknown basis {basis!r} of spectra: allowed are {', '.join(BASES)}")
    if "state_spectrum" not in stream:
        has = "variance_gap, state_error, epsilon_norm and published_delta do without"
        raise InputError(f"{NO_SPACE}: this recording's are vectors; {has}")
    if basis == "dct":
        return stream
    if f"state_{basis}" not in stream:
        shape = recording["data"]["mean"].shape
        bases = dict.fromkeys([*default_bases(shape), *recording.run.spectra])
        raise InputError(
            f"this recording has no {basis} spectra, only {', '.join(bases)}: record again with "
            f"spectra=({basis!r},), at the command line --spectra {basis}"
        )
    chosen = stream.drop_vars(
        ["state_spectrum", "prediction_spectrum", "state_high"], errors="ignore"
    )
    names = {f"state_{basis}": "state_spectrum", f"state_{basis}_high": "state_high"}
    if basis == "luma":
        return chosen.drop_vars("channel", errors="ignore").rename(names)
    dimension = stream[f"state_{basis}"].dims[-1]
    modes = {str(dimension): "frequency", f"{dimension}_modes": "frequency_modes"}
    return chosen.drop_dims("frequency").rename(names | modes)


def _per_mode(stream: xr.Dataset, name: str, modes: Array) -> Array:
    """Σ over samples of the power per mode, mean over channels, (group, step, band)."""
    return grouped(stream, name).mean(2) / modes


def _above(floor: float, count: Array, above: Array, below: Array) -> Estimate:
    """A ratio of powers, NaN where that of the data is nothing but round-off."""
    ratio = _ratio(count, above, below)
    nothing = below.sum(0) <= floor
    value, error = (np.where(nothing, np.nan, v) for v in (ratio.value, ratio.error))
    return replace(ratio, value=value, error=error)


def _ratio(count: Array, above: Array, below: Array) -> Estimate:
    return jackknife(ratio_of, count, above, below, scale="log")


def _with_ratio(
    result: xr.Dataset, name: str, dims: tuple[str, ...], ratio: Estimate
) -> xr.Dataset:
    """A ratio with its error and 95 % interval."""
    result = with_estimates(result, dims, **{name: ratio})
    low, high = interval(result, name)
    return result.assign({f"{name}_low": low, f"{name}_high": high})


def _with_decibel(
    result: xr.Dataset, name: str, dims: tuple[str, ...], ratio: Estimate
) -> xr.Dataset:
    """A ratio of powers in dB, with its interval."""
    with np.errstate(divide="ignore", invalid="ignore"):
        value = DECIBEL * np.log(ratio.value)
    value = np.where(np.isfinite(value), value, np.nan)
    return _with_ratio(result, name, dims, Estimate(value, DECIBEL * ratio.error))


def _with_signals(result: xr.Dataset) -> xr.Dataset:
    """The power that is not noise, where the data's own is at least that."""
    seen = result["alpha"] ** 2 * result["power_data"] >= result["sigma"] ** 2
    visible = seen & (result["alpha"] > 0)
    for stream in ("forward", "chain"):
        signal = (result[f"power_{stream}"] - result["sigma"] ** 2) / result["alpha"] ** 2
        result[f"signal_{stream}"] = signal.where(visible)
    return result


def _with_reference(
    result: xr.Dataset, recording: Recording, basis: str
) -> tuple[xr.Dataset, dict[str, str]]:
    reference, reasons = reference_of(recording)
    if reference is None:
        return result, reasons
    shape = recording["data"]["mean"].shape
    bands = spectrum_bands(basis, shape)
    chain, forward = gaussian_power(reference, recording, bands)
    haar_chain, haar_forward = (
        p.mean(1) for p in gaussian_power(reference, recording, haar(*shape[1:]))
    )
    count = len(bands.label)
    curve, expected = (p[..., :count].mean(1) for p in (chain, forward))
    high, high_expected = chain[-1, :, count], forward[-1, :, count]
    result["power_gaussian"] = (CURVE, curve / bands.count[:count])
    with np.errstate(divide="ignore", invalid="ignore"):
        result["ratio_gaussian"] = (CURVE, curve / expected)
        result["haar_ratio_gaussian"] = (BANDS, haar_chain / haar_forward)
        result["hf_gaussian"] = ((), DECIBEL * np.log(high.sum() / high_expected.sum()))
        result["hf_channel_gaussian"] = ("channel", DECIBEL * np.log(high / high_expected))
        result["haar_gaussian"] = ("band", DECIBEL * np.log(haar_chain[-1] / haar_forward[-1]))
    return result, reasons
