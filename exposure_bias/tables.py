"""A result as tables: what its CSV files hold, and the few columns that a person wants to see.

A `Table` holds a tidy frame with everything, and cells made for reading: value ± half of the 95 %
interval, the unit in the heading, words in place of names. No torch here."""

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from exposure_bias.errors import InputError
from exposure_bias.glossary import kind_of
from exposure_bias.jackknife import T_QUANTILE, interval
from exposure_bias.sentences import number, statistic_in_words

CLEAN_END = "clean end"
MOST_ROWS = 11  # of a curve along the chain

Pixel = tuple[int, ...]
Row = Mapping[str, Any]


class Column(NamedTuple):
    """A column to be read: its heading with the unit, the variable, and how a row is written.

    factor: what values are multiplied by, 100 for per cent, or a function of the row.
    """

    heading: str
    name: str
    factor: float | Callable[[Row], float] = 1.0
    signed: bool = False
    write: Callable[[Row], str] | None = None

    def cell(self, row: Row) -> str:
        """The row's value, with half of its 95 % interval if there is one."""
        if self.write is not None:
            return self.write(row)
        value = row[self.name]
        if isinstance(value, str):
            return value
        if isinstance(value, int | np.integer):
            return str(value)
        factor = self.factor(row) if callable(self.factor) else self.factor
        return number(factor * float(value), factor * half_width(row, self.name), self.signed)


@dataclass(frozen=True)
class Table:
    """One table of a result.

    name: in JSON, and for `table`. title: as a heading; without what is in brackets it is part of a
    file's name. frame: everything, tidy. columns: those to be read; rows: which, by default all.
    main: whether it is shown unasked.
    """

    name: str
    title: str
    frame: pd.DataFrame
    columns: tuple[Column, ...] = ()
    rows: Sequence[int] | None = None
    main: bool = False
    notes: tuple[str, ...] = field(default=())

    @property
    def file(self) -> str:
        """The title as part of a file's name, in plain letters."""
        plain = unicodedata.normalize("NFKD", self.title.split(" (")[0])
        return re.sub(r"[^A-Za-z0-9-]+", "-", plain.encode("ascii", "ignore").decode())

    @property
    def shown(self) -> tuple[Column, ...]:
        """The columns that this frame has something for."""
        here = (c for c in self.columns if c.name in self.frame)
        return tuple(c for c in here if self.frame[c.name].notna().any())

    @property
    def cells(self) -> list[list[str]]:
        """The rows to be read."""
        frame = self.frame if self.rows is None else self.frame.iloc[list(self.rows)]
        return [[c.cell(row) for c in self.shown] for row in frame.to_dict("records")]


def half_width(row: Row, name: str) -> float:
    """Half of a value's 95 % interval, NaN if there is none."""
    if f"{name}_low" in row and f"{name}_high" in row:
        return (float(row[f"{name}_high"]) - float(row[f"{name}_low"])) / 2
    return T_QUANTILE * float(row.get(f"{name}_se", np.nan))


def table(result: xr.Dataset, name: str | None = None) -> pd.DataFrame:
    """A result as a tidy frame: what the command of its name writes to CSV.

    result: what a public function returned. name: of one of its tables, by default the first.
    Raises InputError for an unknown name, and for a dataset that is no result of this package.
    """
    known = {t.name: t for t in tables(result)}
    if name is not None and name not in known:
        raise InputError(f"there is no table {name!r} here: this result has {', '.join(known)}")
    return (known[name] if name is not None else next(iter(known.values()))).frame


def tables(result: xr.Dataset, **beside: Any) -> list[Table]:
    """All tables of a result, the most telling first.

    beside: what a command knows besides, see the function of each kind.
    """
    kind = kind_of(result)
    if kind is None:
        raise InputError(
            "this dataset is no result that has a table: give what a diagnostic or an experiment"
            " returned"
        )
    return MAKERS[kind](result, **beside)


