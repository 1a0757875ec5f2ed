"""Is this model a denoiser of these data at all?

The first question, before any verdict (design §4.13).

The forward stream knows: with f the one-step x_0-prediction at x_t ~ q(x_t | x_0) and, per pixel,
the best linear predictor μ + αλ/(α²λ + σ²)(x_t − αμ), λ the pixel's variance,

    ratio = E‖x_0 − f(x_t)‖² / Σ_i λ_i σ²/(α²λ_i + σ²).

A network that learnt these data does at least as well as the linear predictor, which knows nothing
of other pixels. One whose sign, prediction type, time label or data scale was declared wrongly does
not: by factors of 5 to 10⁵ somewhere. Only middle levels are asked, where between 5 and 95 % of a
state's variance is signal: at the noisiest end an ε-network is bad by round-off, and at the
cleanest the state itself is the answer."""

import warnings

import numpy as np
import xarray as xr

from exposure_bias.errors import InputError
from exposure_bias.jackknife import jackknife, sums_by_group, with_interval
from exposure_bias.recording import Recording
from exposure_bias.results import Column, Kind, Term, returns
from exposure_bias.results.numbers import sentence_of
from exposure_bias.results.terms import SHARE, SQUARE

MIDDLE = (0.05, 0.95)
WORSE = 1.25  # a right model of data without structure has 1
ADVICE = (
    "check the sign of its output, prediction_type, the time label it is called with, and that the"
    " data are in the units it was trained on"
)


DENOISING_CHECK = Kind(
    name="denoising_check",
    title="Is it a denoiser of these data?",
    question=(
        "Does one call of the network predict the clean image better than a linear predictor does"
        " that knows each pixel alone? If not, the model is called in the wrong way."
    ),
    variables={
        "error": Term("one-step error", SQUARE, "Mean of (x_0 − x̂_0)² at true x_t."),
        "linear_error": Term("linear predictor's error", SQUARE, "Of the best one by pixel."),
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
    """Whether the model denoises the data better than a per-pixel linear predictor.

    The forward stream tells.

    Returns, over (step), for every network call: error, the mean over samples and pixels of (x_0 −
    x̂_0)², in squared data units; linear_error, that of the linear predictor; ratio, with `_se` and
    a 95 % interval; middle, 1 at the levels that are asked. Attributes: passes, "yes", "no" or "not
    asked"; and sentence, what was found and what to do.

    It fails where the ratio is above 1.25 at a middle level, beyond its interval. A guided model is
    not asked, nor where the forward stream is missing or no level lies in the middle. Source:
    design §4.13."""
    if "forward" not in recording or "prediction_error" not in recording["forward"]:
        return _not_asked("there is no forward stream with its x_0 to ask")
    if recording.run.model.guided:
        return _not_asked("guidance aims at another field than a denoiser's")
    forward, data = recording["forward"], recording["data"]
    forward = forward.isel(step=forward["prediction_error"].notnull().any("sample").values)
    alpha, sigma = (forward[k].values[:, None] for k in ("alpha", "sigma"))
    variance = data["variance"].values.ravel()
    linear = (variance * sigma**2 / (alpha**2 * variance + sigma**2)).mean(1)
    error = forward["prediction_error"].transpose("sample", "step").values.astype(np.float64)
    count = forward["count"].values
    sums = sums_by_group(error, forward["image"].values)
    floor = np.finfo(np.float64).tiny

    def ratio(n: float, total: np.ndarray) -> np.ndarray:
        return np.maximum(total / n, floor) / np.maximum(linear, floor)

    found = jackknife(ratio, count, sums, scale="log", least=1)
    spread = variance.mean()
    signal = (alpha[:, 0] ** 2 * spread) / (alpha[:, 0] ** 2 * spread + sigma[:, 0] ** 2)
    middle = (signal >= MIDDLE[0]) & (signal <= MIDDLE[1])
    result = xr.Dataset(coords={k: forward[k] for k in ("step", "timestep", "alpha", "sigma")})
    result["error"], result["linear_error"] = ("step", sums.sum(0) / count.sum()), ("step", linear)
    result = with_interval(result, ("step",), ratio=found)
    result["middle"] = ("step", middle.astype(np.int8))
    result.attrs = recording.description | _verdict(result)
    return result


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


def _verdict(result: xr.Dataset) -> dict[str, str]:
    asked = result.isel(step=result["middle"].values == 1)
    if not asked.sizes["step"]:
        return {
            "passes": "not asked",
            "sentence": "no recorded level lies where noise and signal are alike",
        }
    # Without an interval only what is far off counts.
    certain = np.where(np.isfinite(asked["ratio_low"]), asked["ratio_low"], asked["ratio"] / 2)
    worst = int(asked["ratio"].values.argmax())
    level, ratio = float(asked["timestep"][worst]), float(asked["ratio"][worst])
    if (certain <= WORSE).all():
        return {
            "passes": "yes",
            "sentence": (
                f"it denoises these data: at worst {ratio:.2g} of a linear predictor's error, at"
                f" {level:g}"
            ),
        }
    return {
        "passes": "no",
        "sentence": (
            f"this is no denoiser of these data: at timestep {level:g} its one-step error is"
            f" {ratio:.3g} times that of a per-pixel linear predictor; {ADVICE}"
        ),
    }


def _not_asked(why: str) -> xr.Dataset:
    return xr.Dataset(attrs={"passes": "not asked", "sentence": why})
