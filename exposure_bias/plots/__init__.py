"""Datasets to figures: one function for each diagnostic, one style.

Plots never compute statistics.

Every function returns the figure and takes

- `ax=`, one matplotlib Axes for the first panel alone, or a dict {name of a panel: Axes};
- `axes=`, Axes for all panels, as many as there are;
- `column=`, "single" or "double", the width in a paper.

A wrong name of a panel is answered with those that there are. Functions that draw a grid of small
panels take `axes=` alone. Pure noise is at the left of every axis along the chain."""

from exposure_bias.plots.budgets import budget, diagnosis
from exposure_bias.plots.chains import rank_histogram, rollouts, telescope
from exposure_bias.plots.choice import chosen_levels, level_curve
from exposure_bias.plots.curves import curves
from exposure_bias.plots.drift import compare_drift, drift, drift_frames
from exposure_bias.plots.errors import error_histograms, error_std, normality
from exposure_bias.plots.levels import (
    epsilon_norm,
    published_delta,
    spectrum,
    state_error,
    variance_gap,
)
from exposure_bias.plots.network_error import effective_level, network_error, reliability, slopes
from exposure_bias.plots.several import chain_length_fid, compare
from exposure_bias.plots.strips import limits, pictures, strip
from exposure_bias.plots.style import save, style

__all__ = [
    "budget",
    "chain_length_fid",
    "chosen_levels",
    "compare",
    "compare_drift",
    "curves",
    "diagnosis",
    "drift",
    "drift_frames",
    "effective_level",
    "epsilon_norm",
    "error_histograms",
    "error_std",
    "level_curve",
    "limits",
    "network_error",
    "normality",
    "pictures",
    "published_delta",
    "rank_histogram",
    "reliability",
    "rollouts",
    "save",
    "slopes",
    "spectrum",
    "state_error",
    "strip",
    "style",
    "telescope",
    "variance_gap",
]
