"""Hostile files, kind by kind: settings, networks, weights, checkpoints, caches, archives, results.

Every function gives the trials of one kind, drawn from a seed."""

import io
import json
import os
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import forgeries
import numpy as np
import texts
import torch
import worlds
from attacks import npy_head, small
from trials import EXECUTED, Silent, Trial, command

import exposure_bias as eb

Generator = np.random.Generator


def settings(rng: Generator, count: int, honest: Path) -> Iterator[Trial]:
    """`--config` files."""
    given = [*texts.odd_toml(rng, count - 60), *texts.odd_bytes(rng, "steps = 2\nn = 16\n")]

    def tried(content: bytes) -> Callable[[Path], object]:
        def run(folder: Path) -> object:
            (folder / "run.toml").write_bytes(content)
            data = worlds.saved_images(folder)
            line = ("variance-gap", str(honest / "honest.nc"), "--config", "run.toml")
            if b"steps" in content or b"n = " in content:
                line = ("train", "--data", str(data), "-o", "out", "--config", "run.toml")
            return command(folder, *line)

        return run

    for name, content in given:
        # Nothing of this trains: the options that would are refused, or there is no such option.
        yield Trial("settings", name, tried(content))
    for name, make in {
        "a pipe": os.mkfifo,
        "a device": lambda p: p.symlink_to("/dev/zero"),
        "a folder": os.mkdir,
        "a link to itself": lambda p: p.symlink_to(p),
        "3 GB of nothing": lambda p: _sparse(p, 3 * 2**30),
    }.items():

        def run(folder: Path, make: Callable[[Path], Any] = make) -> object:
            make(folder / "run.toml")
            return command(folder, "models", "--config", "run.toml")

        yield Trial("settings", name, run, "run.toml|config")
    for name, path in {"a null byte": "a\0b", "long": "x" * 5000, "none": ""}.items():
        yield Trial(
            "settings", f"named {name}", lambda f, p=path: command(f, "models", "--config", p)
        )


def _sparse(path: Path, size: int) -> None:
    with open(path, "wb") as file:
        file.truncate(size)


def networks(rng: Generator, count: int) -> Iterator[Trial]:
    """`train --net` files."""
    given = [
        *texts.odd_json(rng, worlds.NETWORK | {"dropout": 0.0}, count - 45),
        *texts.odd_bytes(rng, json.dumps(worlds.NETWORK)),
    ]
    wide = worlds.NETWORK | {"block_out_channels": [16_384]}
    given += [
        ("null", b"null"),
        ("5", b"5"),
        ("[]", b"[]"),
        ("{}", b"{}"),
        ("wide", json.dumps(wide).encode()),
        ("deep", json.dumps(worlds.NETWORK | {"layers_per_block": 100_000}).encode()),
        ("negative", json.dumps(worlds.NETWORK | {"layers_per_block": -1}).encode()),
        ("no groups", json.dumps(worlds.NETWORK | {"norm_num_groups": 0}).encode()),
    ]
    for name, content in given:

        def run(folder: Path, content: bytes = content, name: str = name) -> object:
            (folder / "net.json").write_bytes(content)
            data = worlds.saved_images(folder)
            line = ("--iterations", "1", "--batch-size", "2", "--sample-every", "0", "-q")
            said = command(
                folder, "train", "--data", str(data), "--net", "net.json", "-o", "out", *line
            )
            if "is there twice" in name:
                raise Silent(f"one of two values was dropped: {content[-120:]!r}")
            return said

        yield Trial("networks to train", name, run)


