"""Archives, opened with their number of members known beforehand."""

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from exposure_bias import files
from exposure_bias.data.dataset import unreadable
from exposure_bias.errors import InputError
from exposure_bias.files.limits import Limit

# PKWARE's APPNOTE 4.3.16 and 4.3.14: the records at an archive's end, and the place of the
# directory's size in each.
END, END64 = (b"PK\5\6", 12, 4), (b"PK\6\6", 40, 8)
TAIL = 2**16 + 200
ENTRY = 46  # the least that a member takes in the directory
PIECE = 2**20


@contextmanager
def opened(path: Path, kind: str, limit: Limit) -> Iterator[zipfile.ZipFile]:
    """A zip archive of a sensible number of members. Raises InputError where it is none."""
    with files.opened(path) as file:
        limit.check_files(_directory(file) // ENTRY, path)
        try:
            archive = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise unreadable(path, kind, error) from error
        with archive:
            limit.check_files(len(archive.filelist), path)
            if len(set(archive.namelist())) < len(archive.filelist):
                raise InputError(f"{path} holds several files of one name: pack it anew")
            yield archive


def read(archive: zipfile.ZipFile, name: str) -> bytes:
    """The content of a member, of which no more is unpacked at once than a piece.

    zipfile's own `read` would unpack a member whole and then cut it to the size that the directory
    claims. Raises what zipfile raises."""
    with archive.open(name) as stream:
        return b"".join(iter(lambda: stream.read(PIECE), b""))


def _directory(file: IO[bytes]) -> int:
    """Bytes of the directory, which zipfile reads at once.

    The most that any record says, but no more than there are."""
    size = file.seek(0, 2)
    file.seek(max(0, size - TAIL))
    tail = file.read()
    said = [0]
    for mark, offset, width in (END, END64):
        place = tail.rfind(mark)
        if place >= 0:
            field = tail[place + offset : place + offset + width]
            said.append(int.from_bytes(field, "little"))
    return min(max(said), size)
