"""Two saved runs side by side, without a network: how their gaps, details and spectra differ.

Where both runs are of the same images, a group of images is left out of both at once (`jackknife`),
so that what they have in common cancels: their noise as well, if they share it. Otherwise the two
errors add in quadrature."""

import numpy as np
import xarray as xr

from exposure_bias.diagnostics.spectra import HIGH_FREQUENCIES
from exposure_bias.diagnostics.variance_gap import GAP, PooledGap, pooled_gap
from exposure_bias.errors import InputError
from exposure_bias.jackknife import (
    Array,
    Estimate,
    grouped,
    jackknife,
    ratio_of,
    why_no_interval,
    with_estimates,
    with_interval,
)
from exposure_bias.recording import Recording
from exposure_bias.results import Column, Kind, Table, Term, returns
from exposure_bias.results.numbers import missing, told
from exposure_bias.results.tables import level_in_words, table_of, tidy
from exposure_bias.results.terms import DECIBELS, SHARE, TEXT

BEL = 10 / np.log(10)
COORDS = ("step", "timestep", "alpha", "sigma")


def _sentence(result: xr.Dataset) -> str:
    end = result.isel(step=-2) if result.sizes["step"] > 1 else result.isel(step=-1)
    first, second = (str(name) for name in result["entry"].values)
    one, two = (told(end.isel(entry=k), "gap", 100, "%") for k in range(2))
    change, lack = told(end, "gap_difference", 100, "%"), missing(end, "gap_difference")
    return (
        f"The variance gap of {second} is {two} at {level_in_words(end)}, that of {first} is {one}:"
        f" a difference of {change}{lack}."
    )


def _tables(result: xr.Dataset) -> list[Table]:
    end = result.isel(step=-1).reset_coords(drop=True)
    own = (
        Column("run", "entry"),
        Column("variance gap (%)", "gap", 100, True),
        Column("high frequencies (dB)", "hf", 1, True),
    )
    by_level = (Column("difference of the variance gaps (%)", "gap_difference", 100, True),)
    found = [
        Table("runs", "runs at the clean end", tidy(end, "entry"), own, main=True),
        table_of(result, "gap_difference", "difference by level", by_level),
    ]
    if "power_difference" in result:
        bands = (
            Column("frequency (cycles/pixel)", "frequency"),
            Column("power, second over first (dB)", "power_difference", 1, True),
        )
        title = "difference of the spectra (clean end)"
        found.append(table_of(result, "power_difference", title, bands, main=False))
    return found


COMPARE_RECORDINGS = Kind(
    name="compare_recordings",
    title="Two recordings",
    question="How do two runs of the same data differ, the second less the first?",
    variables={
        "entry": Term("run", TEXT, "The two runs, by what they differ in."),
        "gap": GAP,
        "gap_difference": Term(
            "difference of the variance gaps", SHARE, "That of the second run less the first's."
        ),
        "hf": HIGH_FREQUENCIES,
        "hf_difference": Term(
            "difference of the high frequencies",
            DECIBELS,
            "Power of the second run's samples at ¼ cycle per pixel and above over the first's.",
        ),
        "power_difference": Term(
            "power, second over first",
            DECIBELS,
            "Power of the second run's samples over the first's at the clean end, by frequency.",
        ),
    },
    tables=_tables,
    sentence=_sentence,
    needs={"gap": ("entry", "step"), "gap_difference": ("step",), "entry": ("entry",)},
)


@returns(COMPARE_RECORDINGS)
def compare_recordings(first: Recording, second: Recording) -> xr.Dataset:
    """Compare two saved runs of the same data at the same levels, without a network.

    Parameters
    ----------
    first, second
        Recordings, as `load` reads them, of different models, samplers or seeds.

    Returns
    -------
    Over (entry, step): gap, as `variance_gap` defines it. Over (step): gap_difference, the second
    run's less the first's. Where there are spectra, at the clean end in dB: hf over (entry),
    hf_difference, and over (frequency) power_difference. Each has `_se` and its 95 % interval. The
    attribute `paired` says what the runs share: "images and noise", "images" or "nothing".

    Raises
    ------
    InputError
        If the runs are of different data or levels, or lack their chain; what differs is named.

    Examples
    --------
    >>> import exposure_bias as eb
    >>> runs = [eb.record(name, "digits", steps=5, n=256) for name in ("digits", "digits-ip")]
    >>> print(eb.compare_recordings(*runs).attrs["answer"])  # doctest: +SKIP
    """
    both = (first, second)
    _check(both)
    counts = [one["chain"]["count"].values for one in both]
    paired = _paired(both)
    together = counts[0] if paired != "nothing" else None
    gaps = [pooled_gap(one) for one in both]
    result = xr.Dataset(coords={name: first["chain"][name] for name in COORDS})
    result = result.assign_coords(entry=list(_names(both)))
    own = [gap.estimated() for gap in gaps]
    result = with_estimates(result, ("entry", "step"), gap=_stacked(own))
    result = with_interval(
        result, ("step",), gap_difference=_difference_of_gaps(gaps, own, together)
    )
    if all("state_high" in one["chain"] for one in both):
        result = _with_spectra(result, both, together)
    said = {k: v for k, v in first.description.items() if v == second.description.get(k)}
    fewest = min(counts, key=lambda count: float(count.min()))
    result.attrs = said | why_no_interval(fewest) | {"paired": paired}
    return result


