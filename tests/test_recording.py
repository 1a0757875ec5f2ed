"""Recordings on disk: any netCDF tool reads them, this package reads nothing else."""

import gzip
import hashlib
import os
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr

import exposure_bias as eb
from exposure_bias import files
from exposure_bias.files import netcdf

sys.path.insert(0, str(Path(__file__).parent / "fuzz"))
import forgeries

SCHEDULE = eb.schedules.linear(1000)


def recorded(shape: tuple[int, ...], **options: object) -> eb.Recording:
    rows = np.random.default_rng(0).normal(0, 0.4, (16, *shape)).astype(np.float32)
    oracle = eb.oracles.GaussianOracle(np.zeros(shape), 0.2, SCHEDULE)
    return eb.record(oracle, eb.load_data(rows, value_range=None), steps=2, **options)


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small recording's file."""
    path = tmp_path_factory.mktemp("honest") / "run.nc"
    recorded((1, 2, 2)).save(path)
    return path.read_bytes()


@pytest.mark.parametrize("shape", [(5,), (2, 4), (3, 4, 5), (2, 3, 4, 4)])
def test_what_is_saved_is_loaded_and_xarray_reads_the_same(
    shape: tuple[int, ...], tmp_path: Path
) -> None:
    streams = ("forward", "chain", "teacher")
    spectra = {3: ("hann", "luma")}.get(len(shape), ())
    recording = recorded(shape, streams=streams, spectra=spectra)
    recording.save(tmp_path / "run.nc")
    again = eb.load(tmp_path / "run.nc")
    tree = xr.open_datatree(tmp_path / "run.nc", engine="h5netcdf")
    for name, stream in recording.streams.items():
        types = {k: v.dtype for k, v in stream.variables.items()}
        assert {k: v.dtype for k, v in again[name].variables.items()} == types
        plain = tree[name].to_dataset(inherit=False).load()
        for variable in plain.variables.values():
            variable.attrs.pop("dtype", None)  # halves are singles on disk, and say so
        for read in (again[name], plain):
            xr.testing.assert_identical(read, stream)
            assert set(read.coords) == set(stream.coords)
    assert again.provenance == recording.provenance
    tree.close()


def test_every_kind_of_variable_and_attribute(tmp_path: Path) -> None:
    """Beside xarray's own reader, which is another implementation of the same conventions."""
    dataset = xr.Dataset(
        {
            "flags": ("x", np.array([True, False, True])),
            "words": (("x", "y"), np.array([["a", "b"], ["ä", ""], ["c", "d"]])),
            "halves": ("y", np.array([0.5, np.nan], np.float16)),
            "scalar": ((), 3.5),
            "small": ("y", np.arange(2, dtype=np.int8), {"units": "dB", "list": [1, 2, 3]}),
            "single": ("x", np.arange(3, dtype=np.float32), {"constant": 1, "names": ["a", "b"]}),
        },
        {"x": [1.5, 2.5, 3.5], "label": ("y", ["p", "q"]), "alone": 7},
        {"sentence": "two\nlines", "number": 0.5},
    )
    files.write_tree(tmp_path / "a.nc", xr.DataTree(dataset), {"kind": "test"})
    assert files.read_dataset(tmp_path / "a.nc", "test").identical(dataset)
    with xr.open_dataset(tmp_path / "a.nc", engine="h5netcdf") as read:
        single = dataset.assign(halves=dataset["halves"].astype(np.float32))
        xr.testing.assert_identical(read.drop_attrs(), single.drop_attrs())
        assert read["label"].attrs == {}
        assert "label" in read.coords


def test_the_netcdf_library_reads_it(tmp_path: Path) -> None:
    library = pytest.importorskip("netCDF4")
    recording = recorded((1, 4, 4))
    recording.save(tmp_path / "run.nc")
    with library.Dataset(tmp_path / "run.nc") as file:
        chain = file["chain"]
        assert chain["state_sum"].dimensions == ("step", "channel", "y", "x")
        np.testing.assert_array_equal(chain["state_sum"][:], recording["chain"]["state_sum"])
        assert chain["band"][:].tolist() == ["LL", "LH", "HL", "HH"]


def test_a_recording_of_schema_2(tmp_path: Path) -> None:
    """Written by version 0.1.0, with the values that it printed."""
    path = tmp_path / "old.nc"
    packed = Path(__file__).parent / "files" / "schema-2.nc.gz"
    path.write_bytes(gzip.decompress(packed.read_bytes()))
    recording = eb.load(path)
    assert recording.n == 32
    assert float(eb.variance_gap(recording)["gap"][-1]) == pytest.approx(-0.947380757, rel=1e-9)
    assert float(eb.spectrum(recording)["hf"]) == pytest.approx(-9.4760011, rel=1e-7)
    ratio = float(eb.epsilon_norm(recording)["ratio"][0])
    assert ratio == pytest.approx(0.98378087, rel=1e-7)
    recording.save(tmp_path / "new.nc")
    again = eb.load(tmp_path / "new.nc")
    for name in recording.streams:
        xr.testing.assert_identical(again[name], recording[name])