def listed(
    name: str, rows: Sequence[Row], columns: Sequence[Column] = (), main: bool = False
) -> Table:
    """A table of rows that are no dataset."""
    return Table(name, name, pd.DataFrame(list(rows)), tuple(columns), main=main)


def tidy(dataset: xr.Dataset, *dims: str) -> pd.DataFrame:
    """All variables over just these dimensions, a row for each place.

    Columns without a number are left out."""
    names = [k for k, v in dataset.data_vars.items() if set(v.dims) == set(dims)]
    chosen = _with_ends(dataset, [str(k) for k in names])
    frame: pd.DataFrame
    if dims:
        frame = chosen.to_dataframe(dim_order=list(dims)).reset_index()
    else:
        scalars = chosen.reset_coords(drop=True).data_vars
        frame = pd.DataFrame([{k: v.item() for k, v in scalars.items()}])
    return frame.dropna(axis="columns", how="all")


def _with_ends(dataset: xr.Dataset, names: list[str]) -> xr.Dataset:
    """The variables; those whose error is on another scale have their interval's ends, too."""
    ends = {}
    for name in names:
        scale = dataset[f"{name}_se"].attrs.get("scale") if f"{name}_se" in names else None
        if scale in ("log", "log1p") and f"{name}_low" not in dataset:
            ends[f"{name}_low"], ends[f"{name}_high"] = interval(dataset, name)
    return dataset[names].assign(ends)


def level(row: Row) -> str:
    """A noise level in words: its timestep, or the clean end."""
    clean = row["sigma"] == 0 if "sigma" in row else row["timestep"] == -1
    return CLEAN_END if clean else f"{row['timestep']:g}"


def spread_rows(count: int) -> list[int]:
    """At most eleven rows, evenly spread, the first and the last among them."""
    places = np.linspace(0, count - 1, min(count, MOST_ROWS)).round().astype(int)
    return [int(i) for i in np.unique(places)]


LEVEL = Column("timestep t", "timestep", write=level)
START = Column("start t", "start", write=lambda row: f"{row['start']:g}")


def _curve(name: str, title: str, dataset: xr.Dataset, *columns: Column) -> Table:
    """A table along the chain."""
    frame = tidy(dataset, "step")
    return Table(name, title, frame, (LEVEL, *columns), spread_rows(len(frame)), main=True)


def _gaps(gaps: xr.Dataset) -> list[Table]:
    columns = (
        Column("variance gap (%)", "gap", 100, True),
        Column("Gaussian reference (%)", "gap_gaussian", 100, True),
        Column("excess over it (%)", "excess_over_gaussian", 100, True),
        Column("spread of the chain (data units)", "std_chain"),
        Column("of noised data (data units)", "std_reference"),
    )
    found = [_curve("variance_gap", "variance gap", gaps, *columns)]
    last = gaps.isel(step=-1).reset_coords(drop=True)
    for dim in ("channel", "direction"):
        if f"gap_{dim}" in gaps:
            shown = (
                Column(dim, dim),
                Column("variance gap (%)", f"gap_{dim}", 100, True),
                Column("Gaussian reference (%)", f"gap_{dim}_gaussian", 100, True),
            )
            title = f"gap by {dim} (clean end)"
            found.append(Table(f"gap_by_{dim}", title, tidy(last, dim), shown))
    return found


def _deltas(deltas: xr.Dataset) -> list[Table]:
    columns = (
        Column("published δ (data units²)", "delta"),
        Column("perfect sampler", "delta_perfect"),
        Column("Gaussian reference", "delta_gaussian"),
        Column("signed root (data units)", "root", signed=True),
    )
    return [_curve("published_delta", "published delta", deltas, *columns)]


