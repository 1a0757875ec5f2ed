"""What a result is: its kind is declared once, beside the function that makes it.

    EDGE_GAP = Kind(
        name="edge_gap",
        title="Edges along the chain",
        question="Are the chain's edges as strong as those of true noisy images?",
        variables={"edge": Term("edge gap", "1", "Edge power over what it should be, less 1.", 0)},
        columns=(Column("edge gap (%)", "edge", 100, signed=True),),
    )

    @returns(EDGE_GAP)
    def edge_gap(recording): ...

The dataset that the function returns then carries the kind's name in the attribute `kind`, what the
kind says of it in `answer`, and on each variable its unit, words, description and right value.
Text, tables, figures, pages, files and the glossary are made from the declaration alone, for a kind
of this package and for a stranger's. A kind is known by that attribute and by nothing else."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from importlib import import_module
from inspect import signature
from typing import Any, NamedTuple, ParamSpec

import xarray as xr

from exposure_bias.checking import check_arguments
from exposure_bias.errors import InputError
from exposure_bias.results import catalogue
from exposure_bias.results.generic import curves_of, generic_sentence, generic_tables
from exposure_bias.results.tables import Column, Table, table_of
from exposure_bias.results.terms import Term, attributes_of, term_in

P = ParamSpec("P")
KIND, ANSWER = "kind", "answer"  # attributes of a result
_strangers: dict[str, tuple["Kind", str]] = {}  # with the function that each is declared for


class Drawing(NamedTuple):
    """A figure of a kind.

    draw: a function of the result that returns a matplotlib Figure, or "module:function", which is
    imported when it is first drawn. suffix: of its file's name. needs: variables without which it
    is left out.
    """

    draw: Callable[..., Any] | str
    suffix: str = ""
    needs: tuple[str, ...] = ()

    def __call__(self, result: xr.Dataset, **options: Any) -> Any:
        """Draw the figure of a result."""
        return self._function(result, **options)

    @property
    def has_columns(self) -> bool:
        """Whether the function takes `column=`, the width in a paper."""
        return "column" in signature(self._function).parameters

    @property
    def _function(self) -> Callable[..., Any]:
        if not isinstance(self.draw, str):
            return self.draw
        module, _, name = self.draw.partition(":")
        found: Callable[..., Any] = getattr(import_module(module), name)
        return found


@dataclass(frozen=True, eq=False)
class Kind:
    """The declaration of a kind of result.

    Parameters
    ----------
    name
        The function's name in Python. With hyphens for underscores it is the command's name, the
        file's and that of the section of the page.
    title
        A heading of a few words.
    question
        What the result answers, in a sentence or two for a reader who is new to it.
    variables
        Every variable and coordinate of the result by name, but for those that many results share
        (`terms.COMMON`) and for endings such as `_se` (`terms.ENDINGS`).
    columns
        The columns of its one table, over the dimensions of the first. Without columns and `tables`
        the table has a column for every declared variable.
    tables
        A function that makes its tables from the result, where one is not enough.
    sentence
        A function that says the result in one sentence with a number and its interval. By default
        the first column's variable is said, at the end of each dimension.
    details
        A function that says what else there is to say, a paragraph each.
    to_do
        A function that says what to do about it: a sentence, and code to paste. Both may be empty.
    figures
        Its figures. Without any, a result over one numeric dimension is drawn as curves.
    needs
        Variables that sentence and tables cannot do without, each with its dimensions.
    aliases
        Other names for the command, and for files that earlier versions wrote.
    command
        The command that help and documentation show, where it is not the name.

    Raises
    ------
    InputError
        Where something is missing that a table needs; it is named.
    """

    name: str
    title: str
    question: str
    variables: Mapping[str, Term]
    columns: Sequence[Column] = ()
    tables: Callable[[xr.Dataset], list[Table]] | None = None
    sentence: Callable[[xr.Dataset], str] | None = None
    details: Callable[[xr.Dataset], list[str]] | None = None
    to_do: Callable[[xr.Dataset], tuple[str, str]] | None = None
    figures: Sequence[Drawing] = ()
    needs: Mapping[str, tuple[str, ...]] | None = None
    aliases: tuple[str, ...] = ()
    command: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.isidentifier():
            raise InputError(
                f"a kind's name is that of its function in Python, got {self.name!r:.60}"
            )
        for what in ("title", "question"):
            if not getattr(self, what):
                raise InputError(f"kind {self.name} has no {what}: say it in a few words")
        if not self.variables:
            raise InputError(f"kind {self.name} declares no variables: a table needs at least one")
        for name, one in self.variables.items():
            if not isinstance(one, Term) or not (one.words and one.unit):
                raise InputError(
                    f"kind {self.name} does not say what {name} is: give"
                    f" variables={{{name!r}: Term(words, unit, text, right)}}, with words and unit"
                )
        unknown = [c.name for c in self.columns if term_in(self.variables, c.name) is None]
        if unknown:
            raise InputError(
                f"kind {self.name} has columns of {', '.join(unknown)}, which it does not declare:"
                " add them to variables"
            )

    @property
    def hyphened(self) -> str:
        """The name at the command line, of files and on the page."""
        return self.name.replace("_", "-")

    @property
    def names(self) -> tuple[str, ...]:
        """All names that the command has; the first is the one to show."""
        return tuple(dict.fromkeys((self.command or self.hyphened, self.hyphened, *self.aliases)))

    def term(self, name: str) -> Term | None:
        """Say what a variable of such a result is; None if it is not declared."""
        return term_in(self.variables, name)

    def check(self, result: xr.Dataset) -> None:
        """Raise InputError naming the variables by which a dataset does not fit its kind."""
        wrong = [
            f"{name} over ({', '.join(dims)})"
            for name, dims in (self.needs or {}).items()
            if name not in result.variables or set(result[name].dims) != set(dims)
        ]
        if wrong:
            raise InputError(
                f"this dataset says that it is of the kind {self.name}, but it lacks"
                f" {', '.join(wrong)}: make it again with {self.name}, or remove its attribute"
                f" `{KIND}`"
            )


def returns(kind: Kind) -> Callable[[Callable[P, xr.Dataset]], Callable[P, xr.Dataset]]:
    """Declare the kind of what a function returns.

    Parameters
    ----------
    kind
        The declaration. Several functions may return the same kind.

    Returns
    -------
    A decorator. Datasets that the function returns say their kind, what they found and what their
    variables are. Arguments are held to the function's annotations (`checking`).

    Raises
    ------
    InputError
        If another kind of this name is declared elsewhere.
    """

    def decorate(function: Callable[P, xr.Dataset]) -> Callable[P, xr.Dataset]:
        _declare(kind, f"{function.__module__}.{function.__qualname__}")
        takes = signature(function)

        @wraps(function)
        def with_kind(*args: P.args, **kwargs: P.kwargs) -> xr.Dataset:
            check_arguments(function, takes.bind(*args, **kwargs).arguments)
            return of_kind(function(*args, **kwargs), kind)

        return with_kind

    return decorate


def _declare(kind: Kind, where: str) -> None:
    """Remember a stranger's kind. A cell of a notebook that runs again declares its kind again."""
    if where.startswith("exposure_bias."):
        return  # it stands in the catalogue
    ours = kind.name not in _strangers and find(kind.name) is not None
    before = "this package" if ours else _strangers.get(kind.name, (kind, where))[1]
    if before != where:
        raise InputError(
            f"the kind {kind.name} is declared twice, for {before} and for {where}: give one of"
            " them another name"
        )
    _strangers[kind.name] = (kind, where)


