"""What a result says, as text of 80 columns, CSV, LaTeX, Markdown, HTML or JSON.

    print(view(result))          what the command of its name prints
    view(result)                 in a notebook: the sentence and its tables

Each format is a function from a `View` to text. The JSON is described by `schema.json`."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from textwrap import wrap
from typing import Any

import xarray as xr

from exposure_bias.results.kind import details, kind_of, name_of, sentence, tables, to_do
from exposure_bias.results.numbers import rounded
from exposure_bias.results.tables import Column, Table
from exposure_bias.results.terms import Term

WIDTH = 80
BETWEEN = 2  # blanks between columns
HEADING_LINES = 2
LEAST = 9  # the narrowest that a column of words becomes
SCHEMA_VERSION = 1
NO_BREAK = "\u00a0"
# Attributes that say why something is missing: footnotes, once for the whole table.
REASONS = ("no_", "reference", "warning", "recycled", "gap", "unbounded")
# What stands in the sentence and the paragraphs already, or concerns columns that are not shown.
TOLD = (
    {"kind", "answer", "restarts", "calibration", "remedy", "left_out", "depth", "decibels"}
    | {
        *("diffusers", "k_diffusion", "comfyui"),
    }
    | {f"denoising_{k}" for k in ("passes", "sentence")}
)


@dataclass(frozen=True)
class View:
    """What a result or a command says: one sentence, its tables, further paragraphs, what was run.

    term: what a column of its tables is, by its name. wide: all columns and rows of all tables.
    explain: also what is shown means. quiet: the sentence, the tables and the advice alone. advice,
    code: what to do, and lines to paste, which come last. also: further keys of the JSON.
    """

    command: str
    sentence: str
    tables: Sequence[Table] = ()
    details: Sequence[str] = ()
    attributes: dict[str, Any] = field(default_factory=dict)
    term: Callable[[str], Term | None] = lambda _: None
    wide: bool = False
    explain: bool = False
    quiet: bool = False
    advice: str = ""
    code: str = ""
    also: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return text(self)

    def _repr_html_(self) -> str:
        return html(self)

    @property
    def shown(self) -> list[Table]:
        """The tables that are shown."""
        filled = [t for t in self.tables if len(t.frame) and (self.wide or t.cells)]
        return [t for t in filled if t.main or self.wide]

    @property
    def footnotes(self) -> list[str]:
        """Why something is missing, each once."""
        reasons = [
            f"reference: {v}" if k == "reference" else str(v)
            for k, v in self.attributes.items()
            if k.startswith(REASONS)
        ]
        notes = (note for t in self.shown for note in (t.notes if self.wide else t.told))
        return list(dict.fromkeys([*reasons, *notes]))

    @property
    def run(self) -> str:
        """What was run, in words."""
        rest = {
            k: v
            for k, v in self.attributes.items()
            if k not in TOLD and not k.startswith((*REASONS, "advice"))
        }
        return ", ".join(_together(f"{k.replace('_', ' ')}: {v}") for k, v in rest.items())

    @property
    def words(self) -> dict[str, str]:
        """What the columns that are shown mean, by their headings."""
        columns = [c for table in self.shown for c in table.shown]
        found = {c.heading: self.term(c.name) for c in columns}
        return {heading: t.text for heading, t in found.items() if t is not None}


def view(result: xr.Dataset, *, wide: bool = False, explain: bool = False) -> View:
    """Show a result: in a notebook as a table, with `print` as its command prints it.

    Parameters
    ----------
    result
        What a public function returned, or any dataset of your own.
    wide
        Whether every column and every table is shown.
    explain
        Whether what is shown is explained.

    Examples
    --------
    >>> import exposure_bias as eb
    >>> shown = eb.view(eb.variance_gap(eb.record("digits", "digits", steps=5, n=32)))
    """
    return view_of(result, wide=wide, explain=explain)


def view_of(result: xr.Dataset, command: str = "", **how: Any) -> View:
    """Return the view of a result; how: further fields of `View`."""
    advice, code = to_do(result)
    fields: dict[str, Any] = {
        "command": command or name_of(result).replace("_", "-"),
        "sentence": sentence(result),
        "tables": tables(result),
        "details": details(result),
        "attributes": dict(result.attrs),
        "term": terms_of(result),
        "advice": advice,
        "code": code,
    }
    return View(**fields | how)


def terms_of(result: xr.Dataset) -> Callable[[str], Term | None]:
    """Return what says what a variable is: the result's kind, or else its own attributes."""
    kind = kind_of(result)
    if kind is not None:
        return kind.term
    own = {
        str(name): Term(v.attrs["long_name"], v.attrs["units"], v.attrs.get("description", ""))
        for name, v in result.variables.items()
        if "long_name" in v.attrs and "units" in v.attrs
    }
    return own.get


