"""Epsilon scaling fitted to a recording: the λ by which ε̂ is to be divided.

- uniform, linear, levels: the published recipe, from the growth of ‖ε̂‖ along the chain
  (`epsilon_norm`).
- forward: λ = E‖ε̂‖² / E⟨ε, ε̂⟩ at x_t ~ q; 1/λ is the regression of ε on ε̂.

The recipe fits a symptom. An ε̂ that is a constant c times the exact one makes a chain *lose*
variance if c > 1, its norms shrink, and the fitted λ lies on the other side of 1: it does not find
c. `forward` does, on any data, because E⟨ε, ε*⟩ = E‖ε*‖² for ε* = E[ε | x_t]; but it sees the
training error alone, which a trained network has learnt to keep at λ = 1, and no drift of the
chain. Neither is a theorem about what closes the gap: try it, and record again.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from exposure_bias.denoisers import Denoiser, probe
from exposure_bias.diagnostics.denoising import check_denoises
from exposure_bias.diagnostics.epsilon_norm import epsilon_norm
from exposure_bias.errors import InputError
from exposure_bias.jackknife import T_QUANTILE, Array, jackknife, sums_by_group
from exposure_bias.recording import Recording
from exposure_bias.remedies import Scale, epsilon_scaled
from exposure_bias.results.numbers import number, rounded
from exposure_bias.schedules import Level

KINDS = ("uniform", "linear", "levels", "forward")
Estimate = tuple[float, float]


def fitted_scaling(
    model: Denoiser, recording: Recording, kind: str = "uniform"
) -> tuple[Denoiser, str]:
    """The model with the epsilon scaling that its own recording suggests.

    The scaling comes along in words, with intervals.

    kind: see the module docstring; "linear" is λ = k·i + b with i counted for chains of the
    recording's steps, "levels" one λ for each recorded level, interpolated. The recipe's three are
    fitted relative to the Gaussian reference.

    Raises InputError for an unknown kind, a recording of another model, and one that has nothing to
    fit to: no Gaussian reference, or for "forward" predictions that were clipped.
    """
    if kind not in KINDS:
        raise InputError(f"unknown fit {kind!r} of epsilon scaling: allowed are {', '.join(KINDS)}")
    check_model(model, recording)
    check_denoises(recording)
    steps = None
    scale: Scale
    if kind == "forward":
        scale, error = forward_scale(recording)
        words = f"lambda = {_estimate(scale, error)}"
    else:
        norms = epsilon_norm(recording)
        if "no_schedule" in norms.attrs:
            raise InputError(
                f"es:fit has nothing to fit: {norms.attrs['no_schedule']}; es:fit:forward needs"
                " none"
            )
        found = {
            name: (float(norms[name]), float(norms[f"{name}_se"]))
            for name in ("scale_uniform", "scale_slope", "scale_offset")
        }
        if kind == "uniform":
            scale, words = (
                found["scale_uniform"][0],
                f"lambda = {_estimate(*found['scale_uniform'])}",
            )
        elif kind == "linear":
            k, b = found["scale_slope"], found["scale_offset"]
            scale, steps = (k[0], b[0]), recording.run.steps
            words = f"lambda = k i + b, k = {_estimate(*k)}, b = {_estimate(*b)}, for {steps} steps"
        else:
            scale, values = _by_level(
                model, norms["scale"].values, recording.run.levels, norms["step"].values
            )
            words = (
                f"lambda from {rounded(values.min(), 5)} to {rounded(values.max(), 5)}, by level"
            )
    return epsilon_scaled(model, scale, steps), f"es:fit:{kind} is {words}"


def forward_scale(recording: Recording) -> Estimate:
    """λ of the module docstring's `forward` and its standard error.

    Pooled over the recorded levels.

    Raises InputError for a run that clips x̂_0, which then is not ε̂'s own.
    """
    if recording.run.clip:
        raise InputError(
            "es:fit:forward compares epsilon with its own x_0, but this run has"
            f" {recording.run.clip}: record it with clip=False"
        )
    forward = recording["forward"].isel(step=slice(-1))
    pixels = recording["data"]["mean"].size
    square = np.square(
        forward["epsilon_norm"].transpose("sample", "step").values.astype(np.float64)
    )
    # ε̂ − ε = (α/σ)(x_0 − x̂_0), and E‖ε‖² is known.
    factor = pixels * (forward["alpha"] / forward["sigma"]).values ** 2
    error = factor * forward["prediction_error"].transpose("sample", "step").values.astype(
        np.float64
    )
    sums = [sums_by_group(v, forward["image"].values).sum(1) for v in (square, error)]

    def regression(n: float, square: Array, error: Array) -> Array:
        inner = (square + n * square_of_noise - error) / 2
        return np.asarray(square / inner)

    square_of_noise = float(pixels * forward.sizes["step"])
    found = jackknife(regression, forward["count"].values, *sums)
    return float(found.value), float(found.error)


def check_model(model: Denoiser, recording: Recording) -> None:
    """Raise InputError unless a recording is of this model."""
    run = recording.run
    if run.model.weights != model.weight_hash:
        raise InputError(
            f"this recording is of {run.model.name}, not of {model.name}: record this model"
        )
    answered = replace(run, probe=probe(model))
    run.refuse_differences(answered, "the recording and the model given do not fit")


def _by_level(
    model: Denoiser, scale: Array, levels: Sequence[Level], steps: Array
) -> tuple[Array, Array]:
    """λ at each of the schedule's levels, and at the recorded ones."""
    places = [model.schedule.index_of_ratio(levels[int(step)].ratio) for step in steps]
    known = np.isfinite(scale)
    order = np.argsort(places)
    order = order[known[order]]
    return (
        np.interp(np.arange(len(model.schedule)), np.array(places)[order], scale[order]),
        scale[known],
    )


def _estimate(value: float, error: float) -> str:
    if not np.isfinite(error):
        return f"{rounded(value, 6)} (no interval: 256 or more samples give one)"
    return number(value, T_QUANTILE * error)
