"""Is this model a denoiser of these data at all?

The first question, before any verdict. The forward stream knows: with f the one-step x_0-prediction
at x_t ~ q(x_t | x_0), and the best linear predictor, Wiener's, which in the eigenbasis of the
data's covariance is μ + αλ/(α²λ + σ²) (x_t − αμ) for each direction of variance λ,

    ratio = E‖x_0 − f(x_t)‖² / Σ λσ²/(α²λ + σ²).

A network that learnt these data does at least as well as the linear predictor. One whose sign,
prediction type, time label or data scale was declared wrongly does not. Only middle levels are
asked, where between 5 and 95 % of a state's variance is signal: at the noisiest end an ε-network is
bad by round-off, and at the cleanest the state itself is the answer.

*Few images.* The eigenvalues of N images' covariance are more spread than the law's, so that the
sum above is too small. With κ = σ²/α² it is κ times the law's degrees of freedom, Σ λ/(λ + κ). At κ
these are those of the sample at s, where s = κ (1 − df(s)/(N − 1)) (Dobriban and Wager 2018, Ann.
Stat. 46, 247; Bach 2024, SIAM J. Math. Data Sci. 6, 26). Where no s > 0 solves that, and where only
some of the eigenvalues are known, the predictor by pixel takes the place of what is not known.

*The images at hand.* Those that were recorded may vary more than the law, along a direction by ρ.
The linear predictor's error on them is then larger by Σ (ρ − 1) λσ⁴/(α²λ + σ²)². ρ is known along
the recorded directions; elsewhere it is that of all pixels together.

*How much worse counts.* Where most of a state is noise, 10 %: a network that is called wrongly
shows there most, and one that is merely inexact least. Where most of it is signal, 25 %."""

import warnings

import numpy as np
import xarray as xr

from exposure_bias.errors import InputError
from exposure_bias.jackknife import Array, grouped, jackknife, sums_by_group, with_interval
from exposure_bias.recording import Recording
from exposure_bias.results import Column, Kind, Term, returns
from exposure_bias.results.numbers import sentence_of
from exposure_bias.results.terms import SHARE, SQUARE
from exposure_bias.statistics.law import COVARIANCE_IMAGES, DENSE, SUBSPACE_IMAGES, holds

MIDDLE = (0.05, 0.95)
# Where all levels are mostly noise, the least noisy one is asked if so much of it is signal. Data
# in other units than the schedule's are of that kind.
FAINTEST = 1e-3
# A right model of Gaussian data has 1. Above these it is none, where most of a state is noise and
# where most of it is signal.
WORSE_IN_NOISE, WORSE = 1.1, 1.25
CAUSES = (
    "check the sign of its output, prediction_type, the time label it is called with, and that the"
    " data are in the units it was trained on. A network can also be worse than linear because it"
    " was trained with noise that was chosen to suit each image (OT-CFM, immiscible diffusion), or"
    " because a part of these data was missing from what it was trained on"
)


DENOISING_CHECK = Kind(
    name="denoising_check",
    title="Is it a denoiser of these data?",
    question=(
        "Does one call of the network predict the clean image at least as well as the best linear"
        " predictor does? If not, the model is called in the wrong way."
    ),
    variables={
        "error": Term("one-step error", SQUARE, "Mean of (x_0 − x̂_0)² at true x_t."),
        "linear_error": Term("linear predictor's error", SQUARE, "Of the best one, Wiener's."),
        "ratio": Term("error over the linear predictor's", SHARE, "Above 1 it is no denoiser."),
        "middle": Term("asked here", "1 or 0", "1 where signal and noise are alike."),
    },
    columns=(
        Column("one-step error (data units²)", "error"),
        Column("linear predictor's", "linear_error"),
        Column("ratio", "ratio"),
    ),
    sentence=lambda result: sentence_of(str(result.attrs.get("sentence", "It was not asked"))),
)


