"""Hostile texts: JSON and TOML that say odd things, and the bytes of files that are no text.

`odd_json` changes one field of an honest object; `odd_bytes` is what any text file may hold
instead; both are seeded."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

HUGE = 10**18
VALUES: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 0.5, 5, HUGE, -HUGE, 1e308, 5e-324),
    *(float("nan"), float("inf"), float("-inf")),
    *("", "x", "a\nb", "\x1b[31m", "x" * 20_000, "\ud800", "\u202e"),
    *([], {}, [[]], [None], [1, "a"], [float("nan")], {"a": 1}, [HUGE], [-1], [0]),
    *([16384, 16384, 16384], [8] * 100_000, [[8] * 50_000], 16_384, 100_000),
)


def odd_bytes(rng: np.random.Generator, honest: str) -> Iterator[tuple[str, bytes]]:
    """What may stand in place of a text: other encodings, depths, sizes, and damage."""
    for encoding in ("utf-16", "utf-16-be", "utf-32", "utf-8-sig", "utf-7", "cp037"):
        yield f"in {encoding}", honest.encode(encoding)
    yield "in latin-1", f"{honest} # ä".encode("latin-1")
    yield "null bytes", honest.encode() + bytes(10)
    yield "empty", b""
    yield "blanks", b" \n" * 1000
    for bracket in (b"[", b"{", b'{"a":', b'["', b"(", b"a=[", b"a={b="):
        yield f"deep {bracket.decode()}", bracket * 100_000
        yield f"less deep {bracket.decode()}", bracket * 900
    yield "a long number", b"9" * 5000
    yield "a long fraction", b"0." + b"9" * 5000
    yield "a long exponent", b"1e" + b"9" * 5000
    yield "a long text", b'"' + b"x" * 1_000_000 + b'"'
    yield "an open text", b'"' + b"x" * 100_000
    yield "half of it", honest.encode()[: len(honest) // 2]
    for i in range(12):
        content = bytearray(honest.encode())
        for place in rng.integers(0, len(content), 1 + i // 3):
            content[place] = rng.integers(256)
        yield f"damage {i}", bytes(content)


def odd_json(
    rng: np.random.Generator, honest: dict[str, Any], count: int
) -> Iterator[tuple[str, bytes]]:
    """An honest object with one field that is odd, gone, or there twice."""
    paths = list(_paths(honest))
    for _ in range(count):
        path = paths[int(rng.integers(len(paths)))]
        pick = int(rng.integers(len(VALUES) + 2))
        name = "/".join(map(str, path))
        if pick < len(VALUES):
            value = VALUES[pick]
            text = json.dumps(_replaced(honest, path, value))
            yield f"{name} is {str(value)[:30]!a}", text.encode()
        elif pick == len(VALUES):
            yield f"{name} is gone", json.dumps(_replaced(honest, path, GONE)).encode()
        else:
            yield f"{name} is there twice", _twice(honest, path).encode()


GONE = object()


def _twice(honest: dict[str, Any], path: tuple[Any, ...]) -> str:
    """The same key once more, with another value, at the end of the object."""
    text = json.dumps(honest)
    return f'{text[:-1]}, {json.dumps(str(path[0]))}: "another"}}'


def _paths(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value[:2])
    for key, inner in items:
        yield (*above, key)
        if isinstance(inner, dict | list):
            yield from _paths(inner, (*above, key))


def _replaced(known: Any, path: tuple[Any, ...], value: Any) -> Any:
    copy = json.loads(json.dumps(known))
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    if value is GONE:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return copy


def odd_toml(rng: np.random.Generator, count: int) -> Iterator[tuple[str, bytes]]:
    """Settings of a command that no command has, or that no text can be."""
    keys = ["steps", "n", "remedy", "clip", "seed", "sampler", "out", "batch-size", "format"]
    numbers = ["9" * 5000, "-1", "0", "1e400", "nan", "inf", "0x" + "f" * 5000, "0b1", "0o17"]
    times = ["1979-05-27T07:32:00Z", "1979-05-27", "07:32:00"]
    others = ["true", "[]", "{}", '""', '"a\\u0000b"', '"\\u001b[31m"', '"' + "x" * 100_000 + '"']
    lists = ["[1, 2]", '["a", 1]', "[[]]", "[{a = 1}]", "{a = {b = 1}}", "[" + "1," * 50_000 + "]"]
    for _ in range(count):
        key = keys[int(rng.integers(len(keys)))]
        values = [*numbers, *times, *others, *lists]
        value = values[int(rng.integers(len(values)))]
        yield f"{key} = {value[:30]}", f"{key} = {value}\n".encode()
    dotted = ".".join(["a"] * 100_000)
    yield "100,000 dotted keys", f"{dotted} = 1\n".encode()
    yield "a table of 100,000 dots", f"[{dotted}]\n".encode()
    yield (
        "1,000 times 100 dots",
        "".join(f"k{i}.{'.'.join(['a'] * 100)} = 1\n" for i in range(1000)).encode(),
    )
    yield "100,000 keys", "".join(f"k{i} = 1\n" for i in range(100_000)).encode()
    yield "100,000 tables", b"[[a]]\n" * 100_000
    yield "one key twice", b"steps = 2\nsteps = 3\n"
    yield "one key by two names", b"steps = 2\n\nbatch-size = 3\nbatch_size = 4\n"
    yield "a key with a null byte", b'"a\\u0000" = 1\n'
    yield "a key that is no text", b'"\xff" = 1\n'
    yield "an empty key", b'"" = 1\n'
    yield "a key of escapes", b'"\\u001b[31m" = 1\n'
    yield "help", b"help = true\n"
    yield "config", b'config = "run.toml"\n'