def _norms(norms: xr.Dataset) -> list[Table]:
    columns = (
        Column("noise norm, forward", "norm_forward"),
        Column("noise norm, chain", "norm_chain"),
        Column("chain over forward", "ratio"),
        Column("Gaussian reference", "ratio_gaussian"),
        Column("excess over it", "excess_over_gaussian", signed=True),
    )
    found = [_curve("norms", "norms", norms, *columns)]
    if "scale" in norms:
        fits = [k for k in norms if str(k).startswith("scale_")]
        shown = (
            Column("uniform scaling λ", "scale_uniform"),
            Column("linear: slope per call", "scale_slope", signed=True),
            Column("linear: last call's λ", "scale_offset"),
        )
        frame = tidy(norms[fits])
        found.append(Table("epsilon_scaling", "epsilon scaling (fits)", frame, shown))
    return found


def _states(states: xr.Dataset) -> list[Table]:
    columns = (
        Column("mean (data units)", "pooled_mean", signed=True),
        Column("std (data units)", "pooled_std"),
        Column("RMSE (data units)", "pooled_rmse"),
        Column("RMSE, Gaussian reference", "pooled_rmse_gaussian"),
        Column("spread of a state", "scale"),
    )
    return [_curve("state_error", "state error", states, *columns)]


def _spectra(spectra: xr.Dataset) -> list[Table]:
    last = spectra.isel(step=-1).reset_coords(drop=True)
    high = ("hf", "hf_se", "hf_low", "hf_high", "hf_gaussian")
    frame = tidy(last, "frequency")
    decibel = "power over the data's (dB)"
    columns = (
        Column("frequency (cycles/pixel)", "frequency"),
        Column("data (data units²)", "power_data"),
        Column("chain (data units²)", "power_chain"),
        Column("chain over forward", "ratio"),
        Column("Gaussian reference", "ratio_gaussian"),
    )
    title = "spectrum at the clean end"
    found = [
        Table("spectrum", title, frame, columns, spread_rows(len(frame)), main=True),
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


REJECTED = (
    Column("chain length T′", "length"),
    Column("values in a test", "n"),
    Column("pixels rejected (%)", "rate", 100),
    Column("effective tests", "effective_tests"),
    Column("after FDR control (%)", "fdr_rate", 100),
)


def _errors(
    errors: xr.Dataset, tests: xr.Dataset | None = None, pixels: Sequence[Pixel] = ()
) -> list[Table]:
    """tests: their `normality`; pixels: those with a row of their own."""
    frame = tidy(errors, "length")
    if "std_gaussian" in errors:
        axes = [dim for dim in errors["std_gaussian"].dims if dim != "length"]
        frame["nu_gaussian"] = errors["std_gaussian"].mean(axes).values
    columns = (
        Column("chain length T′", "length"),
        Column("RMSE (data units)", "pooled_rmse"),
        Column("mean std over pixels ν (data units)", "nu"),
        Column("ν, Gaussian reference", "nu_gaussian"),
    )
    found = [Table("errors", "errors", frame, columns, main=True)]
    if tests is None:
        return found
    label = (
        f"normality (Shapiro-Wilk, {tests.attrs['n_per_test']} values a test, level"
        f" {tests.attrs['alpha']})"
    )
    classes = (
        Column("chain length T′", "length"),
        Column("class of pixels", "pixels"),
        Column("pixels", "count"),
        Column("rejected (%)", "rate_of", 100),
    )
    each = (
        Column("chain length T′", "length"),
        Column("pixel (c,y,x)", "pixel"),
        Column("mean (data units)", "mean", signed=True),
        Column("std (data units)", "std"),
        Column("skewness", "skewness", signed=True),
        Column("p-value", "p"),
    )
    rows = [_pixel_row(errors, tests, i, p) for i in range(len(frame)) for p in pixels]
    return [
        *found,
        Table("normality", label, tidy(tests, "length"), REJECTED),
        Table("pixel_classes", "pixel classes", tidy(tests, "length", "pixels"), classes),
        Table("pixels", "pixels", pd.DataFrame(rows), each),
    ]


def _pixel_row(errors: xr.Dataset, tests: xr.Dataset, row: int, pixel: Pixel) -> dict[str, Any]:
    place = {"length": row, **dict(zip(("channel", "y", "x"), pixel, strict=True))}
    here, test = errors.isel(place), tests.isel(place | {"block": 0})
    names = ("mean", "mean_se", "std", "std_se", "skewness", "skewness_se", "kurtosis")
    return {
        "length": int(here["length"]),
        "pixel": ",".join(map(str, pixel)),
        **{k: float(here[k]) for k in (*names, "kurtosis_se")},
        "W": float(test["statistic"]),
        "p": float(test["pvalue"]),
    }


def _tests(tests: xr.Dataset) -> list[Table]:
    frame = tidy(tests, "length").assign(n=int(tests.attrs["n_per_test"]))
    return [Table("normality", "normality", frame, REJECTED, main=True)]


def _power(power: xr.Dataset) -> list[Table]:
    shown = (
        Column("values in a test", "n"),
        Column("what is tested", "alternative"),
        Column("rejected (%)", "rate", 100),
    )
    frame = tidy(power, "n", "alternative")
    return [Table("power", "power of that test (simulated)", frame, shown)]


def _shape(
    shape: xr.Dataset, tests: Sequence[xr.Dataset] = (), power: xr.Dataset | None = None
) -> list[Table]:
    """The two questions of `normality`, apart.

    Input perturbation's assumption (Gaussian and white), and the perfect sampler's. tests:
    `normality` at several numbers of values; power: that of the tests."""
    found = []
    if tests:
        parts = [_tests(t)[0].frame for t in tests]
        title = "assumption of input perturbation, Gaussian (Shapiro-Wilk rejection rates)"
        found.append(Table("gaussian", title, pd.concat(parts), REJECTED, main=True))
    if power is not None:
        found += _power(power)
    whole = tidy(shape, "length")
    centred = [c for c in whole if c.startswith(("length", "bias", "skewness"))]
    white = [c for c in whole if c not in centred[1:]]
    length = Column("chain length T′", "length")
    return [
        *found,
        Table(
            "white",
            "assumption of input perturbation, white (null: 0)",
            whole[white],
            (
                length,
                Column("correlation of pixels", "correlation", signed=True),
                Column("of neighbours in x", "autocorrelation_x", signed=True),
                Column("of neighbours in y", "autocorrelation_y", signed=True),
            ),
            main=not found,
        ),
        Table(
            "perfect_sampler",
            "perfect sampler (null: 0)",
            whole[centred],
            (
                length,
                Column("squared bias over variance", "bias", signed=True),
                Column("skewness", "skewness", signed=True),
            ),
        ),
    ]


def _rollouts(results: xr.Dataset) -> list[Table]:
    start = START
    columns: tuple[Column, ...] = (
        start,
        Column("one-step error S (data units²)", "S"),
        Column("shared error U", "U"),
        Column("spread over skill W/U", "W_over_U"),
        Column("added mean error (%)", "U_minus_S_relative", 100, True),
    )
    if "U" not in results:
        columns = (*columns[:2], Column("chain error A (data units²)", "A"))
    found = [Table("rollouts", "rollouts", tidy(results, "start"), columns, main=True)]
    if "ranks" in results:
        shown = (
            start,
            Column("rank of x_0", "rank"),
            Column("share of pixels (%)", "ranks", 100),
            Column("along directions (%)", "ranks_direction", 100),
        )
        found.append(Table("ranks", "ranks", tidy(results, "start", "rank"), shown))
    states = tidy(results, "start", "depth")
    if "state_error" in states:
        shown = (
            start,
            Column("steps taken", "depth"),
            Column("state error (data units)", "state_error"),
            Column("Gaussian reference", "state_error_gaussian"),
        )
        frame = states.dropna(subset="state_error")
        found.append(Table("state_error", "state error", frame, shown))
    return found


def _telescope(results: xr.Dataset) -> list[Table]:
    titles = {"": "variance gap (relative)", "_high": "high frequencies (dB)"}
    found = []
    for suffix, title in titles.items():
        if f"gap{suffix}" not in results:
            continue
        factor, unit = (100, "%") if not suffix else (1, "dB")
        own = [k for k in results if _ends_as(str(k), suffix)]
        chosen = results[own]
        blocks = chosen.isel(target=-1).reset_coords(drop=True)
        key = "high_frequencies" if suffix else "variance_gap"
        by_block = (
            Column("block of steps (timesteps)", "block"),
            Column(f"gap that arises there ({unit})", f"bracket{suffix}", factor, True),
            Column(f"Gaussian reference ({unit})", f"bracket{suffix}_gaussian", factor, True),
        )
        by_target = (
            LEVEL,
            Column(f"gap from noise ({unit})", f"gap{suffix}", factor, True),
            Column(f"gap from data ({unit})", f"gap_data{suffix}", factor, True),
            Column(f"Gaussian reference ({unit})", f"gap{suffix}_gaussian", factor, True),
        )
        found += [
            Table(
                f"{key}_by_block",
                title.replace(" (", " by block ("),
                tidy(blocks, "block"),
                by_block,
                main=not suffix,
            ),
            Table(key, title, tidy(chosen, "target"), by_target),
        ]
    return found


def _ends_as(name: str, suffix: str) -> bool:
    """Whether a telescope's variable is of the whole ("") or of high frequencies ("_high")."""
    plain = name.removesuffix("_se").removesuffix("_gaussian")
    return plain in {f"{base}{suffix}" for base in ("R", "bracket", "gap", "gap_data")}


def _compared(compared: xr.Dataset) -> list[Table]:
    rows = []
    for name, step in (("hf", -1), ("gap", -1), ("state_rmse", -1), ("epsilon_ratio", -2)):
        if name in compared:
            rows += _entries(name, compared.isel(step=step))
    for name in ("gap_score", "gap_discretisation", "hf_score", "hf_discretisation"):
        if name in compared:
            rows += _entries(name, compared)
    for length in compared["length"].values if "length" in compared else ():
        rows += _entries("error_rmse", compared.sel(length=length), f"error_rmse({length})")
    first = str(compared["entry"].values[0])
    columns = (
        Column("statistic", "statistic", write=lambda r: statistic_in_words(r["statistic"])),
        Column("entry", "entry"),
        Column("value", "value", write=lambda r: _written(r, "value", "se")),
        Column(
            "difference from the first",
            "difference",
            write=lambda r: "" if r["entry"] == first else _written(r, "difference"),
        ),
    )
    title = "comparison (clean end; epsilon_ratio at the last network call)"
    frame = pd.DataFrame(rows)
    others = sorted({r["note"] for r in rows if r["note"]})
    return [Table("comparison", title, frame, columns, main=True, notes=tuple(others))]


def _written(row: Row, name: str, error: str | None = None) -> str:
    factor = _factor(row)
    return number(factor * row[name], factor * T_QUANTILE * row[error or f"{name}_se"], True)


def _entries(name: str, here: xr.Dataset, label: str | None = None) -> list[dict[str, Any]]:
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


def _factor(row: Row) -> float:
    """Per cent for relative gaps; 1 for dB, ratios and data units."""
    name = str(row["statistic"])
    return 100.0 if name.startswith(("gap", "mean shift", "restart", "last step")) else 1.0


def _quality(curve: xr.Dataset, reached: xr.Dataset | None = None) -> list[Table]:
    """reached: how soon a baseline's best value is (`speed_up`)."""
    dims = [d for d in ("model", "iteration", "sampler", "length") if d in curve.dims]
    first = [Column({"length": "chain length T′"}.get(d, d), d) for d in dims]
    measures = (
        Column("Fréchet distance", "frechet"),
        Column("bias-corrected", "frechet_corrected"),
        Column("limit of small steps", "limit"),
        Column("sampler's part", "discretisation", signed=True),
        Column("change from the length before", "change", signed=True),
        Column("kernel distance", "kid", signed=True),
        Column("precision (%)", "precision", 100),
        Column("recall (%)", "recall", 100),
    )
    known = [c for c in measures if c.name in curve and curve[c.name].notnull().any()]
    columns = (*first, *known[: 6 - len(first)])
    floor = [str(k) for k in curve if str(k).startswith("floor_") and not curve[k].dims]
    real = tidy(curve[floor].rename_vars({k: k.removeprefix("floor_") for k in floor}))
    found = [
        Table("quality", curve.attrs["measure"], tidy(curve, *dims), columns, main=True),
        Table("noise_floor", "noise floor (real images)", real, measures),
    ]
    if reached is not None:
        shown = (
            Column("baseline's best", "best"),
            Column("reached by it at", "baseline_at"),
            Column("reached here at", "candidate_at"),
            Column("times sooner", "factor"),
        )
        frame = reached.expand_dims("curve").to_dataframe().reset_index().drop(columns="curve")
        found.append(Table("to_the_best", "to the baseline's best", frame, shown, main=True))
    return found


# The fixed answers in fewer words.
VERDICTS = {"none larger than margin": "below margin"}


def verdict(row: Row) -> str:
    """A fixed answer, short enough for a column."""
    return VERDICTS.get(row["answer"], str(row["answer"]))


PARTS = (
    Column("whole gap", "total", _factor, True),
    Column("start's", "initialisation", _factor, True),
    Column("sampler's", "discretisation", _factor, True),
    Column("network's", "score", _factor, True),
    Column("verdict", "answer", write=verdict),
)


def _budget(result: xr.Dataset) -> list[Table]:
    if "sampler" in result.dims:
        return _solvers(result)
    if "score" not in result:
        return _gaps(result)
    frame = tidy(result, "statistic")
    name = Column("statistic", "statistic", write=lambda r: statistic_in_words(r["statistic"]))
    begun = frame.get("initialisation_se", pd.Series(dtype=float)) > 0
    parts = tuple(c for c in PARTS if c.name != "initialisation" or begun.any())
    hidden = ("band", "mean shift", "last step")
    rows = [i for i, s in enumerate(frame["statistic"]) if not s.startswith(hidden)]
    found = [Table("budget", "error budget", frame, (name, *parts), rows, main=True)]
    if "W_over_U" in result:
        shown = (
            START,
            Column("spread over skill W/U", "W_over_U"),
            Column("added mean error (%)", "U_minus_S_relative", 100, True),
        )
        found.append(Table("rollouts", "rollouts", tidy(result, "start"), shown))
    return found


def _solvers(result: xr.Dataset) -> list[Table]:
    frame = tidy(result.sel(statistic="gap").reset_coords("statistic"), "sampler", "steps")
    columns = (
        Column("sampler", "sampler"),
        Column("steps T′", "steps"),
        Column("whole gap (%)", "total", 100, True),
        Column("sampler's (%)", "discretisation", 100, True),
        Column("network's (%)", "score", 100, True),
        Column("verdict", "answer", write=verdict),
    )
    return [Table("solvers", "variance gap by sampler and steps", frame, columns, main=True)]


MAKERS: dict[str, Callable[..., list[Table]]] = {
    "variance_gap": _gaps,
    "published_delta": _deltas,
    "epsilon_norm": _norms,
    "state_error": _states,
    "spectrum": _spectra,
    "chain_errors": _errors,
    "normality": _tests,
    "isotropy": _shape,
    "power": _power,
    "rollouts": _rollouts,
    "telescope": _telescope,
    "compare": _compared,
    "chain_length_fid": _quality,
    "error_budget": _budget,
    "diagnose": _budget,
    "denoising_check": lambda result: [
        _curve(
            "denoising_check",
            "denoising check",
            result,
            Column("one-step error (data units²)", "error"),
            Column("linear predictor's", "linear_error"),
            Column("ratio", "ratio"),
        )
    ],
}