@returns(DENOISING_CHECK)
def denoising_check(recording: Recording) -> xr.Dataset:
    """Tell whether the model denoises the data at least as well as the best linear predictor.

    The forward stream of the recording is asked, at its own levels. `error_budget` and `diagnose`
    ask at levels of their own, whatever the chain's, and probe whether the network is a function of
    its state (`running.probes`).

    Returns, over (step), for every network call: error, the mean over samples and pixels of (x_0 −
    x̂_0)², in squared data units; linear_error, that of the linear predictor; ratio, with `_se` and
    a 95 % interval; middle, 1 at the levels that are asked. Attributes: passes, "yes", "no" or "not
    asked"; and sentence, what was found and what to do.

    It fails where the ratio is above 1.1 at a middle level that is mostly noise, or above 1.25 at
    one that is mostly signal, beyond its interval. A guided model is not asked, nor where the
    forward stream is missing or no level lies in the middle. Source: docs/mathematics.md, "Is it a
    denoiser at all?".
    """
    if "forward" not in recording or "prediction_error" not in recording["forward"]:
        return _not_asked("there is no forward stream with its x_0 to ask")
    if recording.run.model.guided:
        return _not_asked("guidance aims at another field than a denoiser's")
    forward, data = recording["forward"], recording["data"]
    forward = forward.isel(step=forward["prediction_error"].notnull().any("sample").values)
    alpha, sigma = (forward[k].values for k in ("alpha", "sigma"))
    linear, further = _wiener_error(recording, alpha, sigma)
    error = forward["prediction_error"].transpose("sample", "step").values.astype(np.float64)
    count = forward["count"].values
    sums = sums_by_group(error, forward["image"].values)
    floor = np.finfo(np.float64).tiny
    squares, usual = _second_moments(data)

    def ratio(n: float, total: Array, square: Array) -> Array:
        varied = np.divide(square / n, usual, out=np.ones_like(usual), where=usual > 0)
        # Directions beyond those that are recorded vary as all pixels together do, which come last.
        beyond = np.repeat(varied[-1], max(further.shape[1] - len(varied) + 1, 0))
        along = np.concatenate([varied[:-1], beyond])[: further.shape[1]]
        wanted = linear + further @ (along - 1)
        found: Array = np.maximum(total / n, floor) / np.maximum(wanted, floor)
        return found

    found = jackknife(ratio, count, sums, squares, scale="log", least=1)
    spread = data["variance"].values.mean()
    signal = (alpha**2 * spread) / (alpha**2 * spread + sigma**2)
    middle = (signal >= MIDDLE[0]) & (signal <= MIDDLE[1])
    if FAINTEST <= signal.max() < MIDDLE[0]:
        middle = signal == signal.max()
    result = xr.Dataset(coords={k: forward[k] for k in ("step", "timestep", "alpha", "sigma")})
    result["error"], result["linear_error"] = ("step", sums.sum(0) / count.sum()), ("step", linear)
    result = with_interval(result, ("step",), ratio=found)
    result["middle"] = ("step", middle.astype(np.int8))
    worse = np.where(signal < 0.5, WORSE_IN_NOISE, WORSE)
    result.attrs = recording.description | _verdict(result, worse[middle])
    return result


def _second_moments(data: xr.Dataset) -> tuple[Array, Array]:
    """Σ d² by group along the recorded directions and over all pixels, and what is usual for one.

    (group, direction + 1) and (direction + 1,).
    """
    pixels = grouped(data, "state_group_square")[:, 0].sum(1, keepdims=True)
    usual = data["variance"].values.ravel()[data["pixel"].values].sum(keepdims=True)
    if "state_projection_square" not in data:
        return pixels, usual
    along = grouped(data, "state_projection_square")[:, 0]
    values = data["eigenvalue"].values[: along.shape[1]]
    return np.concatenate([along, pixels], axis=1), np.concatenate([values, usual])


