"""Is there exposure bias? The gaps of a chain beside every reference at hand, and a verdict only where they agree.

A chain of few steps departs from q(x_t) without any error of the model, and no single reference shows by how much
(design §4.4). So the variance gap at each level, and the power at the clean end in each frequency band, are held
against up to three kinds of evidence:

    gaussian      the gap less that of a perfect denoiser of Gaussian data, same chain
    oracle        the gap less that of the exact denoiser of given images, same chain, same noise
    refinement    what is left of the model's own gap at the smallest steps, where the solver's share is smallest

Each comes with a 95 % band over all levels (frequencies). `excess +` (the chain is too wide) or `excess -` (too narrow)
is said where all bands exclude zero on one side, `none found` where all of them hold zero, `undecided` otherwise, and
always where nothing was refined. A verdict is about this model, these data and this sampler.

Uniform epsilon scaling λ changes the gap at the clean end at a rate that one more chain at λ = PROBE measures; the λ
that would close it follows by proportion, with a jackknife error. That is a suggestion to be tried with `compare`, and
proportion needs a straight line. A variance is a square, of a state that the probe changes: what it adds grows with
(λ − 1)² as soon as that change is as large as the state. So nothing is suggested, and the reason given, where the probe
moves the gap FARTHEST times as far as it would have to go or more (the λ in between was not seen), and where an
unclipped chain passes a level at which the probe moves x̂_0 by more than BLOW_UP ε̂.
"""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from scipy.special import stdtrit

from exposure_bias.diagnostics.epsilon_norm import epsilon_norm
from exposure_bias.diagnostics.jackknife import (
    LEVEL,
    T_QUANTILE,
    Array,
    grouped,
    jackknife,
    why_no_interval,
    with_errors,
    with_interval,
)
from exposure_bias.diagnostics.spectra import DECIBEL, spectrum
from exposure_bias.diagnostics.variance_gap import pooled_gap, variance_gap
from exposure_bias.recording import Recording, is_guided
from exposure_bias.statistics.accumulator import GROUPS

PROBE = 1.01
PLAUSIBLE_SCALE = (0.9, 1.1)  # the proportion is a linear one
FARTHEST = 4.0
BLOW_UP = 10.0  # that of `remedies`, which needs torch


def diagnosis(
    recording: Recording,
    refined: Sequence[Recording] = (),
    oracle: Recording | None = None,
    rollouts: xr.Dataset | None = None,
    probe: Recording | None = None,
) -> xr.Dataset:
    """The gaps of a recording beside its references, with a verdict in words in the attributes.

    refined: the same with smaller steps, largest steps first; oracle: the same with an exact denoiser
    (`experiments.refinement` makes both). rollouts: `experiments.rollouts`. probe: the chain under epsilon scaling by
    PROBE. All at the recording's levels, images and noise.

    Returns, over (length, step), length being the number of steps: gap with `_se`, gap_gaussian; over (length): hf in
    dB with `_se`, hf_gaussian; gap_oracle, hf_oracle. Over (evidence, step) excess with excess_low and excess_high, the
    ends of its band, and over (step) verdict; over (evidence, frequency) excess_db, excess_db_low, excess_db_high and
    over (frequency) verdict_frequency, at the clean end. norm_ratio and norm_ratio_gaussian over (step). es_scale, the
    uniform scaling that would close the gap at the clean end, with `_se`; NaN, with the attribute `reason`, where the
    probe does not tell.

    Attributes: verdict, levels, frequencies, refinement, calibration and remedy, a sentence each.

    Raises InputError for a recording without the forward or the chain stream.
    """
    recordings = [recording, *refined]
    gaps, spectra = ([f(r) for r in recordings] for f in (variance_gap, spectrum))
    coords = {k: gaps[0][k] for k in ("step", "timestep", "alpha", "sigma")}
    lengths = [r.provenance["run"]["steps"] for r in recordings]
    result = xr.Dataset(coords=coords | {"length": lengths, "frequency": spectra[0]["frequency"]})
    for name in ("gap", "gap_se", "gap_gaussian"):
        if name in gaps[0]:
            result[name] = (("length", "step"), np.stack([g[name].values for g in gaps]))
    for name in ("hf", "hf_se", "hf_gaussian"):
        if name in spectra[0]:
            result[name] = ("length", np.stack([s[name].values for s in spectra]))
    norms = epsilon_norm(recording, "none")
    for name in ("ratio", "ratio_gaussian"):
        if name in norms:
            result[f"norm_{name}"] = norms[name].drop_vars(("call_index", "quantile"), errors="ignore")
    result = _levels(result, recording, gaps, oracle)
    result = _frequencies(result, spectra, oracle)
    if probe is not None:
        result = _scaling(result, recording, probe)
    result.attrs = recording.description | gaps[0].attrs | _words(result, recording, rollouts)
    return result


