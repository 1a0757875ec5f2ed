"""The one way in which a number is written: with half of its 95 % interval, and with its unit.

    number(-4.34, 0.51)          −4.34 ± 0.51
    percent(-0.0434, 0.0024)     −4.34 ± 0.51 %      (of a share and its standard error)

A number has two digits of its uncertainty, or three digits where that is unknown. The minus sign is
a minus sign, and what is no number is a dash."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from exposure_bias.jackknife import T_QUANTILE, interval

LARGE = 1e6  # from here on a power of ten
MOST_DIGITS = 5  # behind the point; beyond, a power of ten
NO_INTERVAL = "; too few samples for an interval"


def number(value: float, half: float = float("nan"), signed: bool = False) -> str:
    """Write a value with half of its 95 % interval, to two digits of the latter.

    Parameters
    ----------
    value
        The number. What is not finite is written as a dash.
    half
        Half of the interval's width. Where it is not finite, or 0, three digits are written.
    signed
        Whether a positive number gets a plus sign, as a difference does.

    Examples
    --------
    >>> number(-0.0434, 0.0051)
    '−0.0434 ± 0.0051'
    """
    if not np.isfinite(value):
        return "–"
    sign = "+" if signed else ""
    if not np.isfinite(half) or half == 0:
        short = f"{value:{sign}.3g}"
        whole = "e+" in short and abs(value) < LARGE
        return (f"{value:{sign}.0f}" if whole else short).replace("-", "−")
    digits = max(0, 1 - int(np.floor(np.log10(half))))
    power = int(np.floor(np.log10(max(abs(value), half))))
    if digits > MOST_DIGITS and power < -2:
        places = min(MOST_DIGITS, digits + power)
        scaled = _to_digits(value / 10.0**power, half / 10.0**power, places, sign)
        return f"({scaled})e{power}".replace("-", "−")
    return _to_digits(value, half, min(digits, MOST_DIGITS), sign)


def _to_digits(value: float, half: float, digits: int, sign: str) -> str:
    return f"{value:{sign}.{digits}f} ± {half:.{digits}f}".replace("-", "−")


def rounded(value: float, digits: int = 2) -> str:
    """Write a value that has no interval of its own, such as a level or a limit."""
    return f"{value:.{digits}g}".replace("-", "−") if np.isfinite(value) else "–"


def percent(share: float, error: float = float("nan")) -> str:
    """Write a share and its standard error in per cent: −4.34 ± 0.51 %."""
    return f"{number(100 * share, 100 * T_QUANTILE * error, signed=True)} %"


def decibel(value: float, error: float = float("nan")) -> str:
    """Write a level and its standard error in decibels: −0.30 ± 0.15 dB."""
    return f"{number(value, T_QUANTILE * error, signed=True)} dB"


def half_width(row: Mapping[str, Any], name: str) -> float:
    """Return half of a value's 95 % interval, NaN if there is none; row: a table's, by name."""
    if f"{name}_low" in row and f"{name}_high" in row:
        return (float(row[f"{name}_high"]) - float(row[f"{name}_low"])) / 2
    return T_QUANTILE * float(row.get(f"{name}_se", np.nan))


def half_of(dataset: xr.Dataset, name: str) -> float:
    """Return half of a scalar variable's 95 % interval, NaN if there is none."""
    if f"{name}_low" in dataset:
        return (float(dataset[f"{name}_high"]) - float(dataset[f"{name}_low"])) / 2
    if f"{name}_se" not in dataset:
        return float("nan")
    low, high = interval(dataset, name)
    return (float(high) - float(low)) / 2


def told(dataset: xr.Dataset, name: str, factor: float = 1.0, unit: str = "") -> str:
    """Write a scalar variable with its interval and unit; with a unit it gets its sign."""
    value, half = float(dataset[name]), half_of(dataset, name)
    return number(factor * value, factor * half, signed=bool(unit)) + (f" {unit}" if unit else "")


def missing(dataset: xr.Dataset, name: str) -> str:
    """Return the words for an interval that is missing, or "" where there is one."""
    return "" if np.isfinite(half_of(dataset, name)) else NO_INTERVAL


def sentence_of(text: str) -> str:
    """Begin a text with a capital letter, and end it with one full stop."""
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def farthest_from_one(ratios: Any) -> int:
    """Return where a ratio is farthest from 1 on the log scale; 0 if none is known."""
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = np.abs(np.log(ratios))
    return int(np.where(np.isfinite(distance), distance, -1.0).argmax())
