"""What commands print and write: tidy pandas tables, JSON, figures, and the dataset itself."""

import argparse
import io
import json
import re
import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from exposure_bias import files
from exposure_bias.errors import InputError
from exposure_bias.parallel import team

Tables = dict[str, pd.DataFrame]
# What a result says in words, above its tables.
SENTENCES = ("answer", "restarts", "calibration", "remedy", "left_out")
Pixel = tuple[int, int, int]


def message(text: str) -> None:
    """A line for the person at the terminal."""
    if team().first:
        print(text, file=sys.stderr)


def run_folder(options: argparse.Namespace, objective: str, seed: int) -> Path:
    """Where a training run goes: -o itself, or a folder in it named after what differs between
    several runs."""
    parts = [objective] * (len(options.objective) > 1) + [f"seed{seed}"] * (len(options.seed) > 1)
    return Path(options.out) / "-".join(parts)


def show(
    options: argparse.Namespace, name: str, dataset: xr.Dataset, tables: Tables, *extra: Any
) -> None:
    """With -o write the tables, the figures and the dataset; then print the tables, as text or
    JSON."""
    if not team().first:
        return
    if options.out:
        _write(options.out, name, dataset, tables, *extra)
        if getattr(options, "checkpoint", None) == (checkpoint := unfinished(options)):
            Path(checkpoint or "").unlink(missing_ok=True)
        message(f"wrote {options.out}/{name}.*")
    if options.json:
        records = {
            k: json.loads(t.to_json(orient="records", double_precision=15))
            for k, t in tables.items()
        }
        print(json.dumps({"attributes": dataset.attrs, **records}, ensure_ascii=False))
    else:
        said = {k: v for k, v in dataset.attrs.items() if k in SENTENCES}
        print(*said.values(), sep="\n", end="\n\n" if said else "")
        print(", ".join(f"{k}: {v}" for k, v in dataset.attrs.items() if k not in said))
        for title, table in tables.items():
            print(
                f"\n{title}\n{table.to_string(index=False, float_format=lambda v: f'{v:.4g}', na_rep='-')}"
            )


def unfinished(options: argparse.Namespace) -> str | None:
    """From where the same command goes on after an interrupt; gone once its results are written."""
    return f"{options.out}/unfinished.nc" if options.out else None


def _write(folder: str, name: str, dataset: xr.Dataset, tables: Tables, *extra: Any) -> None:
    from exposure_bias import plots

    figures: dict[str, dict[str, Any]] = {
        "spectrum": {"": plots.spectrum},
        "state-error": {"": plots.state_error},
        "gap": {"": plots.variance_gap},
        "delta": {"": plots.published_delta},
        "norms": {"": plots.epsilon_norm},
        "normality": {"": plots.normality},
        "rollout": (
            {"": plots.rollouts} | ({"-ranks": plots.rank_histogram} if "ranks" in dataset else {})
        ),
        "telescope": {"": plots.telescope},
        "compare": {"": plots.compare},
        "errors": {"": plots.error_histograms, "-std": plots.error_std},
        "chain-fid": {"": plots.chain_length_fid},
        "budget": {"": plots.budget},
        "diagnosis": {"": plots.diagnosis},
    }
    for suffix, function in figures[name].items():
        figure = function(dataset, *(extra if not suffix else ()))
        for kind in ("png", "pdf"):
            buffer = io.BytesIO()
            figure.savefig(
                buffer, format=kind, metadata={"CreationDate": None} if kind == "pdf" else None
            )
            files.write_bytes(f"{folder}/{name}{suffix}.{kind}", buffer.getvalue())
    for title, table in tables.items():
        files.write_bytes(f"{folder}/{name}-{_slug(title)}.csv", table.to_csv(index=False).encode())
    kind = "chain errors" if name == "errors" else name
    files.write_tree(
        f"{folder}/{name}.nc", xr.DataTree(dataset), {"kind": kind, "attributes": dataset.attrs}
    )


def _slug(title: str) -> str:
    """A table's title as part of a file's name: without what is in brackets, in plain letters."""
    plain = unicodedata.normalize("NFKD", title.split(" (")[0]).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9-]+", "-", plain)