def _levels(result: xr.Dataset, recording: Recording, gaps: list[xr.Dataset], oracle: Recording | None) -> xr.Dataset:
    """Evidence and verdict at every level."""
    first, last = gaps[0], gaps[-1]
    evidence: dict[str, list[Array]] = {}
    if "gap_gaussian" in first:
        evidence["gaussian"] = [first[f"gap{k}"].values - first["gap_gaussian"].values for k in _ENDS]
    if oracle is not None:
        result["gap_oracle"] = ("step", variance_gap(oracle)["gap"].values)
        target = _target(recording)
        value = first["gap"].values - result["gap_oracle"].values

        def difference(n: float, *sums: Array) -> Array:
            return (_total_variance(n, *sums[:2]) - _total_variance(n, *sums[2:])) / target

        count, sums = recording["chain"]["count"].values, _chains(recording, oracle)
        paired = with_interval(xr.Dataset(), ("step",), "gap", difference, count, *sums, value=value)
        evidence["oracle"] = [paired[f"gap{k}"].values for k in _ENDS]
    if len(gaps) > 1:
        evidence["refinement"] = [last[f"gap{k}"].values for k in _ENDS]
    return _with_evidence(result, evidence, "excess", "verdict", "step")


def _frequencies(result: xr.Dataset, spectra: list[xr.Dataset], oracle: Recording | None) -> xr.Dataset:
    """Evidence and verdict in every frequency band at the clean end, in dB of power."""
    logs = [np.log(s["ratio"].values[-1]) for s in spectra]
    errors = [s["ratio_se"].values[-1] for s in spectra]
    known: dict[str, tuple[Array, Array]] = {}
    if "ratio_gaussian" in spectra[0]:
        known["gaussian"] = logs[0] - np.log(spectra[0]["ratio_gaussian"].values[-1]), errors[0]
    if oracle is not None:
        perfect = spectrum(oracle)
        result["hf_oracle"] = perfect["hf"]
        known["oracle"] = (
            logs[0] - np.log(perfect["ratio"].values[-1]),
            np.hypot(errors[0], perfect["ratio_se"].values[-1]),
        )
    if len(spectra) > 1:
        known["refinement"] = logs[-1], errors[-1]
    widest = stdtrit(GROUPS - 1, (1 + LEVEL ** (1 / result.sizes["frequency"])) / 2)
    evidence = {
        name: [DECIBEL * (value + t * error) for t in (0, -widest, widest)] for name, (value, error) in known.items()
    }
    return _with_evidence(result, evidence, "excess_db", "verdict_frequency", "frequency")


_ENDS = ("", "_band_low", "_band_high")


def _with_evidence(
    result: xr.Dataset, evidence: dict[str, list[Array]], name: str, verdict: str, dimension: str
) -> xr.Dataset:
    result = result.assign_coords(evidence=list(evidence))
    value, low, high = np.array(list(evidence.values())).swapaxes(0, 1) if evidence else np.empty((3, 0, 0))
    signs = (low > 0).astype(int) - (high < 0)
    shape = (len(evidence), result.sizes[dimension])
    for suffix, values in {"": value, "_low": low, "_high": high}.items():
        result[f"{name}{suffix}"] = (("evidence", dimension), values.reshape(shape))
    decided = "refinement" in evidence
    words = np.full(shape[1], "undecided", dtype="U10")
    if decided:
        known = np.isfinite(low).all(0)
        words[known & (signs == 0).all(0)] = "none found"
        words[known & (signs == 1).all(0)] = "excess +"
        words[known & (signs == -1).all(0)] = "excess -"
    return result.assign({verdict: (dimension, words)})


def _chains(*recordings: Recording) -> list[Array]:
    """Σ d and Σ d² of each chain in turn, (group, step, pixel)."""
    return [grouped(r["chain"], f"state_group_{part}") for r in recordings for part in ("sum", "square")]


