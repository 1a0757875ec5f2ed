"""How much a file may hold.

What its headers say is checked before anything of that size is made."""

import re
from dataclasses import dataclass
from pathlib import Path

from exposure_bias.errors import InputError

GIB = 2**30
DEFAULT = GIB
UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": GIB}
FORMAT = re.compile(r"(\d{1,15})\s*([A-Za-z]*)")
# Decoding needs several copies of one picture, a name takes memory and time as well as its file,
# and JSON grows to twenty times its text.
PICTURES, FILE, JSON = 8, 4096, 64


@dataclass(frozen=True)
class Limit:
    """So many bytes may come out of one source."""

    bytes: int = DEFAULT

    def check(self, size: int, what: str, where: Path | str, share: int = 1) -> None:
        """Raise InputError unless `size` bytes are within a `share`-th of the limit."""
        allowed = self.bytes // share
        if size > allowed:
            raise InputError(
                f"{what} of {where} would take {readable(size)}, {readable(allowed)} are allowed"
                f" for that: take less, or raise the limit of {readable(self.bytes)} with limit= or"
                " --limit-data"
            )

    def check_files(self, count: int, where: Path | str) -> None:
        """Raise InputError for more files than would fit at 4 KiB each."""
        self.check(count * FILE, f"{count:,} files", where)


def limit_of(given: "int | str | Limit | None") -> Limit:
    """A limit from a number of bytes or a text as "8 GB"; by default 1 GiB. Raises InputError."""
    if given is None or isinstance(given, Limit):
        return given or Limit()
    match = FORMAT.fullmatch(str(given).strip())
    unit = UNITS.get(match[2].upper()) if match else None
    if match is None or unit is None or isinstance(given, bool) or int(match[1]) < 1:
        raise InputError(f"the limit of data is {given!r:.40}: give bytes, or as 500MB or 8GB")
    return Limit(int(match[1]) * unit)


def readable(size: int) -> str:
    """A size for people, 1.5 GiB."""
    value, units = float(size), iter(("bytes", "KiB", "MiB"))
    for unit in units:
        if value < 1024:
            return f"{value:.3g} {unit}"
        value /= 1024
    return f"{value:,.4g} GiB"