def _wiener_error(recording: Recording, alpha: Array, sigma: Array) -> tuple[Array, Array]:
    """The best linear predictor's error by pixel, (level,), and its derivatives by ρ.

    Those are (level, direction), the directions being the known ones and then pixels."""
    data = recording["data"]
    variance, images = data["variance"].values.ravel(), recording.run.data.images
    values = data["eigenvalue"].values if "eigenvalue" in data else np.zeros(0)
    used = min(images, COVARIANCE_IMAGES if variance.size <= DENSE else SUBSPACE_IMAGES)
    rest = np.zeros(0)
    if not holds(values, variance):
        # What the leading directions leave of each pixel is predicted from that pixel alone.
        vectors = data["eigenvector"].values.reshape(len(values), -1).astype(np.float64)
        rest = np.maximum(variance - values @ vectors**2, 0)
    every = np.concatenate([values, rest])
    error, further = np.zeros(len(alpha)), np.zeros((len(alpha), len(every)))
    for i, (a, s) in enumerate(zip(alpha, sigma, strict=True)):
        noise = (s / a) ** 2 if a else np.inf
        by_pixel = _residual(variance, noise)
        error[i] = by_pixel
        if np.isfinite(noise) and noise > 0:
            found = _of_law(values * used / max(used - 1, 1), noise, used - 1)
            error[i] = by_pixel if found is None else min(by_pixel, found + _residual(rest, noise))
        further[i] = every if noise == np.inf else every * np.square(noise / (every + noise))
    return error / variance.size, further / variance.size


def _residual(variance: Array, noise: float) -> float:
    """Σ λκ/(λ + κ)."""
    if not np.isfinite(noise):
        return float(variance.sum())
    total = variance + noise
    return float(
        np.divide(variance * noise, total, out=np.zeros_like(total), where=total > 0).sum()
    )


def _of_law(values: Array, noise: float, degrees: int) -> float | None:
    """Σ λκ/(λ + κ) of the law that a sample's eigenvalues come from; None where it is not known.

    degrees: of freedom of the sample, N − 1.
    """

    from scipy.optimize import brentq

    def freedom(s: float) -> float:
        return float((values / (values + s)).sum())

    def excess(s: float) -> float:
        return s - noise * (1 - freedom(s) / degrees)

    lowest = noise * 1e-9
    if degrees < 1 or excess(lowest) > 0:
        return None
    return noise * freedom(float(brentq(excess, lowest, noise)))


def check_denoises(recording: Recording) -> None:
    """Raise InputError with the sentence of `denoising_check` where that fails."""
    found = denoising_check(recording).attrs
    if found["passes"] == "no":
        raise InputError(f"{recording.run.model.name}: {found['sentence']}")


def warn_unless_denoises(recording: Recording) -> Recording:
    """The recording, after a warning with the sentence of `denoising_check` where that fails."""
    found = denoising_check(recording).attrs
    if found["passes"] == "no":
        warnings.warn(f"{recording.run.model.name}: {found['sentence']}", stacklevel=3)
    return recording


def _verdict(result: xr.Dataset, worse: Array) -> dict[str, str]:
    """What was found at the middle levels. worse: the ratio at which each of them fails."""
    asked = result.isel(step=result["middle"].values == 1)
    if not asked.sizes["step"]:
        return {
            "passes": "not asked",
            "sentence": "no recorded level lies where noise and signal are alike",
        }
    # Without an interval only what is far off counts.
    certain = np.where(np.isfinite(asked["ratio_low"]), asked["ratio_low"], asked["ratio"] / 2)
    worst = int((asked["ratio"].values / worse).argmax())
    level, ratio = float(asked["timestep"][worst]), float(asked["ratio"][worst])
    if (certain <= worse).all():
        return {
            "passes": "yes",
            "sentence": (
                "it denoises these data: its one-step error is at most"
                f" {ratio:.2g} times that of the best linear predictor (at timestep {level:g})"
            ),
        }
    return {
        "passes": "no",
        "sentence": (
            f"this is no denoiser of these data: at timestep {level:g} its one-step error is"
            f" {ratio:.3g} times that of the best linear predictor; {CAUSES}"
        ),
    }


def _not_asked(why: str) -> xr.Dataset:
    return xr.Dataset(attrs={"passes": "not asked", "sentence": why})
