"""A result in long form: one row for each number, as seaborn and ggplot want it."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr

from exposure_bias.errors import InputError
from exposure_bias.jackknife import interval

OWN = ("variable", "value", "se", "low", "high")
BELONG = ("_se", "_low", "_high")


def tidy(result: xr.Dataset, variables: Sequence[str] | None = None) -> pd.DataFrame:
    """Return a result in long form, one row for each number.

    Parameters
    ----------
    result
        What a public function returned, or any dataset of your own.
    variables
        Which of its variables; by default all numeric ones.

    Returns
    -------
    A frame with a column for every coordinate, and the columns variable, value, se (the standard
    error), low and high (the 95 % interval). What a variable does not have is NaN.

    Raises
    ------
    InputError
        For what is no dataset, and for variables that it does not have.

    Examples
    --------
    >>> import exposure_bias as eb
    >>> gaps = eb.variance_gap(eb.record("digits", "digits", steps=5, n=32))
    >>> eb.tidy(gaps, ["gap", "gap_gaussian"]).columns[-5:].tolist()
    ['variable', 'value', 'se', 'low', 'high']

    With seaborn: ``sns.lineplot(eb.tidy(gaps), x="sigma", y="value", hue="variable")``.
    """
    if not isinstance(result, xr.Dataset):
        raise InputError(
            f"tidy takes a result, an xarray.Dataset, got {type(result).__name__}; of a recording,"
            " give variance_gap(recording) or another diagnostic"
        )
    numeric = [str(k) for k, v in result.data_vars.items() if v.dtype.kind in "iufb"]
    chosen = [n for n in numeric if not _belongs(n, numeric)] if variables is None else variables
    unknown = [name for name in chosen if name not in numeric]
    if unknown:
        raise InputError(
            f"this result has no numbers {', '.join(map(str, unknown))}: it has"
            f" {', '.join(numeric) or 'none'}"
        )
    frames = [_rows(result, name) for name in chosen]
    whole = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=list(OWN))
    return whole[[*(c for c in whole if c not in OWN), *OWN]]


def _belongs(name: str, names: Sequence[str]) -> bool:
    ends = (*BELONG, "_band_low", "_band_high")
    return any(name.endswith(end) and name.removesuffix(end) in names for end in ends)


def _rows(result: xr.Dataset, name: str) -> pd.DataFrame:
    """The rows of one variable."""
    found = {"value": result[name].astype(float)}
    found |= {end[1:]: result[f"{name}{end}"] for end in BELONG if f"{name}{end}" in result}
    if "se" in found and "low" not in found:
        found["low"], found["high"] = interval(result, name)
    columns = xr.Dataset({k: v.reset_coords(drop=True) for k, v in found.items()})
    columns = columns.assign_coords(
        {k: v for k, v in result.coords.items() if set(v.dims) <= set(result[name].dims)}
    )
    dims = result[name].dims
    frame = columns.to_dataframe().reset_index() if dims else _single(columns)
    missing = {k: np.nan for k in OWN[1:] if k not in frame}
    return frame.assign(variable=name, **missing)


def _single(columns: xr.Dataset) -> pd.DataFrame:
    return pd.DataFrame([{str(k): v.values.item() for k, v in columns.variables.items()}])