def _target(recording: Recording) -> Array:
    """Σ_i (α²σ_i² + σ²) over the pixels kept by group, (step,): a scale, whose error is beside the point."""
    chain, data = recording["chain"], recording["data"]
    variance = data["variance"].values.ravel()[chain["pixel"].values]
    target: Array = (chain["alpha"].values[:, None] ** 2 * variance + chain["sigma"].values[:, None] ** 2).sum(1)
    return target


def _total_variance(n: float, total: Array, square: Array) -> Array:
    variance: Array = np.maximum(square - total**2 / n, 0).sum(-1) / (n - 1)
    return variance


def _scaling(result: xr.Dataset, recording: Recording, probe: Recording) -> xr.Dataset:
    """The uniform λ at which the gap at the clean end would close, by proportion."""
    here, there = pooled_gap(recording), pooled_gap(probe)

    def scale(here: Array, there: Array) -> Array:
        return np.asarray(1 - (PROBE - 1) * here / (there - here))

    def estimate(n: float, *sums: Array) -> Array:
        return scale(*(g.estimate(n, *pair, *sums[4:])[-1] for g, pair in ((here, sums[:2]), (there, sums[2:4]))))

    sums = (*here.sums[:2], *there.sums[:2], *here.sums[2:])
    _, error = jackknife(estimate, recording["chain"]["count"].values, *sums)
    # 1 + here is the chain's variance over the target, and both gaps have the target in common.
    slope = (PROBE - 1) / (there.value[-1] - here.value[-1]) / (1 + here.value[-1])
    error = np.hypot(error, slope * here.further[-1])
    value = scale(here.value[-1], there.value[-1])
    reason = _not_straight(recording, float(value), float(error))
    result = with_errors(result, (), es_scale=(value * np.nan, error * np.nan) if reason else (value, error))
    result["es_scale"].attrs |= {"reason": reason} if reason else {}
    return result


def _not_straight(recording: Recording, scale: float, error: float) -> str:
    """Why the probe's proportion says nothing about the λ that it leads to, or ""."""
    run = recording.provenance["run"]
    farthest = max((sigma / alpha for _, alpha, sigma in run["levels"] if alpha), default=0.0) * (1 - 1 / PROBE)
    if run["clip"].startswith("x0 unclipped") and farthest > BLOW_UP:
        return (
            f"epsilon scaling by {PROBE} moves x0 by {farthest:.3g} epsilon where the chain is noisiest, so that its "
            "effect is not proportional: sample with clipping"
        )
    steps = (PROBE - 1) / abs(scale - 1) if scale != 1 else np.inf
    if steps >= FARTHEST and abs(scale - 1) > T_QUANTILE * error:
        return f"the probe at {PROBE} moved the gap {steps:.3g} times as far as it would have to go, too far to divide"
    return ""


def _words(result: xr.Dataset, recording: Recording, rollouts: xr.Dataset | None) -> dict[str, str]:
    """The attributes that say what was found."""
    guided = is_guided(recording.provenance["run"]["model"].get("guidance"))
    words = {
        "verdict": _verdict(result, recording),
        "levels": _places(result, "verdict", "excess", "step"),
        "frequencies": _places(result, "verdict_frequency", "excess_db", "frequency"),
        "refinement": _refinement(result),
    }
    if rollouts is not None and "W_over_U" in rollouts:
        words["calibration"] = _calibration(rollouts)
    if "es_scale" in result and not guided:
        words["remedy"] = _remedy(result)
    return words


def _verdict(result: xr.Dataset, recording: Recording) -> str:
    reason = why_no_interval(recording["chain"]["count"].values).get("no_interval")
    if is_guided(recording.provenance["run"]["model"].get("guidance")):
        return "no verdict: guidance aims at another distribution than the data's, so that gaps are guidance + bias"
    if reason:
        return f"undecided: {reason}"
    if "refinement" not in result["evidence"]:
        return "undecided: refinement needs the network"
    found = set(result["verdict"].values.tolist()) | set(result["verdict_frequency"].values.tolist())
    sides = sorted(f for f in found if f.startswith("excess"))
    if sides:
        return f"exposure bias: {' and '.join(sides)} beyond every reference ({', '.join(result['evidence'].values)})"
    if found == {"none found"}:
        half = float((result["excess_high"] - result["excess_low"]).max()) / 2
        return f"none found at any level or frequency; a gap of {half:.1%} would have shown at every level"
    return "undecided: a gap shows against some references and not against others"