def of_kind(dataset: xr.Dataset, kind: Kind) -> xr.Dataset:
    """Return the dataset as a result of a kind: with words on its variables, kind and answer."""
    kind.check(dataset)
    dataset = dataset.copy()
    for name in dataset.variables:
        term = kind.term(str(name))
        if term is not None:
            attrs = dataset[name].attrs
            attrs.update(attributes_of(term, attrs.get("scale")))
    dataset.attrs = {KIND: kind.name} | dataset.attrs | {KIND: kind.name}
    dataset.attrs[ANSWER] = sentence(dataset)
    return dataset


def every_kind() -> list[Kind]:
    """Return all declared kinds: this package's in the order of the page, then strangers'."""
    return [*catalogue.kinds(), *(kind for kind, _ in _strangers.values())]


def find(name: Any) -> Kind | None:
    """Return the declared kind of this name, which may be an alias; None if there is none."""
    if not isinstance(name, str):
        return None
    plain = name.replace("-", "_").replace(" ", "_")
    known = every_kind()
    exact = (kind for kind in known if kind.name == plain)
    return next(exact, next((kind for kind in known if name in kind.names), None))


def kind_of(result: xr.Dataset) -> Kind | None:
    """Return the kind that a dataset says it has; None where it says none, or one that is unknown.

    Raises
    ------
    InputError
        If the dataset lacks variables that its kind needs.
    """
    kind = find(result.attrs.get(KIND))
    if kind is not None:
        kind.check(result)
    return kind


