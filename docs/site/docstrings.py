"""Our docstrings are prose for a terminal; here they become fields of an API page.

"n: how many. seed: of all noise."    parameters
"Returns, over (step): …"             what comes back
"Raises InputError for …"             errors
a block that is indented              as it stands, in a typewriter's letters
`name`                                a link, if the name is public
"""

import inspect
import re
import textwrap
from typing import Any

from numpy.typing import ArrayLike
from sphinx.application import Sphinx
from sphinx.util.typing import stringify_annotation

import exposure_bias

LONG = {
    stringify_annotation(ArrayLike, mode): "ArrayLike"
    for mode in ("smart", "fully-qualified-except-typing")
}
RAISES = re.compile(r"(?:^|(?<=[.;]\s))Raises InputError,?\s")


def fields(app: Any, what: str, name: str, of: Any, options: Any, lines: list[str]) -> None:
    """Rewrite a docstring in place."""
    text = "\n".join(lines).strip("\n")
    if re.search(r"^-{4,}$", text, re.MULTILINE):  # in numpydoc's form already
        lines[:] = [escaped(line) for line in lines]
        return
    known = parameters_of(of)
    found: list[str] = []
    inside = ""  # the field that a paragraph may continue
    for paragraph in re.split(r"\n\s*\n", text):
        if not paragraph.strip():
            continue
        if all(line.startswith("    ") for line in paragraph.splitlines()):
            found.append(textwrap.indent(f"::\n\n{paragraph}", inside))
            continue
        if not (inside and re.match(r"- |[a-zα-ω]", paragraph)):
            inside = ""
        *before, paragraph = apart(paragraph, known)
        found += before
        paragraph, *errors = RAISES.split(paragraph, maxsplit=1)
        if match := re.match(r"Returns?(?:,| (?=over|what|the|a|error)) ?", paragraph):
            found.append(":returns: " + hanging(escaped(paragraph[match.end() :])))
            inside = "    "
        elif paragraph.strip():
            found.append(textwrap.indent(escaped(paragraph), inside))
        found += [":raises InputError: " + hanging(escaped(error)) for error in errors]
    module = getattr(of, "__module__", None)
    if what in ("function", "class") and module:
        found.append(f"Defined in :py:mod:`{module}`.")
    lines[:] = "\n\n".join(found).splitlines()


def apart(paragraph: str, known: set[str]) -> list[str]:
    """What comes before the parameters, each of them as a field, and what is left."""
    name = r"\w+(?:, \w+)*"
    heads = [
        match
        for match in re.finditer(rf"(?:^|(?<=[.;]\s)|(?<=\n))({name}):(?=\s)", paragraph)
        if set(re.findall(r"\w+", match[1])) <= known
    ]
    if not heads:
        return [paragraph]
    ends = [match.start() for match in heads[1:]] + [len(paragraph)]
    found = [escaped(paragraph[: heads[0].start()].strip())] if heads[0].start() else []
    rest = ""
    for match, end in zip(heads, ends, strict=True):
        words = paragraph[match.end() : end].strip()
        if end == len(paragraph) and (raises := RAISES.search(words)):
            words, rest = words[: raises.start()], words[raises.start() :]
        told = hanging(escaped(words))
        found += [f":param {name}: {told}" for name in match[1].split(", ")]
    return [*found, rest]


def parameters_of(of: Any) -> set[str]:
    try:
        return set(inspect.signature(of).parameters) if callable(of) else set()
    except (TypeError, ValueError):
        return set()


def hanging(text: str) -> str:
    return textwrap.indent(text, "    ").lstrip()


def escaped(text: str) -> str:
    """Prose in which only `names` mean something to reStructuredText."""
    parts = re.split(r"(`[^`]+`)", text)
    return "".join(
        code(p) if i % 2 else re.sub(r"([\\*|@]|_(?!\w))", r"\\\1", p) for i, p in enumerate(parts)
    )


def code(quoted: str) -> str:
    """A name as a link where there is a page of it."""
    name = quoted.strip("`").replace("\n", " ")
    first = name.removeprefix("eb.").removeprefix("exposure_bias.")
    if first.partition(".")[0] in exposure_bias.__all__ and re.fullmatch(r"[\w.]+", first):
        return f":py:obj:`{name} <exposure_bias.{first}>`"
    return f"``{name}``"


def shorter(
    app: Any, what: str, name: str, of: Any, options: Any, signature: str | None, back: str | None
) -> Any:
    """Types as they were written, not as NumPy spells them out."""
    for long, short in LONG.items():
        signature = signature and signature.replace(long, short)
    return signature, back


def setup(app: Sphinx) -> dict[str, Any]:
    # Before napoleon, which reads what is in numpydoc's form.
    app.connect("autodoc-process-docstring", fields, priority=400)
    app.connect("autodoc-process-signature", shorter)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
