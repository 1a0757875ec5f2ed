"""The one list of this package's kinds of results, in the order of the report's sections.

A line is `module:NAME` of a `Kind`. The modules are imported when a kind is first asked for by its
name, so that a file is understood whose function was never imported. None of them needs torch."""

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from exposure_bias.results.kind import Kind

KINDS = (
    "exposure_bias.experiments.kinds.budgets:DIAGNOSE",
    "exposure_bias.experiments.kinds.budgets:ERROR_BUDGET",
    "exposure_bias.experiments.kinds.budgets:SOLVER_CURVE",
    "exposure_bias.experiments.kinds.drift:DRIFT_BUDGET",
    "exposure_bias.experiments.kinds.drift:DRIFT",
    "exposure_bias.experiments.kinds.compare_drift:COMPARE_DRIFT",
    "exposure_bias.experiments.kinds.levels:OPTIMISE_LEVELS",
    "exposure_bias.experiments.kinds.levels:LEVEL_CURVE",
    "exposure_bias.diagnostics.variance_gap:VARIANCE_GAP",
    "exposure_bias.diagnostics.spectra:SPECTRUM",
    "exposure_bias.diagnostics.epsilon_norm:EPSILON_NORM",
    "exposure_bias.diagnostics.state_error:STATE_ERROR",
    "exposure_bias.diagnostics.published_delta:PUBLISHED_DELTA",
    "exposure_bias.experiments.kinds.rollouts:ROLLOUTS",
    "exposure_bias.experiments.kinds.telescope:TELESCOPE",
    "exposure_bias.experiments.kinds.network_error:NETWORK_ERROR",
    "exposure_bias.experiments.kinds.effective_level:EFFECTIVE_LEVEL",
    "exposure_bias.experiments.kinds.compare:COMPARE",
    "exposure_bias.diagnostics.compare_recordings:COMPARE_RECORDINGS",
    "exposure_bias.experiments.kinds.chain_length_fid:CHAIN_LENGTH_FID",
    "exposure_bias.experiments.kinds.chain_length_fid:SPEED_UP",
    "exposure_bias.experiments.kinds.chain_errors:CHAIN_ERRORS",
    "exposure_bias.diagnostics.normality:NORMALITY",
    "exposure_bias.diagnostics.isotropy:ISOTROPY",
    "exposure_bias.diagnostics.normality:POWER",
    "exposure_bias.diagnostics.denoising:DENOISING_CHECK",
)


@cache
def kinds() -> "tuple[Kind, ...]":
    """Return every kind of this package, in the order of the list."""
    pairs = (line.split(":") for line in KINDS)
    return tuple(getattr(import_module(module), name) for module, name in pairs)