def _places(result: xr.Dataset, verdict: str, excess: str, dimension: str) -> str:
    """How often each verdict was given and, where it says more than `none found`, the evidence at its largest."""
    words, places = result[verdict].values, result["timestep" if dimension == "step" else dimension].values
    parts = []
    for word in sorted(set(words.tolist())):
        here = np.flatnonzero(words == word)
        part = f"{word} at {len(here)} of {len(words)}"
        if word != "none found" and result.sizes["evidence"]:
            values = result[excess].transpose("evidence", dimension).values
            peak = here[np.nan_to_num(np.abs(values[:, here])).max(0).argmax()]
            clean = dimension == "step" and float(result["sigma"][peak]) == 0
            where = "the clean end" if clean else f"{places[peak]:.3g}"
            unit = "{:+.2f} dB" if dimension == "frequency" else "{:+.1%}"
            listed = [
                f"{k} {unit.format(v)}" if np.isfinite(v) else f"{k} none"
                for k, v in zip(result["evidence"].values, values[:, peak], strict=True)
            ]
            part += f" ({places[here[0]]:.3g} to {places[here[-1]]:.3g}; largest at {where}: {', '.join(listed)})"
        parts.append(part)
    return "; ".join(parts)


def _refinement(result: xr.Dataset) -> str:
    gap, hf = [], []
    for i, length in enumerate(result["length"].values):
        here = result.isel(length=i)
        half, half_db = T_QUANTILE * float(here["gap_se"][-1]), T_QUANTILE * float(here["hf_se"])
        gap.append(f"{length} steps {float(here['gap'][-1]):+.1%}" + (f" ± {half:.1%}" if np.isfinite(half) else ""))
        hf.append(f"{float(here['hf']):+.2f}" + (f" ± {half_db:.2f}" if np.isfinite(half_db) else ""))
    meaning = "± is a 95 % interval" if np.isfinite(half) else "too few samples for intervals"
    return f"gap at the clean end: {', '.join(gap)}; HF in dB: {', '.join(hf)} ({meaning})"


def _calibration(rollouts: xr.Dataset) -> str:
    ratio, low, high = (rollouts[f"W_over_U{k}"].values for k in ("", "_low", "_high"))
    off = [
        f"{float(t):.3g} ({r:.2f})" for t, r, a, b in zip(rollouts["timestep"], ratio, low, high, strict=True)
        if a > 1 or b < 1
    ]  # fmt: skip
    drift = rollouts["U_minus_S_relative"] / rollouts["U_minus_S_relative_se"]
    drifting = [f"{float(t):.3g}" for t, z in zip(rollouts["timestep"], drift, strict=True) if abs(z) > T_QUANTILE]
    spread = f"spread differs from skill (W/U) from timestep {', '.join(off)}" if off else "spread matches skill (W/U)"
    if not np.isfinite(ratio).any():
        spread = "no spread to compare with skill (W/U)"
    elif not np.isfinite(high).any():
        spread = "no interval for spread over skill (W/U)"
    mean = (
        f"the chain adds a mean error (U - S) from {', '.join(drifting)}" if drifting else "no added mean error (U - S)"
    )
    if not np.isfinite(drift).any():
        mean = "no interval for an added mean error (U - S)"
    return f"{spread}; {mean}"


def _remedy(result: xr.Dataset) -> str:
    if "reason" in result["es_scale"].attrs:
        return f"no suggestion: {result['es_scale'].attrs['reason']}"
    scale, half = float(result["es_scale"]), T_QUANTILE * float(result["es_scale_se"])
    if not np.isfinite(half):
        return "no interval for an epsilon scaling: more samples are needed"
    if not PLAUSIBLE_SCALE[0] < scale < PLAUSIBLE_SCALE[1] or half > 0.1:
        return "no uniform epsilon scaling near 1 closes the gap at the clean end"
    if abs(scale - 1) <= half:
        return f"none: the scaling that would close the gap at the clean end, {scale:.4f} ± {half:.4f}, includes 1"
    other = f" or ip:{np.sqrt(scale - 1):.3f}" if scale > 1 else ""
    return (
        f"try es:{scale:.4f}{other}: by proportion it closes the gap at the clean end (± {half:.4f}), whether that is "
        "the model's or the solver's; check with `compare`"
    )