def refused(content: bytes, path: Path) -> str:
    """The one line with which a file is refused."""
    path.write_bytes(content)
    with pytest.raises(eb.InputError) as caught:
        eb.load(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_nothing_outside_the_file_is_read(
    honest: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    monkeypatch.setattr(netcdf, "_values", lambda *given: opened.append(given))
    for name, make in forgeries.structures(honest):
        if " at " not in name or name.endswith(("chain/count", "chain/unknown")):
            assert refused(make(), tmp_path / "forged.nc"), name
    assert not opened  # all of it is seen before a value is read


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("external storage", "not stored whole in the file"),
        ("virtual", "not stored whole"),
        ("soft link", "a link to somewhere else"),
        ("external link", "a link to somewhere else"),
        ("unallocated 3 GB", "values of count are not in the file"),
        ("group in itself", "groups in it"),
        ("compound", "neither numbers nor texts"),
    ],
)
def test_refusals_say_what_they_found(
    honest: bytes, tmp_path: Path, kind: str, message: str
) -> None:
    make = dict(forgeries.structures(honest))[f"{kind} at chain/count"]
    with pytest.raises(eb.InputError, match=message):
        eb.load(write(tmp_path / "forged.nc", make()))


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("name", "number", "message"),
    [
        ("chain/count", 2.0, "count is not that of its samples"),
        ("chain/sample", 5, "different samples"),
        ("data/image", 99, "different samples|images that its data do not have"),
        ("forward/alpha", 0.5, "alpha is not that of its run"),
        ("chain/step", 1, "steps are not those of its run"),
        ("chain/state_square", -1.0, "negative"),
        ("chain/state_sum", np.nan, "NaN"),
        ("chain/state_sum", 1e3, "more than its squares allow"),
        ("forward/state_projection_sum", -1e300, "more than its squares allow"),
        ("chain/pixel", 7, "no places"),
        ("data/eigenvalue", np.inf, "infinity"),
    ],
)
def test_values_that_contradict_each_other(
    honest: bytes, tmp_path: Path, name: str, number: float, message: str
) -> None:
    forged = forgeries.changed(honest, forgeries._set(name, number))()
    with pytest.raises(eb.InputError, match=message):
        eb.load(write(tmp_path / "forged.nc", forged))


def test_more_values_than_the_file_has_bytes() -> None:
    """Many names for one large variable."""

    def change(file: h5py.File) -> None:
        for i in range(100):
            file[f"large{i}"] = file["large"]

    content = netcdf.packed({"": xr.Dataset({"large": ("x", np.zeros(1000))})})
    assert netcdf.Stored(content).headers[""]["large"].shape == (1000,)
    forged = forgeries.changed(forgeries.signed(content), change)()
    with pytest.raises(eb.InputError, match=r"more bytes than the file has"):
        netcdf.Stored(forged[: -forgeries.TRAILER])


def test_devices_and_pipes_are_no_recordings(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.nc")
    (tmp_path / "zero.nc").symlink_to("/dev/zero")
    for name in ("pipe.nc", "zero.nc"):
        with pytest.raises(eb.InputError, match="a device or a pipe"):
            eb.load(tmp_path / name)
    for name in ("none.nc", "a\0b.nc", "x" * 300):
        with pytest.raises(eb.InputError, match="cannot read"):
            eb.load(tmp_path / name)


def test_a_flipped_byte_is_seen(honest: bytes, tmp_path: Path) -> None:
    for place in (8, len(honest) // 2, len(honest) - 30):
        copy = bytearray(honest)
        copy[place] ^= 1
        assert refused(bytes(copy), tmp_path / "flipped.nc")
    body = honest[: -forgeries.TRAILER]
    assert hashlib.sha256(body).hexdigest().encode() == honest[-64:]


DIAGNOSTICS = (eb.variance_gap, eb.spectrum, eb.epsilon_norm, eb.state_error, eb.denoising_check)


def test_forged_recordings_are_refused_or_harmless(honest: bytes, tmp_path: Path) -> None:
    """A seeded few of the thousands that `make fuzz` tries: one line, or every diagnostic goes on
    to a result or one line."""
    for name, make in forgeries.everything(honest, damages=500, seed=1)[:40]:
        try:
            forgeries.tried(make(), tmp_path, eb.load, DIAGNOSTICS)
        except Exception as error:
            pytest.fail(f"{name}: {error!r}")


def test_a_heap_without_an_end_is_refused(honest: bytes, tmp_path: Path) -> None:
    """HDF5 itself walks over free space of no size for ever; found by damaging files at random."""
    content = bytearray(honest[: -forgeries.TRAILER])
    start = content.index(b"GCOL") + 16
    content[start : start + 2], content[start + 8 : start + 16] = bytes(2), bytes(8)
    path = tmp_path / "r.nc"
    path.write_bytes(forgeries.signed(bytes(content)))
    with pytest.raises(eb.InputError, match="without an end"):
        eb.load(path)
