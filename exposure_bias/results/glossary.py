"""docs/glossary.md: every number by its name, its unit, its meaning and its right value.

python -m exposure_bias.results.glossary > docs/glossary.md"""

from collections.abc import Iterator, Mapping

from exposure_bias.results import catalogue
from exposure_bias.results.terms import COMMON, ENDINGS, Term

HEAD = """# Glossary

Every number that a command prints, writes or returns, by its name in CSV, JSON and
Python (JSON writes names in lower case). This page is made from the declarations of
the kinds of results with `python -m exposure_bias.results.glossary > docs/glossary.md`.

A value is printed with half of its 95 % interval: −4.3 ± 0.5 %. Shares are stored as
numbers (−0.043) and printed in per cent. "Right" is what a perfect model with very many
steps shows, where there is such a value.

## Endings of names

| ending | meaning |
|---|---|"""


def page() -> str:
    """Return the text of docs/glossary.md."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield HEAD
    for ending, (words, text) in ENDINGS.items():
        yield f"| `{ending}` | {words.format('…')}. {text} |"
    yield from _table("Common to several results", COMMON)
    titles: dict[int, list[str]] = {}
    terms: dict[int, Mapping[str, Term]] = {}
    for kind in catalogue.kinds():
        titles.setdefault(id(kind.variables), []).append(f"`{kind.name}`")
        terms[id(kind.variables)] = kind.variables
    for key, names in titles.items():
        yield from _table(" and ".join(names), terms[key])


def _table(title: str, terms: Mapping[str, Term]) -> Iterator[str]:
    yield f"\n## {title}\n"
    yield "| name | in words | unit | right | meaning |\n|---|---|---|---|---|"
    for name, (words, unit, text, right) in terms.items():
        yield f"| `{name}` | {words} | {unit} | {'' if right is None else f'{right:g}'} | {text} |"


if __name__ == "__main__":
    print(page(), end="")