def _check(both: tuple[Recording, Recording]) -> None:
    for one in both:
        _ = one["chain"], one["data"]  # which say what is missing
    runs = [one.run for one in both]
    if runs[0].data.hash != runs[1].data.hash:
        raise InputError(
            f"the recordings are of different data, {runs[0].data} and {runs[1].data}: record both"
            " on the same images"
        )
    kept = [one["chain"]["timestep"] for one in both]
    if runs[0].levels != runs[1].levels or not kept[0].equals(kept[1]):
        raise InputError(
            f"the recordings are at different levels, of {runs[0].steps} and {runs[1].steps} steps"
            f" ({runs[0].spacing.value} and {runs[1].spacing.value}): record both at the same"
        )


def _paired(both: tuple[Recording, Recording]) -> str:
    """Say what the samples of two recordings share."""
    chains = [one["chain"] for one in both]
    if not all(np.array_equal(chains[0][k], chains[1][k]) for k in ("sample", "image")):
        return "nothing"
    runs = [one.run for one in both]
    same = runs[0].seed == runs[1].seed and runs[0].start == runs[1].start
    return "images and noise" if same else "images"


def _names(both: tuple[Recording, Recording]) -> tuple[str, str]:
    """Call two recordings by the first thing in which they differ."""
    runs = [one.run for one in both]
    for one, two in (
        (runs[0].model.name, runs[1].model.name),
        (runs[0].sampler, runs[1].sampler),
        (str(runs[0].clip), str(runs[1].clip)),
        (f"seed {runs[0].seed}", f"seed {runs[1].seed}"),
    ):
        if one != two:
            return one, two
    return "the first run", "the second run"


def _stacked(each: list[Estimate]) -> Estimate:
    return Estimate(np.stack([e.value for e in each]), np.stack([e.error for e in each]))


def _difference_of_gaps(
    gaps: list[PooledGap], own: list[Estimate], together: Array | None
) -> Estimate:
    value = gaps[1].value - gaps[0].value
    if together is None:
        return Estimate(value, np.hypot(own[0].error, own[1].error))
    place = len(gaps[0].sums)

    def difference(n: float, *sums: Array) -> Array:
        return gaps[1].estimate(n, *sums[place:]) - gaps[0].estimate(n, *sums[:place])

    found = jackknife(difference, together, *gaps[0].sums, *gaps[1].sums)
    return found.beside(value, gaps[1].further - gaps[0].further)


def _decibel(n: float, above: Array, below: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        value: Array = BEL * np.log(ratio_of(n, above, below))
    return np.where(np.isfinite(value), value, np.nan)


def _with_spectra(
    result: xr.Dataset, both: tuple[Recording, Recording], together: Array | None
) -> xr.Dataset:
    """HF of each run and its difference, and the spectra's, at the clean end."""
    counts = [one["chain"]["count"].values for one in both]
    high, power = (
        [_over_channels(grouped(one["chain"], name)[:, -1]) for one in both]
        for name in ("state_high", "state_spectrum")
    )
    data = [_over_channels(grouped(one["data"], "state_high")[:, 0]) for one in both]
    own = [jackknife(_decibel, *three) for three in zip(counts, high, data, strict=True)]
    result = with_estimates(result, ("entry",), hf=_stacked(own))
    frequency = both[0]["chain"]["frequency"]
    return with_interval(
        with_interval(result, (), hf_difference=_second_over_first(high, counts, together)),
        ("frequency",),
        power_difference=_second_over_first(power, counts, together),
    ).assign_coords(frequency=frequency)


def _over_channels(sums: Array) -> Array:
    total: Array = sums.sum(1)
    return total


def _second_over_first(power: list[Array], counts: list[Array], together: Array | None) -> Estimate:
    """The power of the second run over the first's in dB."""
    if together is not None:
        return jackknife(_decibel, together, power[1], power[0])
    one, two = (jackknife(_level, count, p) for count, p in zip(counts, power, strict=True))
    return Estimate(two.value - one.value, np.hypot(one.error, two.error))


def _level(n: float, total: Array) -> Array:
    return _decibel(n, total, np.full_like(total, n))


__all__ = ["COMPARE_RECORDINGS", "compare_recordings"]
