"""What a command prints: nothing that a terminal obeys, and nothing that it cannot show.

Texts of a stranger's file may hold escapes, bells and marks that turn the line around. They are
shown with a backslash. A terminal, or a pipe, may know fewer characters than Unicode has: what it
does not know is written in plain letters, so that a run does not end because of a Greek one."""

import codecs
import os
import sys
import unicodedata
from typing import Any

from exposure_bias.errors import printable

HANDLER = "exposure_bias.plain"
# The characters of this package's own words, for encodings that lack them.
PLAIN = {
    **{"±": "+-", "−": "-", "–": "-", "—": "-", "×": "x", "·": "*", "…": "...", "─": "-"},
    **{"→": "->", "←": "<-", "≤": "<=", "≥": ">=", "≠": "!=", "≈": "~", "∞": "inf", "√": "sqrt"},
    **{"‖": "||", "′": "'", "’": "'", "“": '"', "”": '"', "Σ": "sum", "Δ": "Delta", "∈": "in"},
    **{"α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "epsilon", "η": "eta"},
    **{"θ": "theta", "λ": "lambda", "μ": "mu", "ν": "nu", "ξ": "xi", "σ": "sigma", "τ": "tau"},
    **{"²": "^2", "³": "^3", "½": "1/2", "¼": "1/4", "¾": "3/4", "é": "e", "\u00a0": " "},
}
DROPPED = ("Mn", "Me")  # hats and bars above a letter


def prepare() -> None:
    """Let the process's own output take every character; what is closed leads nowhere."""
    codecs.register_error(HANDLER, _plainly)
    for name in ("stdout", "stderr"):
        stream: Any = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=HANDLER)


def _plainly(error: UnicodeError) -> tuple[str, int]:
    """What to write in place of characters that an encoding lacks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(map(_plain, lacking)), error.end


def _plain(character: str) -> str:
    if unicodedata.category(character) in DROPPED:
        return ""
    known = PLAIN.get(character)
    if known is not None:
        return known
    letter = unicodedata.normalize("NFKD", character)[:1]
    if letter.isascii() and letter.isprintable():
        return letter
    return character.encode("ascii", "backslashreplace").decode()


def tell(text: str) -> None:
    """Print one line for the person at the terminal."""
    print(f"eb-analyze: {printable(text)}", file=sys.stderr)