def pipelines(rng: Generator, count: int, honest: Path) -> Iterator[Trial]:
    """The JSON files of a diffusers folder."""
    files = ("unet/config.json", "scheduler/scheduler_config.json", "model_index.json")
    for file in files:
        known = worlds.json_of(honest / "pipeline" / file)
        given = [*texts.odd_json(rng, known, count // 3 - 42)]
        given += list(texts.odd_bytes(rng, json.dumps(known)))[:42]
        for name, content in given:

            def run(folder: Path, file: str = file, content: bytes = content) -> object:
                shutil.copytree(honest / "pipeline", folder / "pipeline")
                (folder / "pipeline" / file).write_bytes(content)
                model = eb.load_model(folder / "pipeline")
                made = eb.record(model, worlds.images(16), steps=2, n=16, streams=("chain",))
                if not np.isfinite(made["chain"]["state_sum"]).all():
                    raise Silent("numbers that are none")
                if content.endswith(b'"another"}'):
                    raise Silent("one of two values was dropped")
                return made

            yield Trial("pipeline folders", f"{file}: {name}", run)


def weights(rng: Generator, count: int, honest: Path) -> Iterator[Trial]:
    """`.safetensors` files, whose header is JSON."""
    name = "unet/diffusion_pytorch_model.safetensors"
    content = (honest / "pipeline" / name).read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header, body = json.loads(content[8 : 8 + length]), content[8 + length :]
    few = dict(list(header.items())[:4])
    given = list(texts.odd_json(rng, few, count - 45))
    rest = {k: v for k, v in header.items() if k not in few}

    def merged(text: bytes) -> bytes:
        """The odd part of the header, and the honest rest."""
        return text[:-1] + b", " + json.dumps(rest).encode()[1:]

    packed = [(what, merged(text)) for what, text in given]
    packed += list(texts.odd_bytes(rng, json.dumps(header)))
    made = [(what, struct.pack("<Q", len(text)) + text + body) for what, text in packed]
    made += [
        ("no body", content[: 8 + length]),
        ("more body", content + bytes(100)),
        ("a header of 2^63", struct.pack("<Q", 2**63) + content[8:]),
        ("a header of 0", struct.pack("<Q", 0) + content[8:]),
        ("a few bytes", content[:5]),
        ("weights that are NaN", content[: 8 + length] + b"\xff" * len(body)),
    ]
    expected = dict(eb.load_model(honest / "pipeline").net.state_dict())
    for what, bytes_ in made:

        def run(folder: Path, bytes_: bytes = bytes_, what: str = what) -> object:
            shutil.copytree(honest / "pipeline", folder / "pipeline")
            (folder / "pipeline" / name).write_bytes(bytes_)
            model = eb.load_model(folder / "pipeline")
            state = model.net.state_dict()
            if "NaN" in what:
                return eb.record(model, worlds.images(16), steps=2, n=16)
            if not all(torch.equal(state[k], v) for k, v in expected.items()):
                raise Silent("other weights")
            return model

        yield Trial("safetensors", what, run)


class Runs:
    """A pickle that makes a file."""

    def __reduce__(self) -> Any:
        return os.system, (f"touch {EXECUTED}",)


def pickles(rng: Generator, count: int) -> Iterator[Trial]:
    """`.pt` files: what torch's own format can hold beyond weights."""
    from collections import OrderedDict

    tensor = torch.arange(4.0)
    with_meta = {"w": torch.empty(2**40, device="meta")}
    sparse = torch.sparse_coo_tensor(torch.zeros((2, 1), dtype=torch.int64), torch.ones(1), (9, 9))
    holds: dict[str, Any] = {
        "integer keys": {1: tensor, 2: tensor},
        "mixed keys": {"a": tensor, 2: tensor, None: tensor},
        "tuple keys": {("a", 1): tensor},
        "a tensor": tensor,
        "a list": [tensor],
        "nothing": None,
        "a number": 10**400,
        "a text": "x" * 100_000,
        "no weights": {},
        "meta": with_meta,
        "sparse": {"w": sparse},
        "expanded": {"w": torch.zeros(1).expand(2**36)},
        "quantised": {"w": torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)},
        "complex": {"w": tensor.to(torch.complex64)},
        "whole numbers": {"w": tensor.long()},
        "NaN": {"w": tensor * float("nan")},
        "a shared list": _laughing(),
        "ordered": OrderedDict(a=tensor),
        "names of escapes": {"\x1b[31mred\x07": tensor, "\u202e": tensor},
        "a long name": {"x" * 100_000: tensor},
        "many names": {f"w{i}": 1 for i in range(20_000)},
        "deep": _deep(200),
    }
    for what, value in holds.items():
        yield Trial("torch files", what, _load_torch(lambda p, v=value: torch.save(v, p)))
        yield Trial(
            "torch files",
            f"{what}, the older format",
            _load_torch(lambda p, v=value: torch.save(v, p, _use_new_zipfile_serialization=False)),
        )
    for what, make in {
        "a program": lambda p: torch.save(Runs(), p),
        "a plain pickle": lambda p: p.write_bytes(pickle.dumps(Runs())),
        "bytearray(3 GB)": lambda p: _pickled(p, _called("builtins", "bytearray", 3 * 2**30)),
        "bytearray(3 GB) twice": lambda p: _pickled(
            p, _called("builtins", "bytearray", 3 * 2**30, times=2)
        ),
        "bytes(3 GB)": lambda p: _pickled(p, _called("builtins", "bytes", 3 * 2**30)),
        "range(10^18)": lambda p: _pickled(p, _called("builtins", "range", 10**18)),
        "torch.zeros": lambda p: _pickled(p, _called("torch", "zeros", 2**30)),
        "FloatStorage(2^30)": lambda p: _pickled(p, _called("torch", "FloatStorage", 2**30)),
        "a compressed record": _compressed,
        "a record that claims 100 bytes": _lying,
        "a record of 3 GB of nothing": lambda p: _sparse(p, 3 * 2**30),
        "no zip": lambda p: p.write_bytes(b"PK\3\4" + bytes(1000)),
        "empty": lambda p: p.write_bytes(b""),
        "a pipe": os.mkfifo,
        "a folder": os.mkdir,
        "itself": lambda p: p.symlink_to(p),
    }.items():
        yield Trial("torch files", what, _load_torch(make), ".")
    good = io.BytesIO()
    torch.save({"w": torch.zeros(100)}, good)
    for i in range(count - 2 * len(holds) - 16):
        content = bytearray(good.getvalue())
        for place in rng.integers(0, len(content), 1 + i % 4):
            content[place] = rng.integers(256)
        yield Trial(
            "torch files", f"damage {i}", _load_torch(lambda p, c=bytes(content): p.write_bytes(c))
        )


def _load_torch(make: Callable[[Path], Any]) -> Callable[[Path], object]:
    def run(folder: Path) -> object:
        make(folder / "model.pt")
        model = eb.load_model(folder / "model.pt", preset="adm-cifar10")
        raise Silent(f"{model} of such a file")

    return run


def _deep(depth: int) -> Any:
    value: Any = {}
    for _ in range(depth):
        value = [value]
    return value


def _laughing() -> Any:
    """Lists of lists of the same lists: a few bytes, and 10^30 things to look at."""
    value: Any = ["lol"]
    for _ in range(30):
        value = [value] * 10
    return value


def _called(module: str, name: str, size: int, times: int = 1) -> bytes:
    """A pickle that calls a function with a number."""
    number = pickle.dumps(size, 2)[2:-1]
    call = f"c{module}\n{name}\n".encode() + number + b"\x85R"
    return b"\x80\x02" + b"".join([call, b"0"] * (times - 1)) + call + b"."


def _pickled(path: Path, content: bytes) -> None:
    """A torch file whose only record is this pickle."""
    good = io.BytesIO()
    torch.save({}, good)
    with zipfile.ZipFile(good) as honest, zipfile.ZipFile(path, "w") as made:
        for name in honest.namelist():
            made.writestr(name, content if name.endswith("data.pkl") else honest.read(name))


def _compressed(path: Path) -> None:
    good = io.BytesIO()
    torch.save({"w": torch.zeros(2**26)}, good)
    with zipfile.ZipFile(good) as honest, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for name in honest.namelist():
            made.writestr(name, honest.read(name))


def _lying(path: Path) -> None:
    _compressed(path)
    claim_less(path, "data/0")


def claim_less(path: Path, name: str, size: int = 100) -> None:
    """Have a zip's directory claim that a member has only so many bytes."""
    with zipfile.ZipFile(path) as archive:
        (info,) = [i for i in archive.infolist() if i.filename.endswith(name)]
        start = archive.start_dir
    content = bytearray(path.read_bytes())
    place = content.index(info.filename.encode(), start)
    for field in (place - 46 + 24, info.header_offset + 22):
        content[field : field + 4] = struct.pack("<I", size)
    path.write_bytes(bytes(content))


def labels(rng: Generator, count: int) -> Iterator[Trial]:
    """`dataset.json` in an archive of images."""
    names = [f"{i}.png" for i in range(16)]
    pairs = [[name, i % 3] for i, name in enumerate(names)]
    listed: list[tuple[str, Any, str]] = [
        ("contradicting", [*pairs, ["3.png", 2]], "."),
        ("contradicting at the start", [["3.png", 2], *pairs], "."),
        ("said twice alike", [*pairs, pairs[3]], ""),
        ("true", [*pairs[:3], ["3.png", True], *pairs[4:]], "."),
        ("a fraction", [*pairs[:3], ["3.png", 0.5], *pairs[4:]], "."),
        ("a whole fraction", [*pairs[:3], ["3.png", 1.0], *pairs[4:]], "."),
        ("of 10^30", [*pairs[:3], ["3.png", 10**30], *pairs[4:]], "."),
        ("below 0", [*pairs[:3], ["3.png", -1], *pairs[4:]], ""),
        ("of a text", [*pairs[:3], ["3.png", "1"], *pairs[4:]], "."),
        ("with more images", [*pairs, ["x.png", 1]], ""),
        ("of fewer images", pairs[:5], "."),
        ("triples", [[*pair, 1] for pair in pairs], "."),
        ("a dictionary", dict(pairs), "."),
    ]
    given = [(w, json.dumps({"labels": p}).encode(), refusal) for w, p, refusal in listed]
    given.append(
        ("two lists", json.dumps({"labels": pairs}).encode()[:-1] + b', "labels": null}', ".")
    )
    for what, content in [
        *texts.odd_bytes(rng, json.dumps({"labels": pairs})),
        *texts.odd_json(rng, {"labels": pairs}, count - 60),
    ]:
        given.append((what, content, ""))
    for what, content, refusal in given:

        def run(folder: Path, content: bytes = content) -> object:
            with zipfile.ZipFile(folder / "a.zip", "w") as made:
                for name in names:
                    made.writestr(name, small())
                made.writestr("dataset.json", content)
            read = eb.load_data(folder / "a.zip")
            order = sorted(names)
            wanted = [dict(map(tuple, pairs))[name] for name in order]
            if read.labels is not None and read.labels.tolist() != wanted:
                told = json.loads(content)["labels"]
                stated = [[p[1] for p in told if p[0] == name] for name in order]
                if any(list(set(map(repr, s))) != [repr(v)] for s, v in
                       zip(stated, read.labels.tolist(), strict=True)):  # fmt: skip
                    raise Silent(f"labels {read.labels.tolist()} of {stated}")
            return read.labels

        yield Trial("labels", what, run, refusal)


def archives(rng: Generator, count: int) -> Iterator[Trial]:
    """Archives whose directory and members contradict each other."""
    giga = 2**30

    def zipped(folder: Path, name: str, member: str, size: int, head: bytes = b"") -> Path:
        path = folder / name
        with (
            zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
            archive.open(member, "w", force_zip64=True) as opened,
        ):
            opened.write(head)
            for _ in range(size // 2**20):
                opened.write(bytes(2**20))
        return path

    def claims(folder: Path, name: str, member: str, head: bytes = b"") -> object:
        path = zipped(folder, name, member, giga, head)
        claim_less(path, member)
        return eb.load_data(path)

    yield Trial("archives", "a picture that claims 100 bytes",
                lambda f: claims(f, "a.zip", "a.png"), ".")  # fmt: skip
    yield Trial("archives", "labels that claim 100 bytes", _lying_labels, ".")
    head = npy_head((4, 4), "|u1")
    yield Trial("archives", "an array that claims 100 bytes",
                lambda f: claims(f, "a.npz", "arr_0.npy", head))  # fmt: skip
    a, b = (np.full((16, 4, 4), v, np.uint8) for v in (1, 2))

    def twice(folder: Path, member: str = "arr_0") -> object:
        with zipfile.ZipFile(folder / "a.npz", "w") as made:
            for value in (a, b):
                buffer = io.BytesIO()
                np.save(buffer, value)
                made.writestr(f"{member}.npy", buffer.getvalue())
        return eb.load_data(folder / "a.npz")

    yield Trial("archives", "two arrays of one name", twice, ".")
    good = io.BytesIO()
    with zipfile.ZipFile(good, "w") as made:
        for i in range(4):
            made.writestr(f"{i}.png", small())
    for i in range(count - 4):
        content = bytearray(good.getvalue())
        # Half of the damage in the directory, where few bytes are pixels.
        start = len(content) // 2 if i % 2 else len(content) - 300
        for place in rng.integers(start, len(content), 1 + i % 4):
            content[place] = rng.integers(256)

        def run(folder: Path, content: bytes = bytes(content)) -> object:
            (folder / "a.zip").write_bytes(content)
            return eb.load_data(folder / "a.zip").images.shape

        yield Trial("archives", f"damage {i}", run)


def _lying_labels(folder: Path) -> object:
    path = folder / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("a.png", small())
        with made.open("dataset.json", "w", force_zip64=True) as member:
            for _ in range(2**10):
                member.write(b" " * 2**20)
    claim_less(path, "dataset.json")
    return eb.load_data(path)


def results(rng: Generator, count: int, honest: Path) -> Iterator[Trial]:
    """`.nc` files that are large, forged at a level or a law, or told by strangers."""
    content = (honest / "honest.nc").read_bytes()

    def sparse(folder: Path, signed: bool) -> object:
        import hashlib

        path, size = folder / "x.nc", 3 * 2**30
        _sparse(path, size)
        if signed:
            digest = hashlib.sha256()
            for _ in range(size // 2**24):
                digest.update(bytes(2**24))
            with open(path, "ab") as file:
                file.write(forgeries.MARK + digest.hexdigest().encode())
        return eb.load(path)

    yield Trial("results", "3 GB of nothing", lambda f: sparse(f, False), ".")
    yield Trial("results", "3 GB of nothing, signed", lambda f: sparse(f, True), ".")
    for what, make in extremes(content, rng, count - 2):

        def run(folder: Path, make: Callable[[], bytes] = make) -> object:
            (folder / "x.nc").write_bytes(make())
            return [
                command(folder, "report", "x.nc", "-o", "page.html"),
                command(folder, "variance-gap", "x.nc"),
                command(folder, "diagnose", "x.nc"),
            ]

        yield Trial("results", what, run)


EXTREME = (0.0, 5e-324, 1e-308, 1e-160, 1e-12, 1e154, 1e160, 1e300, 1e308)


def extremes(content: bytes, rng: Generator, count: int) -> Iterator[forgeries.Forgery]:
    """A level of the run, or the law of the data, at the end of what numbers can be.

    It is changed in the run's description and in every stream alike."""

    def level(step: int, column: int, value: float) -> forgeries.Change:
        def change(file: Any) -> None:
            known = json.loads(file.attrs["provenance"])
            known["run"]["levels"][step][column] = value
            file.attrs["provenance"] = json.dumps(known)
            for stream in ("forward", "chain", "teacher"):
                name = ("timestep", "alpha", "sigma")[column]
                file[stream][name][step] = value

        return change

    def scaled(names: tuple[str, ...], value: float) -> forgeries.Change:
        def change(file: Any) -> None:
            for name in names:
                file[name][...] = np.full(file[name].shape, value)

        return change

    laws = [
        ("data/variance",),
        ("data/mean",),
        ("data/eigenvalue",),
        ("data/variance", "data/eigenvalue"),
        ("chain/state_square", "chain/state_group_square"),
        ("chain/epsilon_norm",),
        ("forward/epsilon_norm",),
        ("data/state_square", "data/state_group_square"),
        ("chain/state_spectrum",),
        ("data/state_spectrum", "data/state_haar"),
    ]
    for _ in range(count):
        value = EXTREME[int(rng.integers(len(EXTREME)))]
        if rng.random() < 0.6:
            step, column = int(rng.integers(4)), int(rng.integers(3))
            what = f"level {step}, {('timestep', 'alpha', 'sigma')[column]} {value:g}"
            yield what, forgeries.changed(content, level(step, column, value))
        else:
            names = laws[int(rng.integers(len(laws)))]
            yield f"{names} {value:g}", forgeries.changed(content, scaled(names, value))