def name_of(result: xr.Dataset) -> str:
    """Return the name of the kind that a dataset says it has, known or not; else "result"."""
    name = result.attrs.get(KIND)
    return name if isinstance(name, str) and name else "result"


def title_of(result: xr.Dataset) -> str:
    """Return a heading for a result."""
    kind = kind_of(result)
    return kind.title if kind else name_of(result).replace("_", " ").capitalize()


def sentence(result: xr.Dataset) -> str:
    """Say what a result says, in one sentence with a number and its interval.

    It is the same sentence at the terminal, in `result.attrs["answer"]` and on the page. A dataset
    of a kind that is not known here is said in its own words.
    """
    kind = kind_of(result)
    if kind is not None and kind.sentence is not None:
        return kind.sentence(result)
    first = [c.name for c in kind.columns] if kind else []
    return generic_sentence(result, [*first, *(kind.variables if kind else ())])


def details(result: xr.Dataset) -> list[str]:
    """Say what else a result says, a paragraph each."""
    kind = kind_of(result)
    return kind.details(result) if kind is not None and kind.details is not None else []


def to_do(result: xr.Dataset) -> tuple[str, str]:
    """Say what to do about a result: a sentence, and code to paste; each may be empty."""
    kind = kind_of(result)
    return kind.to_do(result) if kind is not None and kind.to_do is not None else ("", "")


def tables(result: xr.Dataset) -> list[Table]:
    """Return all tables of a result, the most telling first."""
    kind = kind_of(result)
    if kind is None:
        return generic_tables(result, name_of(result))
    if kind.tables is not None:
        return kind.tables(result)
    if kind.columns:
        return [table_of(result, kind.name, kind.title, kind.columns)]
    return generic_tables(result, kind.name)


def table(result: xr.Dataset, name: str | None = None) -> Any:
    """Return a result as a tidy pandas DataFrame: what the command of its name writes to CSV.

    Parameters
    ----------
    result
        What a public function returned, or any dataset of your own.
    name
        Of one of its tables; by default the first.

    Raises
    ------
    InputError
        For an unknown name, and for a dataset that holds no numbers.

    Examples
    --------
    >>> import exposure_bias as eb
    >>> frame = eb.table(eb.variance_gap(eb.record("digits", "digits", steps=5, n=32)))
    """
    known = {t.name: t for t in tables(result)}
    if not known:
        raise InputError("this dataset holds no numbers, and so it has no table")
    if name is not None and name not in known:
        raise InputError(f"there is no table {name!r} here: this result has {', '.join(known)}")
    return (known[name] if name is not None else next(iter(known.values()))).frame


def drawings(result: xr.Dataset) -> list[Drawing]:
    """Return the figures that a result has; none if nothing in it can be drawn."""
    kind = kind_of(result)
    if kind is not None and kind.figures:
        return [d for d in kind.figures if all(n in result.variables for n in d.needs)]
    return [Drawing("exposure_bias.plots:curves")] if curves_of(result) else []
