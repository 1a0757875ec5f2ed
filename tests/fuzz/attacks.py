"""Hostile data: files of less than 10 MB that would take gigabytes, minutes, or another program.

Each attack writes one source into a folder and returns what to give to `load_data`. `refusal` is
what its message must say; where it is empty, the attack may also be read."""

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from itertools import pairwise
from math import isqrt
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

GB = 2**30


class Attack(NamedTuple):
    """An attack's name, what makes it, and what its refusal says; "" where it may also be read."""

    name: str
    make: Callable[[Path], Path]
    refusal: str


def zeros(size: int) -> Iterator[bytes]:
    block = bytes(2**20)
    for _ in range(size // len(block)):
        yield block


def zipped(path: Path, name: str, size: int, head: bytes = b"") -> Path:
    """An archive whose member is so many zeros, after a head."""
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive,
        archive.open(name, "w", force_zip64=True) as member,
    ):
        member.write(head)
        for block in zeros(size):
            member.write(block)
    return path


def npy_head(shape: tuple[int, ...], dtype: str) -> bytes:
    buffer = io.BytesIO()
    header = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def png(width: int, height: int, colour: int = 0, depth: int = 8, *others: bytes) -> bytes:
    """A PNG of zeros, whose rows are compressed as they are made."""
    packer = zlib.compressobj(1)
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    row = bytes(1 + width * channels * depth // 8)
    packed = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">2I5B", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + b"".join(others) + chunk(b"IDAT", packed)
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


def claimed_png(width: int, height: int) -> bytes:
    """A PNG that only claims its size."""
    header = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0"))


def small(suffix: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, suffix)
    return buffer.getvalue()


def folder(path: Path, **files: bytes) -> Path:
    path.mkdir()
    for name, content in files.items():
        (path / name.replace("__", ".")).write_bytes(content)
    return path


def archive(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as made:
        for name, content in files.items():
            made.writestr(name, content)
    return path


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def linked(path: Path, target: str) -> Path:
    path.symlink_to(target)
    return path


def piped(path: Path) -> Path:
    os.mkfifo(path)
    return path


def many_members(path: Path, count: int) -> Path:
    """An archive that says it has so many members, by its directory alone."""
    entry = b"PK\1\2" + bytes(42)
    end = b"PK\5\6" + struct.pack("<4H2IH", 0, 0, 65535, 65535, len(entry) * count, 0, 0)
    return written(path, entry * count + end)


def claimed_members(path: Path) -> Path:
    """One that only claims a large directory."""
    end = b"PK\5\6" + struct.pack("<4H2IH", 0, 0, 65535, 65535, 2**31, 0, 0)
    return written(path, bytes(100) + end)


def circle(path: Path) -> Path:
    folder(path, a__png=small())
    (path / "inside").symlink_to(path)
    return path


def maze(path: Path) -> Path:
    """Twenty floors, two links from each to the next: a million ways."""
    floors = [path, *(path.parent / f"{path.name}{i}" for i in range(20))]
    for floor in floors:
        floor.mkdir()
    for here, below in pairwise(floors):
        for door in ("left", "right"):
            (here / door).symlink_to(below)
    (floors[-1] / "a.png").write_bytes(small())
    return path


def attacks(giga: int = GB) -> list[Attack]:
    """All of them; giga: what stands for a gigabyte where time is short."""
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n(x) run\n"
    deep = b'{"labels":' + b"[" * (giga // 1024)
    return [
        Attack("3 GB of zeros in a zip", lambda p: zipped(p / "a.zip", "a.png", 3 * giga), "limit"),
        Attack(
            "3 GB of zeros in an npz",
            lambda p: zipped(
                p / "a.npz", "arr_0.npy", 3 * giga, npy_head((3, giga // 1024, 1024), "|u1")
            ),
            "limit",
        ),
        Attack(
            "1 GB of zeros in an npz",
            lambda p: zipped(
                p / "a.npz", "arr_0.npy", GB, npy_head((giga // 2**20, 1024, 1024, 1), "|u1")
            ),
            "",
        ),
        Attack(
            "3 GB of header in an npz",
            lambda p: zipped(
                p / "a.npz", "arr_0.npy", 3 * giga, b"\x93NUMPY\2\0" + struct.pack("<I", 2**32 - 1)
            ),
            "cannot read",
        ),
        Attack(
            "an npz that claims an exabyte",
            lambda p: archive(p / "a.npz", {"arr_0.npy": npy_head((2**57,), "<f8") + bytes(64)}),
            "limit",
        ),
        Attack(
            "an npy that claims an exabyte",
            lambda p: written(p / "a.npy", npy_head((2**57,), "<f8") + bytes(64)),
            "limit",
        ),
        Attack(
            "an npy that claims less than nothing",
            lambda p: written(p / "a.npy", npy_head((-1, -(2**40)), "<f8") + bytes(64)),
            "cannot read|limit|no images",
        ),
        Attack(
            "an npy of objects",
            lambda p: written(p / "a.npy", npy_head((4, 4), "|O") + bytes(64)),
            "cannot read",
        ),
        Attack(
            "an npy of records",
            lambda p: written(p / "a.npy", npy_head((4, 4), "|V16") + bytes(256)),
            "cannot read",
        ),
        Attack(
            "a PNG of 13000 x 13000",
            lambda p: folder(p / "f", a__png=png(isqrt(giga // 6), isqrt(giga // 6))),
            "limit",
        ),
        Attack(
            "eighty large PNGs",
            lambda p: archive(
                p / "a.zip",
                {
                    f"{i}.png": content
                    for content in [png(isqrt(giga // 36), isqrt(giga // 36))]
                    for i in range(80)
                },
            ),
            "limit",
        ),
        Attack(
            "a PNG that claims 2^31 x 2^31",
            lambda p: folder(p / "f", a__png=claimed_png(2**31 - 1, 2**31 - 1)),
            "limit|pixels",
        ),
        Attack(
            "a PNG with 1 GB of text",
            lambda p: folder(
                p / "f",
                a__png=png(
                    4, 4, 0, 8, chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(giga // 4), 1))
                ),
            ),
            "",
        ),
        Attack(
            "a directory of 10^6 members",
            lambda p: many_members(p / "a.zip", giga // 1000),
            "limit",
        ),
        Attack(
            "a claimed directory of 2 GB",
            lambda p: claimed_members(p / "a.zip"),
            "limit|cannot read",
        ),
        Attack("/dev/zero as npz", lambda p: linked(p / "a.npz", "/dev/zero"), "a device"),
        Attack("/dev/zero as npy", lambda p: linked(p / "a.npy", "/dev/zero"), "a device"),
        Attack("/dev/zero as zip", lambda p: linked(p / "a.zip", "/dev/zero"), "a device"),
        Attack("/dev/zero itself", lambda p: Path("/dev/zero"), "unknown kind"),
        Attack("a pipe as npz", lambda p: piped(p / "a.npz"), "a pipe"),
        Attack("a pipe as zip", lambda p: piped(p / "a.zip"), "a pipe"),
        Attack(
            "a pipe in a folder",
            lambda p: piped(folder(p / "f") / "a.png").parent,
            "no files",
        ),
        Attack(
            "a device in a folder",
            lambda p: linked(folder(p / "f") / "a.png", "/dev/zero").parent,
            "no files",
        ),
        Attack("EPS by the name of a PNG", lambda p: folder(p / "f", a__png=eps), "cannot read"),
        Attack("a folder in itself", lambda p: circle(p / "f"), "leads back"),
        Attack("a maze of links", lambda p: maze(p / "f"), "limit"),
        Attack(
            "labels a million brackets deep",
            lambda p: archive(p / "a.zip", {"a.png": small(), "dataset.json": deep}),
            "cannot use dataset.json",
        ),
        Attack(
            "200 MB of labels",
            lambda p: zipped(p / "a.zip", "dataset.json", giga // 5, b'{"labels": ['),
            "no images",
        ),
        Attack(
            "names that lead out",
            lambda p: archive(p / "a.zip", {"../../a.png": small(), "/etc/b.png": small()}),
            "",
        ),
        Attack(
            "16 000 tiny pictures",
            lambda p: archive(p / "a.zip", {f"{i}.png": small() for i in range(giga // 2**16)}),
            "",
        ),
    ]
