"""Results know their kind: what they are called, what they say, how they are shown and kept.

`kind` declares a kind, and `terms` says what its variables are. `numbers` writes a number with its
interval. `tables`, `formats` and `generic` show a result of any kind, and `storage` writes and
reads it. `catalogue` lists this package's kinds. docs/extending.md adds one, step by step."""

from exposure_bias.results.kind import (
    Drawing,
    Kind,
    details,
    drawings,
    every_kind,
    find,
    kind_of,
    name_of,
    returns,
    sentence,
    table,
    tables,
    title_of,
    to_do,
)
from exposure_bias.results.storage import load_result, save
from exposure_bias.results.tables import Column, Table
from exposure_bias.results.terms import Term

__all__ = [
    "Column",
    "Drawing",
    "Kind",
    "Table",
    "Term",
    "details",
    "drawings",
    "every_kind",
    "find",
    "kind_of",
    "load_result",
    "name_of",
    "returns",
    "save",
    "sentence",
    "table",
    "tables",
    "title_of",
    "to_do",
]
