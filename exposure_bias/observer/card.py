"""A block for a model card: what the last check of a monitor found, as Markdown."""

import re
from collections.abc import Mapping
from importlib.metadata import version
from math import isfinite
from pathlib import Path

from exposure_bias import files
from exposure_bias.errors import InputError, reason
from exposure_bias.observer.measures import MEASURES

BEGIN, END = "<!-- exposure_bias: begin -->", "<!-- exposure_bias: end -->"
HALF_INTERVAL = 2.13  # t₁₅ at 95 %, for 16 groups of images


def card(step: int, settings: str, values: Mapping[str, float], what: tuple[str, ...]) -> str:
    """The block of one check."""
    rows = [
        "| measure | this model | a perfect network | right is |",
        "|---|---|---|---|",
        *(_row(name, values) for name in what if name in MEASURES),
    ]
    return "\n".join(
        [
            BEGIN,
            "## Exposure bias",
            "",
            f"Measured at training step {step} with exposure-bias {version('exposure-bias')}"
            f" ({settings}); ± is half of a 95 % interval.",
            "A perfect network is one of Gaussian data with the covariance of these images, with"
            " the same sampler and steps.",
            "",
            *rows,
            END,
            "",
        ]
    )


def _row(name: str, values: Mapping[str, float]) -> str:
    measure = MEASURES[name]
    error = values[f"{name}_se"]
    told = _number(values[name], name)
    if isfinite(error):
        told += f" ± {_number(HALF_INTERVAL * error, name).lstrip('+')}"
    perfect = values.get(f"{name}_perfect", float("nan"))
    return (
        f"| {measure.words} | {told} {measure.unit}".rstrip()
        + f" | {f'{_number(perfect, name)} {measure.unit}' if isfinite(perfect) else ''}"
        + f" | {measure.right} |"
    )


def _number(value: float, name: str) -> str:
    scaled = MEASURES[name].scale * value
    sign = "+" if MEASURES[name].right == "0" else ""
    return f"{scaled:{sign}.3g}".replace("-", "−")


def put(path: Path, block: str) -> None:
    """Put a block into a Markdown file, in place of an earlier one or at the end.

    Raises InputError for a file that cannot be read or written.
    """
    try:
        text = path.read_text(encoding="utf-8") if path.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path} as text: {reason(error)}") from error
    earlier = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}\n?", re.DOTALL)
    if earlier.search(text):
        text = earlier.sub(lambda _: block, text, count=1)
    else:
        text = f"{text.rstrip()}\n\n{block}" if text.strip() else block
    files.write_bytes(path, text.encode())
