"""A monitor's CSV file: a row a check, gone on with after a training was resumed.

The last column says the settings that the row was made with. A training that is resumed from an
earlier step measures some steps again: rows from its first step on are moved to a file beside it,
`monitor.csv.old`, so that no step stands twice.
"""

import csv
import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from exposure_bias import files
from exposure_bias.errors import InputError, reason

SETTINGS = "settings"


class CsvLog:
    """Writes rows of a step, values and settings.

    Parameters
    ----------
    path : Path
        The file.
    columns : sequence of str
        The values' names.
    settings : function
        Gives, in words, what the values depend on.

    Raises
    ------
    InputError
        For a file that cannot be written or read, or that holds other columns.
    """

    def __init__(self, path: Path, columns: Sequence[str], settings: Callable[[], str]) -> None:
        self.path, self.columns, self.settings = path, list(columns), settings
        self.header = ["step", *columns, SETTINGS]
        self.last: int | None = None
        files.check_writable(path, folder=False)
        self._rows()

    def __call__(self, step: int, values: Mapping[str, float]) -> None:
        if self.last is None or step <= self.last or not self.path.exists():
            self._go_on(step)
        row = [step, *(values[name] for name in self.columns), self.settings()]
        with open(self.path, "a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(row)
        self.last = step

    def _go_on(self, step: int) -> None:
        """Make the file end before a step, and say so if settings have changed since."""
        rows = self._rows()
        kept = [row for row in rows if int(row[0]) < step]
        if len(kept) < len(rows):
            beside = self.path.with_name(f"{self.path.name}.old")
            files.write_bytes(beside, self._bytes(rows[len(kept) :]))
            warnings.warn(
                f"{self.path} held rows from step {step} on, of a training that was left there:"
                f" they are in {beside} now",
                stacklevel=4,
            )
        files.write_bytes(self.path, self._bytes(kept))
        if kept and kept[-1][-1] != self.settings():
            warnings.warn(
                f"{self.path} goes on with other settings from step {step} on ({kept[-1][-1]}"
                f" before, {self.settings()} now): rows before and after are not comparable",
                stacklevel=4,
            )

    def _rows(self) -> list[list[str]]:
        """The rows of the file, in order of their steps."""
        if not self.path.exists():
            return []
        try:
            with open(self.path, newline="", encoding="utf-8") as file:
                found = [row for row in csv.reader(file) if row]
            header, rows = (found[0], found[1:]) if found else (self.header, [])
            steps = [int(row[0]) for row in rows]
        except (OSError, ValueError, csv.Error) as error:
            raise InputError(
                f"{self.path} is no CSV file to go on with ({reason(error)}): give another file"
            ) from error
        if header != self.header:
            raise InputError(
                f"{self.path} has the columns {', '.join(header)[:80]}, not"
                f" {', '.join(self.header)}: give another file"
            )
        # A row that a kill cut off, and whatever came before what was moved away.
        whole = [row for row in rows if len(row) == len(self.header)]
        return whole if steps == sorted(steps) else sorted(whole, key=lambda row: int(row[0]))

    def _bytes(self, rows: Sequence[Sequence[str]]) -> bytes:
        text = io.StringIO()
        csv.writer(text).writerows([self.header, *rows])
        return text.getvalue().encode()
