"""What a monitor measures of one recording: a value, its standard error, and what is perfect.

`perfect` is what a perfect network shows with the same sampler and steps, in closed form: one of
Gaussian data with the covariance of these images. It is the part of a gap that no training removes.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from exposure_bias.diagnostics.excess import reference_of
from exposure_bias.diagnostics.spectra import spectrum
from exposure_bias.diagnostics.variance_gap import pooled_gap, relative
from exposure_bias.jackknife import jackknife, mean_of, sums_by_group
from exposure_bias.recording import Recording


class Measured(NamedTuple):
    """A value, its standard error, and a perfect network's value, NaN where that is not known."""

    value: float
    error: float
    perfect: float = float("nan")


class Measure(NamedTuple):
    """How a value is measured, and how people are told it.

    has_perfect: whether a perfect network's value is logged beside it. scale, unit: what turns the
    value into what is told. right: the value that would be right, in words.
    """

    of: Callable[[Recording], Measured]
    words: str
    unit: str = ""
    scale: float = 1.0
    right: str = "0"
    has_perfect: bool = True

    @property
    def ends(self) -> tuple[str, ...]:
        """What follows its name in the names of what is logged."""
        return ("", "_se", "_perfect")[: 3 if self.has_perfect else 2]


def measured(recording: Recording, what: tuple[str, ...]) -> dict[str, float]:
    """The values of these measures under the names that are logged."""
    found = {name: MEASURES[name].of(recording) for name in what}
    return {
        f"{name}{end}": value
        for name, values in found.items()
        for end, value in zip(MEASURES[name].ends, values, strict=False)
    }


def columns(what: tuple[str, ...]) -> list[str]:
    """The names of what is logged of these measures."""
    return [f"{name}{end}" for name in what for end in MEASURES[name].ends]


def _gap(recording: Recording) -> Measured:
    found = pooled_gap(recording).estimated()
    reference, _ = reference_of(recording)
    perfect = np.nan
    if reference is not None:
        last = reference.isel(step=-1)
        sums = (np.sum(last[k].values) for k in ("variance", "forward_variance"))
        perfect = float(relative(*map(np.atleast_1d, sums))[0])
    return Measured(float(found.value[-1]), float(found.error[-1]), perfect)


def _hf(recording: Recording) -> Measured:
    found = spectrum(recording)
    perfect = float(found["hf_gaussian"]) if "hf_gaussian" in found else np.nan
    return Measured(float(found["hf"]), float(found["hf_se"]), perfect)


def _forward_loss(recording: Recording) -> Measured:
    """Mean over levels of E(ε̂ − ε)² = (α/σ)² E(x̂_0 − x_0)², per pixel."""
    forward = recording["forward"]
    error = forward["prediction_error"].transpose("sample", "step").values.astype(np.float64)
    asked = np.isfinite(error).any(0)
    alpha, sigma = (forward[k].values[asked] for k in ("alpha", "sigma"))
    loss = (error[:, asked] * (alpha / sigma) ** 2).mean(1, keepdims=True)
    sums = sums_by_group(loss, forward["image"].values)
    found = jackknife(mean_of, forward["count"].values, sums)
    return Measured(float(found.value[0]), float(found.error[0]))


MEASURES: Mapping[str, Measure] = {
    "gap": Measure(_gap, "variance of the samples against real images", "%", 100),
    "hf": Measure(_hf, "their power above ¼ cycle per pixel against real images", "dB"),
    "forward_loss": Measure(
        _forward_loss, "error of ε̂ per pixel at real noisy images", right="lower", has_perfect=False
    ),
}
