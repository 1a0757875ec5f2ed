"""Does my diffusion model suffer from exposure bias: where, why, at what cost, and what would fix it?

    import exposure_bias as eb

    model = eb.load_model("digits")
    data = eb.load_data("digits", split="test")
    rec = eb.record(model, data, steps=100, n=512)
    eb.spectrum(rec)

Names are imported when they are first used, so that reading a recording loads neither torch nor diffusers.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from exposure_bias import (
        adapters,
        data,
        denoisers,
        diagnostics,
        experiments,
        noise,
        oracles,
        plots,
        references,
        samplers,
        schedules,
        streams,
        training,
    )
    from exposure_bias.adapters import adapt, load_model
    from exposure_bias.data import load_data
    from exposure_bias.denoisers import Denoiser
    from exposure_bias.diagnostics.normality import normality
    from exposure_bias.diagnostics.shapiro import shapiro
    from exposure_bias.diagnostics.spectra import spectrum
    from exposure_bias.diagnostics.state_error import state_error
    from exposure_bias.errors import InputError
    from exposure_bias.experiments.chain_errors import chain_errors
    from exposure_bias.recorder import record
    from exposure_bias.recording import Recording, load, merge

_MODULES = (
    "adapters",
    "data",
    "denoisers",
    "diagnostics",
    "experiments",
    "noise",
    "oracles",
    "plots",
    "references",
    "samplers",
    "schedules",
    "streams",
    "training",
)
_HOME = {
    "adapt": "adapters",
    "load_model": "adapters",
    "load_data": "data",
    "Denoiser": "denoisers",
    "shapiro": "diagnostics.shapiro",
    "spectrum": "diagnostics.spectra",
    "state_error": "diagnostics.state_error",
    "InputError": "errors",
    "chain_errors": "experiments.chain_errors",
    "normality": "diagnostics.normality",
    "record": "recorder",
    "Recording": "recording",
    "load": "recording",
    "merge": "recording",
}

__all__ = [*_HOME, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