def text(view: View) -> str:
    """For the terminal."""
    parts = [_paragraph(view.sentence)]
    parts += [_titled(view, table) for table in view.shown]
    parts += ["\n".join(_paragraph(note, "* ") for note in view.footnotes)]
    if view.explain:
        parts += ["\n".join(_paragraph(f"{k}: {v}", "  ", "") for k, v in view.words.items())]
    if not view.quiet:
        parts += ["\n".join(map(_paragraph, view.details)), _paragraph(view.run)]
        parts += [_more(view)]
    parts += [_paragraph(view.advice), view.code]
    return "\n\n".join(part for part in parts if part)


def _paragraph(words: str, after: str = "", first: str | None = None) -> str:
    begin = after if first is None else first
    hang = " " * len(after)
    lines = wrap(words, WIDTH, initial_indent=begin, subsequent_indent=hang, break_on_hyphens=False)
    return "\n".join(lines).replace(NO_BREAK, " ")


def _together(item: str) -> str:
    """A short entry that no line breaks."""
    return item.replace(" ", NO_BREAK) if len(item) < WIDTH // 2 else item


def _titled(view: View, table: Table) -> str:
    body = table.frame.to_string(index=False, float_format=_short, na_rep="-") if view.wide else ""
    heading = f"{table.title}\n" if len(view.shown) > 1 else ""
    return heading + (body or grid(table.shown, table.cells))


def _short(value: float) -> str:
    return rounded(value, 4)


def _more(view: View) -> str:
    """What else there is to be seen."""
    if view.wide or not view.tables:
        return ""
    hidden = ", ".join(t.title.split(" (")[0] for t in view.tables if t not in view.shown)
    rest = f" and {hidden}" if hidden else ""
    return _paragraph(f"--wide shows every column{rest}; --explain says what they mean.")


def grid(columns: Sequence[Column], cells: Sequence[Sequence[str]]) -> str:
    """Rows under headings, at most 80 columns wide.

    Words and headings wrap, and what does not fit even so is left out from the right; the last line
    says so."""
    worded = [all(_is_words(row[k]) for row in cells) for k in range(len(columns))]
    widths = [
        max(_longest(column.heading.split()), _longest(row[k] for row in cells))
        for k, column in enumerate(columns)
    ]
    words = [
        max(LEAST, *(_longest(row[k].split()) for row in cells)) if worded[k] else width
        for k, width in enumerate(widths)
    ]
    least = [LEAST if left else width for left, width in zip(worded, widths, strict=True)]
    widths = _fitted(_fitted(widths, words), least, drop=True)
    widths = _roomy(widths, [column.heading for column in columns])
    lines = [_row([c.heading for c in columns], widths, worded)]
    lines += ["─" * (sum(widths) + BETWEEN * (len(widths) - 1))]
    lines += [_row(row, widths, worded) for row in cells]
    if absent := [column.heading for column in columns[len(widths) :]]:
        lines.append(_paragraph(f"left out, as the line is full: {', '.join(absent)} (--wide)"))
    return "\n".join(lines)


def _longest(texts: Any) -> int:
    return max((len(text) for text in texts), default=0)


def _is_words(cell: str) -> bool:
    return not re.fullmatch(r"[\d+−–().,e± ]*", cell)


def _fitted(widths: list[int], least: list[int], drop: bool = False) -> list[int]:
    """Widths whose sum fits the line.

    The widest shrink first, down to `least` each; then, with `drop`, the last ones go."""
    widths = list(widths)
    while sum(widths) + BETWEEN * (len(widths) - 1) > WIDTH:
        wide = [k for k in range(len(widths)) if widths[k] > least[k]]
        if wide:
            widths[max(wide, key=lambda k: widths[k])] -= 1
        elif drop:
            widths.pop()
        else:
            break
    return widths


def _roomy(widths: list[int], headings: Sequence[str]) -> list[int]:
    """What room is left goes to the headings of the most lines, until none has more than two."""
    for _ in range(WIDTH - sum(widths) - BETWEEN * (len(widths) - 1)):
        lines = [len(wrap(h, w)) for h, w in zip(headings, widths, strict=False)]
        if max(lines) <= HEADING_LINES:
            break
        widths[lines.index(max(lines))] += 1
    return widths


def _row(cells: Sequence[str], widths: Sequence[int], worded: Sequence[bool]) -> str:
    """One row, of as many lines as its longest cell takes; words to the left, numbers right."""
    wrapped = [
        wrap(cell, width, break_on_hyphens=False) or [""]
        for cell, width in zip(cells, widths, strict=False)
    ]
    lines = []
    for line in range(max(len(parts) for parts in wrapped)):
        parts = [
            (own[line] if line < len(own) else "").ljust(width)
            if left
            else (own[line] if line < len(own) else "").rjust(width)
            for own, width, left in zip(wrapped, widths, worded, strict=False)
        ]
        lines.append((" " * BETWEEN).join(parts).rstrip())
    return "\n".join(lines)


