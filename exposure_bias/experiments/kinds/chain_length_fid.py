"""The kinds of what `chain_length_fid` and `speed_up` return."""

import numpy as np
import xarray as xr

from exposure_bias.results import Column, Drawing, Kind, Table, Term
from exposure_bias.results.numbers import NO_INTERVAL, number, rounded, told
from exposure_bias.results.tables import tidy
from exposure_bias.results.terms import COUNT, DATA, SHARE, TEXT

MEASURES = (
    Column("Fréchet distance", "frechet"),
    Column("bias-corrected", "frechet_corrected"),
    Column("limit of small steps", "limit"),
    Column("sampler's part", "discretisation", signed=True),
    Column("change from the length before", "change", signed=True),
    Column("kernel distance", "kid", signed=True),
    Column("precision (%)", "precision", 100),
    Column("recall (%)", "recall", 100),
)


def _sentence(curve: xr.Dataset) -> str:
    corrected = np.isfinite(curve["frechet_corrected"]).any()
    name = "frechet_corrected" if corrected else "frechet"
    one = curve[[k for k in (name, f"{name}_se") if k in curve]]
    one = one.isel({dim: 0 for dim in one.dims if dim != "length"})
    least = one.isel(length=int(one[name].fillna(np.inf).argmin("length")))
    missing = "" if corrected else NO_INTERVAL
    measure = curve.attrs["measure"]
    return f"{measure} is least, {told(least, name)}, at T′ = {int(least['length'])}{missing}."


def details(curve: xr.Dataset) -> list[str]:
    """Say of every curve where it is lowest, and whether it rises after that."""
    name = "frechet_corrected" if np.isfinite(curve["frechet_corrected"]).all() else "frechet"
    others = [dim for dim in curve[name].dims if dim != "length"]
    lines = []
    for place in np.ndindex(*(curve.sizes[dim] for dim in others)):
        one = curve[name].isel(dict(zip(others, place, strict=True)))
        low, last = int(one.argmin("length")), one.sizes["length"] - 1
        known = [dim for dim in ("model", "iteration", "sampler") if dim in one.coords]
        where = ", ".join(str(one[dim].values) for dim in known) or "curve"
        lowest = f"{where}: lowest at T′ = {int(one['length'][low])} ({number(float(one[low]))})"
        if low == last:
            lines.append(f"{lowest}, the longest chain.")
            continue
        rise = float(one[last] - one[low])
        lines.append(
            f"{lowest}, {rounded(rise)} higher at T′ = {int(one['length'][last])}; the curve does"
            " not say why: see diagnose."
        )
    return lines


def _tables(curve: xr.Dataset) -> list[Table]:
    dims = [d for d in ("model", "iteration", "sampler", "length") if d in curve.dims]
    first = [Column({"length": "chain length T′"}.get(d, d), d) for d in dims]
    known = [c for c in MEASURES if c.name in curve and curve[c.name].notnull().any()]
    columns = (*first, *known[: 6 - len(first)])
    floor = [str(k) for k in curve if str(k).startswith("floor_") and not curve[k].dims]
    real = tidy(curve[floor].rename_vars({k: k.removeprefix("floor_") for k in floor}))
    return [
        Table("quality", curve.attrs["measure"], tidy(curve, *dims), columns, main=True),
        Table("noise_floor", "noise floor (real images)", real, MEASURES),
    ]


def _sooner(reached: xr.Dataset) -> list[Table]:
    shown = (
        Column("baseline's best", "best"),
        Column("reached by it at", "baseline_at"),
        Column("reached here at", "candidate_at"),
        Column("times sooner", "factor"),
    )
    frame = reached.expand_dims("curve").to_dataframe().reset_index().drop(columns="curve")
    return [Table("to_the_best", "to the baseline's best", frame, shown, main=True)]


VARIABLES = {
    "frechet": Term(
        "Fréchet distance",
        "feature units²",
        "Between samples and real images in a feature space, as the literature prints it:"
        " biased upwards. FID if the features are Inception's.",
    ),
    "frechet_corrected": Term(
        "Fréchet distance, bias-corrected", "feature units²", "By jackknife; 0 for equal laws."
    ),
    "spatial_frechet": Term(
        "spatial Fréchet distance", "feature units²", "sFID: of Inception's spatial features."
    ),
    "spatial_frechet_corrected": Term(
        "spatial Fréchet distance, bias-corrected", "feature units²", "By jackknife."
    ),
    "kid": Term("kernel distance", SHARE, "KID: unbiased, of any number of images."),
    "precision": Term("precision", SHARE, "Samples that lie among real images."),
    "recall": Term("recall", SHARE, "Real images that lie among samples."),
    "rmse": Term("reconstruction error", DATA, "RMSE of x̂_0 − x_0 from noised data."),
    "change": Term("change from the length before", "feature units²", "Paired."),
    "against_first": Term("less the first model's", "feature units²", "Paired."),
    "limit": Term("limit of small steps", "feature units²", "Bias-corrected, of the model's."),
    "discretisation": Term("the sampler's share", "feature units²", "Distance less its limit."),
    "limit_steps": Term("steps of the limit", COUNT, "The length the limit was taken from."),
    "limit_bias": Term("error of the limit", "feature units²", "Estimated, of extrapolation."),
    "deleted": Term("groups left out", COUNT, "Of the jackknife: none, one or two."),
    "iteration": Term("training iteration", COUNT, "Of a checkpoint."),
    "model": Term("model", TEXT, "What was loaded, with its remedies."),
    "sampler": Term("sampler", TEXT, "The rule that takes the chain's steps."),
    "floor_n": Term("images of the floor", COUNT, "Real images on each side of the floor."),
    "best": Term("baseline's best", "feature units²", "The least distance of the baseline."),
    "baseline_at": Term("where the baseline has it", COUNT, "Its length or iteration."),
    "candidate_at": Term("where it is reached", COUNT, "The first length or iteration."),
    "factor": Term("times sooner", SHARE, "The baseline's over the candidate's."),
}
CHAIN_LENGTH_FID = Kind(
    name="chain_length_fid",
    title="Quality by chain length",
    question=(
        "How many steps are worth taking? Distance of the samples' features from real ones; lower"
        " is better, the grey band is what real images show against real images."
    ),
    variables=VARIABLES,
    tables=_tables,
    sentence=_sentence,
    details=lambda curve: details(curve) if "length" in curve.dims else [],
    figures=(Drawing("exposure_bias.plots:chain_length_fid"),),
    aliases=("chain-fid", "chain length"),
)
SPEED_UP = Kind(
    name="speed_up",
    title="How soon the baseline's best is reached",
    question="How much sooner does one curve reach the lowest value of another?",
    variables=VARIABLES,
    tables=_sooner,
)
