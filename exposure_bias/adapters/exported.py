"""Files of whole networks, TorchScript's and torch.export's: what they are, and how to load them.

They hold the network's code and weights and nothing of its noise schedule or of what it predicts.
So they are loaded in Python, in two lines, which say that beside them.
"""

import zipfile
from pathlib import Path

from exposure_bias.errors import InputError

LOADS = {
    "TorchScript": "net = torch.jit.load({path!r})",
    "torch.export": "net = torch.export.load({path!r}).module()",
}
MODEL = (
    "model = eb.Denoiser(net, schedule=eb.schedules.linear(1000), prediction_type='epsilon',"
    " shape=(3, 32, 32))"
)


def refuse(path: Path) -> None:
    """Raise InputError for a file of a whole network, with the two lines that load it."""
    kind = kind_of(path)
    if kind is not None:
        raise InputError(
            f"{path} is a {kind} file, which does not say its noise schedule, prediction type and"
            f" shape: load it in Python with `{LOADS[kind].format(path=str(path))}` and, with what"
            f" it was trained on, `{MODEL}`"
        )


def kind_of(path: Path) -> str | None:
    """Which of `LOADS` wrote a file, by the names inside; None for any other."""
    try:
        with zipfile.ZipFile(path) as archive:
            inside = [name.partition("/")[2] or name for name in archive.namelist()]
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        return None
    if "constants.pkl" in inside and any(name.startswith("code/") for name in inside):
        return "TorchScript"
    exported = ("archive_format", "serialized_exported_program.json")
    return "torch.export" if any(name in inside for name in exported) else None