def _content(view: View, table: Table) -> tuple[list[str], list[list[str]]]:
    """Headings and cells, of everything where it is wide."""
    if not view.wide:
        return [c.heading for c in table.shown], table.cells
    rows = table.frame.to_numpy().tolist()
    return list(table.frame), [[_value(v) for v in row] for row in rows]


def _value(value: Any) -> str:
    return _short(value) if isinstance(value, float) else str(value)


def markdown(view: View) -> str:
    """The sentence and the tables, for a document."""
    parts = [view.sentence]
    for table in view.shown:
        headings, cells = _content(view, table)
        rule = ["---" if _is_words(cell) else "--:" for cell in (cells or [headings])[0]]
        rows = [headings, rule, *cells]
        parts += ["\n".join(f"| {' | '.join(map(_piped, row))} |" for row in rows)]
    parts += ["\n".join(f"- {note}" for note in view.footnotes)]
    if view.explain:
        parts += ["\n".join(f"- *{k}*: {v}" for k, v in view.words.items())]
    parts += [view.advice, f"```python\n{view.code}\n```" if view.code else ""]
    return "\n\n".join(part for part in parts if part)


def _piped(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")


SPECIAL = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "−": "$-$",
    "–": "--",
    "′": "$'$",
    "²": "$^2$",
    "×": r"$\times$",
    "¼": "1/4",
    "…": r"\ldots{}",
    "α": r"$\alpha$",
    "δ": r"$\delta$",
    "ε": r"$\varepsilon$",
    "λ": r"$\lambda$",
    "μ": r"$\mu$",
    "ν": r"$\nu$",
    "σ": r"$\sigma$",
    "γ": r"$\gamma$",
    "é": r"\'e",
    "₀": "$_0$",
    "₂": "$_2$",
    "‖": r"$\|$",
}


def escaped(cell: str) -> str:
    """Text as LaTeX sets it."""
    return "".join(SPECIAL.get(c, c) for c in cell)


def latex(view: View) -> str:
    """Tables for a paper, which needs the package booktabs; the sentence is a comment."""
    notes = (note for table in view.shown for note in table.told)
    parts = [f"% {' '.join('; '.join((view.sentence, *notes)).split())}"]
    for table in view.shown:
        headings, cells = _content(view, table)
        places = "".join("l" if _is_words(cell) else "r" for cell in (cells or [headings])[0])
        body = [f"  {' & '.join(map(escaped, row))} \\\\" for row in cells]
        head = f"  {' & '.join(map(escaped, headings))} \\\\"
        parts += [
            "\n".join(
                [
                    f"\\begin{{tabular}}{{{places}}}",
                    "  \\toprule",
                    head,
                    "  \\midrule",
                    *body,
                    "  \\bottomrule",
                    "\\end{tabular}",
                ]
            )
        ]
    return "\n\n".join(parts)


def csv(view: View) -> str:
    """Everything of the first table, for a program or a spreadsheet."""
    first = view.tables[0].frame if view.tables else None
    return "" if first is None else str(first.to_csv(index=False)).rstrip("\n")


def as_json(view: View) -> str:
    """Everything, for a program; described by `schema.json` beside this file."""
    rows = {t.name: _records(t) for t in view.tables}
    names = {str(name) for t in view.tables for name in t.frame}
    found = {name: view.term(name) for name in sorted(names)}
    columns = {
        snake(name): {"name": name, "words": t.words, "unit": t.unit, "meaning": t.text}
        for name, t in found.items()
        if t is not None
    }
    whole = {
        "schema_version": SCHEMA_VERSION,
        "command": view.command,
        "sentence": view.sentence,
        "details": list(view.details),
        "attributes": view.attributes,
        "tables": rows,
        "columns": columns,
    }
    return json.dumps(whole | view.also)


def _records(table: Table) -> list[dict[str, Any]]:
    frame = table.frame.rename(columns=snake)
    records: list[dict[str, Any]] = json.loads(frame.to_json(orient="records", double_precision=15))
    return records


def snake(name: Any) -> str:
    """A name in snake case: W_over_U is w_over_u."""
    return re.sub(r"\W+", "_", str(name)).lower()


def html(view: View) -> str:
    """The sentence and the tables, for a notebook."""
    parts = [f"<p>{escape(view.sentence)}</p>"]
    for table in view.shown:
        headings, cells = _content(view, table)
        head = "".join(f"<th>{escape(h)}</th>" for h in headings)
        rows = ["".join(f"<td>{escape(c)}</td>" for c in row) for row in cells]
        body = "".join(f"<tr>{row}</tr>" for row in rows)
        parts.append(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")
    parts += [f"<p>{escape(note)}</p>" for note in (*view.footnotes, *view.details)]
    parts += [f"<p>{escape(view.advice)}</p>"] if view.advice else []
    parts += [f"<pre>{escape(view.code)}</pre>"] if view.code else []
    return "\n".join(parts)


FORMATS: dict[str, Callable[[View], str]] = {
    "text": text,
    "csv": csv,
    "latex": latex,
    "markdown": markdown,
    "html": html,
    "json": as_json,
}