def spread_pixels(shape: tuple[int, ...]) -> list[Pixel]:
    """Three pixels (c, y, x) of a (C, H, W) image: at a quarter, the middle and three quarters of
    both sides."""
    channels, height, width = shape
    return [(i % channels, (i + 1) * height // 4, (i + 1) * width // 4) for i in range(3)]


def pixels(shape: tuple[int, ...], given: Sequence[str] | None) -> list[Pixel]:
    """Pixels (c, y, x) of a (C, H, W) image from flat indices or "c,y,x"; three spread over it by
    default."""
    channels, height, width = shape
    if not given:
        return spread_pixels(shape)
    chosen = []
    for text in given:
        try:
            numbers = [int(part) for part in text.split(",")]
            place = (
                numbers
                if len(numbers) == 3
                else [int(i) for i in np.unravel_index(numbers[0], shape)]
            )
            if len(numbers) not in (1, 3) or not all(
                0 <= p < s for p, s in zip(place, shape, strict=True)
            ):
                raise ValueError
        except ValueError:
            size = f"{channels}×{height}×{width}"
            allowed = f"an index from 0 to {np.prod(shape) - 1}, or c,y,x"
            raise InputError(f"pixel {text!r} is none of a {size} image: give {allowed}") from None
        chosen.append((place[0], place[1], place[2]))
    return chosen


def error_tables(errors: xr.Dataset, tests: xr.Dataset, chosen: Sequence[Pixel]) -> Tables:
    """Per length: ν_t, RMSE and normality; per pixel: moments and the first block's test."""
    frame = errors[["nu", "nu_se", "pooled_rmse", "pooled_rmse_se"]].to_dataframe().reset_index()
    if "std_gaussian" in errors:
        frame["nu_gaussian"] = errors["std_gaussian"].mean(("channel", "y", "x")).values
    rates = [
        "rate",
        "rate_low",
        "rate_high",
        "effective_tests",
        "fdr_rate",
        "null_low",
        "null_high",
    ]
    normal = tests[rates].to_dataframe().reset_index().dropna(axis="columns", how="all")
    apart = tests[["count", "rate_of"]].to_dataframe().reset_index()
    rows = []
    for length in errors["length"].values:
        for c, y, x in chosen:
            here = errors.sel(length=length).isel(channel=c, y=y, x=x)
            test = tests.sel(length=length).isel(channel=c, y=y, x=x, block=0)
            names = ("mean", "mean_se", "std", "std_se", "skewness", "kurtosis")
            row = {
                "length": int(length),
                "pixel": f"{c},{y},{x}",
                **{k: float(here[k]) for k in names},
            }
            rows.append(row | {"W": float(test["statistic"]), "p": float(test["pvalue"])})
    label = (
        f"normality (Shapiro-Wilk, {tests.attrs['n_per_test']} values a test, level"
        f" {tests.attrs['alpha']})"
    )
    return {"errors": frame, label: normal, "pixel classes": apart, "pixels": pd.DataFrame(rows)}


def normality_tables(shape: xr.Dataset, tests: Sequence[xr.Dataset], power: xr.Dataset) -> Tables:
    """The two questions apart: input perturbation's assumption (Gaussian and white), and the
    perfect sampler's."""
    rates = [
        "rate",
        "rate_low",
        "rate_high",
        "effective_tests",
        "fdr_rate",
        "null_low",
        "null_high",
    ]
    rejected = pd.concat(
        [t[rates].to_dataframe().reset_index().assign(n=int(t.attrs["n_per_test"])) for t in tests]
    )
    white, centred = (
        [f"{name}{end}" for name in names for end in ("", "_se") if f"{name}{end}" in shape]
        for names in (
            ("correlation", "autocorrelation_x", "autocorrelation_y"),
            ("bias", "skewness"),
        )
    )
    return {
        "assumption of input perturbation, Gaussian (Shapiro-Wilk rejection rates)": (
            rejected.dropna(axis=1, how="all")
        ),
        "power of that test (simulated)": power.to_dataframe().reset_index(),
        "assumption of input perturbation, white (null: 0)": (
            shape[white].to_dataframe().reset_index()
        ),
        "perfect sampler (null: 0)": shape[centred].to_dataframe().reset_index(),
    }


def compare_tables(compared: xr.Dataset) -> Tables:
    """Every entry's numbers, and their differences from the first with total standard errors, at
    the clean end."""
    scalars = {
        "hf": compared.isel(step=-1),
        "gap": compared.isel(step=-1),
        "state_rmse": compared.isel(step=-1),
    }
    scalars["epsilon_ratio"] = compared.isel(step=-2)
    rows = []
    for name, here in scalars.items():
        if name in compared:
            rows += _compared_rows(name, here)
    for length in compared["length"].values if "length" in compared else ():
        rows += _compared_rows("error_rmse", compared.sel(length=length), f"error_rmse({length})")
    return {"comparison (clean end; epsilon_ratio at the last network call)": pd.DataFrame(rows)}


def _compared_rows(name: str, here: xr.Dataset, label: str | None = None) -> list[dict[str, Any]]:
    parts = {
        "value": "",
        "se": "_se",
        "difference": "_difference",
        "difference_se": "_difference_se_total",
    }
    return [
        {"statistic": label or name, "entry": entry, "seeds": int(here["seeds"][i])}
        | {k: float(here[f"{name}{suffix}"][i]) for k, suffix in parts.items()}
        | {"note": str(here["note"].values[i])}
        for i, entry in enumerate(here["entry"].values)
    ]


def state_tables(states: xr.Dataset) -> Tables:
    """The pooled state error at eleven steps."""
    names = [
        k
        for k in (
            "pooled_mean",
            "pooled_std",
            "pooled_rmse",
            "pooled_rmse_se",
            "pooled_rmse_gaussian",
        )
        if k in states
    ]
    return {"state error": _some_steps(states, [*names, "scale"])}


def rollout_tables(results: xr.Dataset) -> Tables:
    """By start: S, A, U, W and calibration; ranks; state error by number of steps."""
    names = ["S", "A", "U", "W", "W_over_U", "U_minus_S", "U_minus_S_relative"]
    columns = [
        k
        for name in names
        for k in (name, f"{name}_se", f"{name}_low", f"{name}_high", f"{name}_gaussian")
    ]
    frame = (
        results[[k for k in columns if k in results]]
        .reset_coords("length")
        .drop_vars(["timestep", "alpha", "sigma"])
    )
    tables = {"rollouts": frame.to_dataframe().reset_index().dropna(axis="columns", how="all")}
    if "ranks" in results:
        shares = results[
            ["ranks", "ranks_se", "ranks_direction", "ranks_direction_se"]
        ].reset_coords(drop=True)
        tables["ranks"] = shares.to_dataframe().reset_index().dropna(axis="columns", how="all")
    depth = results[
        [k for k in ("state_error", "state_error_se", "state_error_gaussian") if k in results]
    ]
    frame = depth.reset_coords(drop=True).to_dataframe().reset_index().dropna(subset="state_error")
    return tables | {"state error": frame.dropna(axis="columns", how="all")}


def telescope_tables(results: xr.Dataset) -> Tables:
    """The gap by target and by block, and at the clean end for high frequencies."""
    tables = {}
    for title, suffix in {"variance gap (relative)": "", "high frequencies (dB)": "_high"}.items():
        if f"gap{suffix}" in results:
            each = [f"{name}{suffix}" for name in ("gap", "gap_data", "bracket")]
            columns = [
                k for name in each for k in (name, f"{name}_se", f"{name}_gaussian") if k in results
            ]
            chosen = results[columns].drop_vars(["timestep", "alpha", "sigma"])
            total, end = chosen.drop_dims("block"), chosen.isel(target=-1, drop=True)
            blocks = end[[k for k in columns if k.startswith("bracket")]]
            for kind, part in {
                title: total,
                f"{title.replace(' (', ' by block (')}": blocks,
            }.items():
                tables[kind] = part.to_dataframe().reset_index().dropna(axis="columns", how="all")
    return tables


def spectrum_tables(spectra: xr.Dataset) -> Tables:
    """HF, and power and ratio by frequency at the clean end."""
    high = {
        k: float(spectra[k])
        for k in ("hf", "hf_se", "hf_low", "hf_high", "hf_gaussian")
        if k in spectra
    }
    names = ["modes", "power_data", "power_chain", "ratio", "ratio_low", "ratio_high"]
    names += [k for k in ("ratio_gaussian",) if k in spectra]
    last = spectra.isel(step=-1)[names].reset_coords(drop=True).to_dataframe().reset_index()
    tables = {
        "high frequencies (dB at the clean end)": pd.DataFrame([high]),
        "spectrum at the clean end": last,
    }
    for title, name in (("high frequencies by channel", "hf_channel"), ("Haar sub-bands", "haar")):
        here = [
            k
            for k in (name, f"{name}_se", f"{name}_low", f"{name}_high", f"{name}_gaussian")
            if k in spectra
        ]
        tables[f"{title} (dB at the clean end)"] = (
            spectra[here].reset_coords(drop=True).to_dataframe().reset_index()
        )
    return tables


def gap_tables(gaps: xr.Dataset) -> Tables:
    """The gaps at eleven steps; by channel and by eigen-direction at the clean end."""
    names = [
        "gap",
        "gap_low",
        "gap_high",
        "gap_gaussian",
        "excess_over_gaussian",
        "gap_forward",
        "gap_absolute",
    ]
    names += ["mean_shift", "mean_shift_se", "std_chain", "std_reference"]
    tables = {"variance gap": _some_steps(gaps, names)}
    last = gaps.isel(step=-1).reset_coords(drop=True)
    for dim in ("channel", "direction"):
        here = [k for k in (f"gap_{dim}", f"gap_{dim}_se", f"gap_{dim}_gaussian") if k in gaps]
        tables[f"gap by {dim} (clean end)"] = last[here].to_dataframe().reset_index()
    return tables


def delta_tables(deltas: xr.Dataset) -> Tables:
    """δ_t and its references at eleven steps."""
    names = [
        "delta",
        "delta_low",
        "delta_high",
        "delta_perfect",
        "delta_gaussian",
        "root",
        "root_se",
    ]
    return {"published delta": _some_steps(deltas, names)}


def norm_tables(norms: xr.Dataset) -> Tables:
    """Norms, ratio and λ at eleven network calls; the fitted schedules."""
    names = ["norm_forward", "norm_chain", "ratio", "ratio_low", "ratio_high", "ratio_gaussian"]
    tables = {"norms": _some_steps(norms, [*names, "excess_over_gaussian", "scale"])}
    if "scale" in norms:
        fitted = [
            f"scale_{kind}{end}" for kind in ("uniform", "slope", "offset") for end in ("", "_se")
        ]
        tables["epsilon scaling (fits)"] = pd.DataFrame([{k: float(norms[k]) for k in fitted}])
    return tables


def curve_tables(curve: xr.Dataset, baseline: xr.Dataset | None) -> Tables:
    """The measures by model, sampler and length; the floor; and how soon the baseline's best value
    is reached."""
    names = [
        "frechet",
        "frechet_corrected",
        "spatial_frechet",
        "spatial_frechet_corrected",
        "change",
        "against_first",
    ]
    names += ["kid", "precision", "recall", "rmse"]
    shown = [n for name in names if name in curve for n in (name, f"{name}_se") if n in curve]
    floor = pd.DataFrame(
        [
            {
                str(k)[6:]: float(curve[k])
                for k in curve
                if str(k).startswith("floor_") and not curve[k].dims
            }
        ]
    )
    tables = {
        curve.attrs["measure"]: curve[shown].to_dataframe().reset_index(),
        "noise floor (real images)": floor,
    }
    if baseline is not None:
        from exposure_bias.experiments.chain_length_fid import speed_up

        along = "iteration" if "iteration" in curve.dims else "length"
        reached = speed_up(curve, baseline, along)
        tables["to the baseline's best"] = (
            reached.expand_dims("curve").to_dataframe().reset_index().drop(columns="curve")
        )
    return tables


def _some_steps(dataset: xr.Dataset, names: list[str]) -> pd.DataFrame:
    names = [name for name in names if name in dataset]
    rows = np.unique(np.linspace(0, dataset.sizes["step"] - 1, 11).round().astype(int))
    frame: pd.DataFrame = dataset[names].isel(step=rows).to_dataframe().reset_index()
    return frame.drop(columns=[c for c in ("alpha", "sigma") if c in frame])


def budget_tables(result: xr.Dataset) -> Tables:
    """The parts of every statistic; of several samplers those of the gap."""
    names = [
        k
        for part in ("total", "initialisation", "discretisation", "score")
        for k in (part, f"{part}_se")
    ]
    if "sampler" in result.dims:
        chosen = result.sel(statistic="gap", drop=True)[["calls", *names, "answer", "needed_n"]]
        return {"variance gap by sampler and steps": chosen.to_dataframe().reset_index()}
    frame = result[[*names, "answer", "needed_n"]].to_dataframe().reset_index()
    return {"error budget": frame.drop(columns=[c for c in ("length",) if c in frame])}


def diagnosis_tables(result: xr.Dataset) -> Tables:
    """The budget, with context and rollouts; of a recording the gaps."""
    if "score" not in result:
        return gap_tables(result)
    tables = budget_tables(result)
    if "W_over_U" in result:
        names = [
            k
            for name in ("W_over_U", "U_minus_S_relative")
            for k in (name, f"{name}_low", f"{name}_high")
        ]
        columns = result[[k for k in names if k in result]].reset_coords(drop=True)
        tables["rollouts"] = columns.to_dataframe().reset_index()
    return tables
