"""Data where they lie: torch's datasets, objects of a user's own, parquet, shards of webdataset,
and archives of EDM2."""

import gzip
import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import fails
from PIL import Image
from test_data import encoded, pixels, to_image, write_folder, write_zip

import exposure_bias as eb
from exposure_bias.data import Lazy, edm2, hub
from exposure_bias.files.limits import limit_of

IMAGES = pixels()
CLASSES = np.arange(6) % 4
TINY = 6 * 3 * 5 * 7 - 1  # bytes: one less than all of the images take


def same(data: Any, images: Any = IMAGES, labels: Any = CLASSES) -> None:
    """The data are these images, in order, whichever part of them is asked for."""
    assert (len(data), data.shape) == (len(images), images.shape[1:])
    np.testing.assert_array_equal(data.images[np.arange(len(images))], images)
    np.testing.assert_array_equal(data.images[[4, 0, 4]], images[[4, 0, 4]])
    np.testing.assert_array_equal(data.images[1:3], images[1:3])
    expected = images / np.float32(127.5) - 1 if images.dtype == np.uint8 else images
    np.testing.assert_array_equal(data.batch([2, 5]), expected[[2, 5]].astype(np.float32))
    assert (None if labels is None else labels.tolist()) == (
        None if data.labels is None else data.labels.tolist()
    )


# Objects.


class Source:
    """The whole protocol. read: the numbers that were asked for."""

    def __init__(self, states: Any, labels: Any = CLASSES) -> None:
        self.states, self.shape, self.labels, self.name = states, states.shape[1:], labels, "mine"
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.states)

    def batch(self, ids: Any) -> Any:
        self.read += list(ids)
        return self.states[ids]


def test_an_object_with_len_batch_and_shape() -> None:
    source = Source(IMAGES)
    same(eb.load_data(source))
    lazy = eb.load_data(Source(IMAGES), limit=TINY)
    assert isinstance(lazy.images, Lazy)
    assert isinstance(eb.load_data(source).images, np.ndarray)
    same(lazy)
    assert (lazy.name, lazy.hash) == ("mine", eb.load_data(IMAGES).hash)
    before = len(lazy.images.source.read)
    lazy.batch([3, 1])
    assert lazy.images.source.read[before:] == [3, 1]


def test_lazy_data_are_recorded_like_those_in_memory() -> None:
    states = np.random.default_rng(0).uniform(-1, 1, (24, 1, 4, 4)).astype(np.float32)
    model = eb.Denoiser(
        lambda x, t: 0.5 * x,
        schedule=eb.schedules.linear(50),
        prediction_type="epsilon",
        shape=(1, 4, 4),
    )
    held, lazy = (
        eb.record(model, eb.load_data(Source(states, None), limit=limit), steps=3, batch_size=7)
        for limit in (None, 100)
    )
    assert held.run == lazy.run
    for stream in ("data", "forward", "chain"):
        for name in held[stream].data_vars:
            np.testing.assert_array_equal(held[stream][name].values, lazy[stream][name].values)


def test_a_lazy_batch_is_checked_like_an_array() -> None:
    states = np.zeros((6, 1, 3, 4), np.float32)
    states[1] = 0.3

    def lazy(value: float) -> Any:
        changed = states.copy()
        changed[5, 0, 1, 1] = value
        return eb.load_data(Source(changed), limit=10)

    assert lazy(-1.0).batch([5]).min() == -1
    with fails("state 5 of mine holds NaN or infinity"):
        lazy(np.nan).batch([1, 5])
    with fails(r"a state of mine reaches 1.5, allowed is \[-1, 1\]"):
        lazy(1.5).batch([5])
    changed = states * 3
    assert eb.load_data(Source(changed), limit=10, value_range=None).batch([1]).max() > 0.8

    class Odd(Source):
        def batch(self, ids: Any) -> Any:
            return super().batch(ids)[:, :, :2] if 3 in ids else super().batch(ids)

    with fails(r"mine gave float32 of shape \(1, 1, 2, 4\), where float32 of shape \(1, 1, 3, 4\)"):
        eb.load_data(Odd(states), limit=10).batch([3])
    with pytest.warns(UserWarning, match=r"the first state of mine spans 0 to 1.*give 2 \* x - 1"):
        eb.load_data(Source(np.tile([[[[0.0, 1.0]]]], (3, 1, 1, 1)), None))
    with fails("mine holds no states: give at least one"):
        eb.load_data(Source(states[:0]))


class Dataset(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """torch's map-style dataset of whatever `make` makes of an image's number."""

    def __init__(self, make: Callable[[int], Any], count: int = 6) -> None:
        self.make, self.count = make, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> Any:
        if i >= self.count:
            raise IndexError(i)
        return self.make(i)


FLOATS = IMAGES / np.float32(127.5) - 1
SAMPLES: dict[str, tuple[Callable[[int], Any], Any, Any]] = {
    "a tensor": (lambda i: torch.from_numpy(FLOATS[i]), FLOATS, None),
    "an array": (lambda i: IMAGES[i], IMAGES, None),
    "a pair": (lambda i: (torch.from_numpy(FLOATS[i]), int(CLASSES[i])), FLOATS, CLASSES),
    "a pair of tensors": (
        lambda i: (torch.from_numpy(IMAGES[i]), torch.tensor(int(CLASSES[i]))),
        IMAGES,
        CLASSES,
    ),
    "a picture and a class": (lambda i: (to_image(IMAGES[i]), int(CLASSES[i])), IMAGES, CLASSES),
    "a row": (lambda i: {"image": FLOATS[i], "label": int(CLASSES[i])}, FLOATS, CLASSES),
    "a state and a text": (lambda i: (FLOATS[i], "cat"), FLOATS, None),
}


@pytest.mark.parametrize("limit", [None, TINY])
@pytest.mark.parametrize("kind", SAMPLES)
def test_torch_datasets(kind: str, limit: int | None) -> None:
    make, images, labels = SAMPLES[kind]
    data = eb.load_data(Dataset(make), limit=limit)
    assert isinstance(data.images, Lazy) == (limit is not None)
    same(data, images, labels)
    assert data.name == "Dataset"


def test_a_torch_dataset_that_lists_its_classes_and_names_its_columns() -> None:
    listed = Dataset(lambda i: (IMAGES[i], "cat"))
    listed.targets = CLASSES.tolist()
    same(eb.load_data(listed))
    rows = Dataset(lambda i: {"low": IMAGES[i, :1], "high": IMAGES[i], "kind": int(CLASSES[i])})
    same(eb.load_data(rows, column="high", labels="kind"))
    subset = torch.utils.data.Subset(Dataset(lambda i: (IMAGES[i], int(CLASSES[i]))), [5, 1])
    same_as = eb.load_data(subset)
    np.testing.assert_array_equal(same_as.images, IMAGES[[5, 1]])
    assert same_as.labels.tolist() == CLASSES[[5, 1]].tolist()


BAD_ITEMS: dict[str, tuple[Callable[[], Any], dict[str, Any], str]] = {
    "none": (lambda: Dataset(lambda i: IMAGES[i], 0), {}, "Dataset holds no samples"),
    "fails": (
        lambda: Dataset(lambda i: 1 / 0),
        {},
        "cannot read sample 0 of Dataset: division by zero",
    ),
    "unlike": (
        lambda: Dataset(lambda i: IMAGES[i, :, : 5 - i // 4]),
        {},
        r"sample 4 of Dataset is \(3, 4, 7\) where the first is \(3, 5, 7\)",
    ),
    "channels last": (
        lambda: Dataset(lambda i: IMAGES[i].transpose(1, 2, 0)),
        {},
        r"sample 0 of Dataset of shape \(5, 7, 3\) looks channels-last",
    ),
    "a text": (lambda: Dataset(lambda i: "cat"), {}, "cannot read sample 0 of Dataset from a str"),
    "no column": (
        lambda: Dataset(lambda i: {"text": "a"}),
        {},
        "sample 0 of Dataset has no column of images among text: name one with column=",
    ),
    "another column": (
        lambda: Dataset(lambda i: {"image": IMAGES[i]}),
        {"column": "picture"},
        "has no column 'picture': it has image",
    ),
    "labels of no column": (
        lambda: Dataset(lambda i: {"image": IMAGES[i]}),
        {"labels": "kind"},
        "Dataset has no column 'kind': it has image",
    ),
    "labels that are texts": (
        lambda: Dataset(lambda i: {"image": IMAGES[i], "kind": "cat"}),
        {"labels": "kind"},
        "the column 'kind' holds no whole numbers",
    ),
    "a stream": (
        lambda: type("S", (torch.utils.data.IterableDataset,), {"__iter__": iter})(),
        {},
        "S gives its samples one after the other: give a dataset of known length",
    ),
    "a loader": (
        lambda: torch.utils.data.DataLoader(Dataset(lambda i: IMAGES[i])),
        {},
        "a DataLoader is given: give its dataset, loader.dataset",
    ),
    "a transparent picture": (
        lambda: Dataset(lambda i: Image.new("RGBA", (3, 3))),
        {},
        "sample 0 of Dataset has mode RGBA: allowed are 8-bit greyscale",
    ),
    "out of range": (
        lambda: Dataset(lambda i: FLOATS[i] * 3),
        {},
        r"a state of Dataset reaches 3, allowed is \[-1, 1\]",
    ),
    "a configuration": (
        lambda: Dataset(lambda i: IMAGES[i]),
        {"config": "small"},
        "config='small', but Dataset has no columns",
    ),
}


@pytest.mark.parametrize("case", BAD_ITEMS)
def test_bad_datasets(case: str) -> None:
    make, options, message = BAD_ITEMS[case]
    with fails(message) as caught:
        eb.load_data(make(), **options)
    assert len(str(caught.value).splitlines()) == 1


# Shards.


def shard(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def sample(i: int, folder: str = "") -> dict[str, bytes]:
    return {
        f"{folder}{i:04d}.png": encoded(to_image(IMAGES[i])),
        f"{folder}{i:04d}.cls": str(CLASSES[i]).encode(),
        f"{folder}{i:04d}.txt": b"a cat",
    }


def shards(folder: Path) -> Path:
    """Two of three samples each."""
    folder.mkdir(exist_ok=True)
    for k in range(2):
        files = [sample(i, "inside/") for i in range(3 * k, 3 * k + 3)]
        shard(folder / f"data-{k:03d}.tar", {n: c for f in files for n, c in f.items()})
    return folder


@pytest.mark.parametrize("limit", [None, 600])
def test_shards(limit: int | None, tmp_path: Path) -> None:
    folder = shards(tmp_path / "shards")
    whole = eb.load_data(folder, limit=None if limit is None else limit * 8192)
    same(whole)
    braces = eb.load_data(f"{folder}/data-{{000..001}}.tar")
    same(braces)
    assert whole.hash == braces.hash
    assert whole.names == tuple(f"inside/{i:04d}.png" for i in range(6))
    one = eb.load_data(folder / "data-001.tar")
    same(one.fitted((3, 5, 7)), IMAGES[3:], CLASSES[3:]) if len(one) > 4 else None
    assert (len(one), one.name, one.labels.tolist()) == (3, "data-001", CLASSES[3:].tolist())


def test_shards_beyond_the_limit_are_read_where_they_lie(tmp_path: Path) -> None:
    wide = np.random.default_rng(0).integers(0, 256, (40, 3, 64, 64), dtype=np.uint8)
    path = shard(tmp_path / "w.tar", {f"{i}.png": encoded(to_image(wide[i])) for i in range(40)})
    lazy = eb.load_data(path, limit=450_000)
    assert isinstance(lazy.images, Lazy)
    same(lazy, wide, None)


def test_shards_of_arrays(tmp_path: Path) -> None:
    latents = np.random.default_rng(0).normal(0, 2, (6, 4, 6, 6)).astype(np.float32)
    files: dict[str, bytes] = {}
    for i, z in enumerate(latents):
        buffer = io.BytesIO()
        np.save(buffer, z)
        files |= {f"{i}.npy": buffer.getvalue(), f"{i}.json": json.dumps({"label": i}).encode()}
    path = shard(tmp_path / "z.tar", files)
    same(eb.load_data(path, value_range=None), latents, np.arange(6))
    with fails(r"a state of z reaches .* allowed is \[-1, 1\]"):
        eb.load_data(path)


BAD_SHARDS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no pictures": (
        lambda f: shard(f / "a.tar", {"0.txt": b"a", "0.gif": b"b"}),
        "no images in .*a.tar: looked for .png.* which have gif, txt",
    ),
    "empty": (lambda f: shard(f / "a.tar", {}), "no images in .* which have no files"),
    "no tar": (
        lambda f: (f / "a.tar").write_bytes(b"x" * 2000) and f / "a.tar",
        "cannot read .*a.tar as an uncompressed .tar",
    ),
    "compressed": (
        lambda f: (f / "a.tar").write_bytes(gzip.compress(b"y" * 9000)) and f / "a.tar",
        "cannot read .*a.tar as an uncompressed .tar",
    ),
    "cut": (
        lambda f: (f / "a.tar").write_bytes(
            shard(f / "b.tar", sample(0)).read_bytes()[:600]
        ) and f / "a.tar",
        "ends within 0000.png|cannot read .* as an uncompressed .tar",
    ),
    "a class that is none": (
        lambda f: shard(f / "a.tar", sample(0) | {"0000.cls": b"cat"}),
        "0000.cls in .*a.tar holds no class: a whole number is needed",
    ),
    "a missing shard": (
        lambda f: str(shards(f / "s") / "data-{000..003}.tar"),
        r"there is no shard .*data-002.tar \(2 of 4 missing\)",
    ),
    "braces the other way round": (lambda f: str(f / "{3..1}.tar"), "stands for no shards"),
    "twice": (
        lambda f: twice(f / "a.tar"),
        "holds several files called 0000.png: pack it anew",
    ),
    "pictures and arrays": (
        lambda f: shard(f / "a.tar", sample(0) | {"1.npy": b"x"}),
        "a holds pictures and arrays: keep them in shards of their own",
    ),
    "pictures that are unlike": (
        lambda f: shard(
            f / "a.tar", sample(0) | {"1.png": encoded(Image.new("RGB", (9, 9)))}
        ),
        r"image 1 of .*a.tar is \(3, 9, 9\) where the first is \(3, 5, 7\)",
    ),
    "a damaged picture": (
        lambda f: shard(f / "a.tar", {"1.png": b"no picture"}),
        "cannot read .*1.png as an image",
    ),
}  # fmt: skip


def twice(path: Path) -> Path:
    with tarfile.open(path, "w") as archive:
        for _ in range(2):
            content = encoded(to_image(IMAGES[0]))
            member = tarfile.TarInfo("0000.png")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize("case", BAD_SHARDS)
def test_bad_shards(case: str, tmp_path: Path) -> None:
    make, message = BAD_SHARDS[case]
    with fails(message) as caught:
        eb.load_data(make(tmp_path))
    assert len(str(caught.value).splitlines()) == 1


# Tables.


def table(path: Path, columns: dict[str, Any], rows: int = 2, metadata: Any = None) -> Path:
    """rows: in a group."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    made = pyarrow.table(columns)
    if metadata:
        made = made.replace_schema_metadata({"huggingface": json.dumps(metadata)})
    parquet.write_table(made, path, row_group_size=rows)
    return path


def encoded_rows(first: int = 0, last: int = 6, plain: bool = False) -> dict[str, Any]:
    contents = [encoded(to_image(IMAGES[i])) for i in range(first, last)]
    named = [{"bytes": c, "path": f"{i}.png"} for i, c in enumerate(contents)]
    return {
        "image": contents if plain else named,
        "label": CLASSES[first:last].tolist(),
        "text": ["a cat"] * (last - first),
    }


@pytest.mark.parametrize("plain", [False, True])
def test_parquet(plain: bool, tmp_path: Path) -> None:
    path = table(tmp_path / "t.parquet", encoded_rows(plain=plain))
    same(eb.load_data(path))
    whole = tmp_path / "folder"
    whole.mkdir()
    table(whole / "train-0.parquet", encoded_rows(0, 4, plain))
    table(whole / "train-1.parquet", encoded_rows(4, 6, plain))
    same(eb.load_data(whole))
    assert eb.load_data(whole).hash == eb.load_data(path).hash


def test_parquet_beyond_the_limit_is_read_where_it_lies(tmp_path: Path) -> None:
    wide = np.random.default_rng(0).integers(0, 256, (40, 3, 64, 64), dtype=np.uint8)
    rows = {"image": [encoded(to_image(image)) for image in wide]}
    lazy = eb.load_data(table(tmp_path / "w.parquet", rows, 7), limit=450_000)
    assert isinstance(lazy.images, Lazy)
    same(lazy, wide, None)


def test_columns_of_a_table(tmp_path: Path) -> None:
    rows = encoded_rows() | {"other": encoded_rows()["image"], "kind": [7] * 6}
    path = table(tmp_path / "t.parquet", rows)
    with fails("several columns of images, image, other among .* name one with column="):
        eb.load_data(path)
    same(eb.load_data(path, column="other", labels="kind"), labels=np.full(6, 7))
    declared = {"info": {"features": {"kind": {"_type": "ClassLabel"}, "label": {}}}}
    path = table(tmp_path / "d.parquet", rows, metadata=declared)
    same(eb.load_data(path, column="image"), labels=np.full(6, 7))
    numbers = np.random.default_rng(0).normal(0, 0.1, (6, 5)).astype(np.float32)
    path = table(tmp_path / "n.parquet", {"x": list(numbers), "size": [1.5] * 6})
    same(eb.load_data(path), numbers, None)


def test_bad_tables(tmp_path: Path) -> None:
    good = table(tmp_path / "good.parquet", encoded_rows())
    (tmp_path / "bad.parquet").write_bytes(good.read_bytes()[:200])
    for path, options, message in (
        (tmp_path / "bad.parquet", {}, "cannot read .*bad.parquet as a parquet table"),
        (good, {"column": "picture"}, "has no column 'picture': it has image, label, text"),
        (good, {"labels": "kind"}, "has no column 'kind': it has image, label, text"),
        (good, {"labels": "text"}, "the column 'text' holds no whole numbers"),
        (good, {"column": "text"}, "row 0 of 'text' holds .* allowed are pictures, and lists"),
        (good, {"config": "small"}, "config='small', but .* has no columns, folders"),
        (table(tmp_path / "e.parquet", {"image": [], "label": []}), {}, "e has no rows"),
        (
            table(tmp_path / "u.parquet", {"label": [1, 2]}),
            {},
            "no column of images among label: name one with column=",
        ),
        (
            table(tmp_path / "r.parquet", {"x": [[-1.0, 1.0], [1.0]]}),
            {},
            r"row 1 of 'x' is \(1,\) where the first is \(2,\)",
        ),
    ):
        with fails(message) as caught:
            eb.load_data(path, **options)
        assert len(str(caught.value).splitlines()) == 1


def test_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with fails("this needs the library pyarrow.parquet|importing pyarrow.parquet"):
        eb.load_data(tmp_path / "t.parquet")


def test_the_library_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder in the working folder is to it what a repository is; and a table in memory."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    (tmp_path / "org" / "name").mkdir(parents=True)
    features = {
        "image": {"_type": "Image"},
        "label": {"_type": "ClassLabel", "names": list("abcd")},
    }
    rows = {k: v for k, v in encoded_rows().items() if k != "text"}
    for split in ("train", "test"):
        path = tmp_path / "org" / "name" / f"{split}-00000-of-00001.parquet"
        table(path, rows, metadata={"info": {"features": features}})
    data = hub.from_hub("org/name", "train", None, limit_of(None))
    same(data)
    assert (data.split, data.note) == ("train", "org/name, split train")
    held = datasets.Dataset.from_dict(
        {"image": [to_image(image) for image in IMAGES], "label": CLASSES.tolist()}
    ).cast_column("image", datasets.Image())
    same(eb.load_data(held))


# EDM2.


def write_latents(count: int = 5) -> tuple[dict[str, bytes], np.ndarray, np.ndarray]:
    """Its archive as files, and the means and standard deviations in it."""
    rng = np.random.default_rng(0)
    mean = rng.normal(0, 4, (count, 4, 6, 6)).astype(np.float32)
    std = rng.uniform(0.1, 0.2, mean.shape).astype(np.float32)
    files = {}
    for i in range(count):
        buffer = io.BytesIO()
        np.save(buffer, np.concatenate([mean[i], std[i]]))
        files[f"{i // 4:05d}/img-mean-std-{i:08d}.npy"] = buffer.getvalue()
    listing = {"labels": [[name, i % 3] for i, name in enumerate(files)]}
    return files | {"dataset.json": json.dumps(listing).encode()}, mean, std


@pytest.mark.parametrize("packed", [False, True])
def test_latents_of_edm2(packed: bool, tmp_path: Path) -> None:
    files, mean, std = write_latents()
    if packed:
        where = write_zip(tmp_path / "latents.zip", files)
    else:
        where = tmp_path / "latents"
        for name, content in files.items():
            (where / name).parent.mkdir(parents=True, exist_ok=True)
            (where / name).write_bytes(content)
    data = eb.load_data(where)
    assert (data.shape, data.value_range, data.name) == ((4, 6, 6), None, "latents")
    assert data.labels.tolist() == [0, 1, 2, 0, 1]
    assert data.note == edm2.NOTE
    raw = data.images * 2 * edm2.STD[:, None, None] + edm2.MEAN[:, None, None]
    draws = (raw - mean) / std
    # 720 standard normal numbers: five standard deviations of their mean and standard deviation
    assert abs(draws.mean()) < 0.19
    assert abs(draws.std() - 1) < 0.14
    np.testing.assert_array_equal(eb.load_data(where).images, data.images)


def test_bad_latents_of_edm2(tmp_path: Path) -> None:
    files, _, _ = write_latents(2)
    first = next(iter(files))

    def saved(array: Any) -> bytes:
        buffer = io.BytesIO()
        np.save(buffer, array)
        return buffer.getvalue()

    for content, message in (
        (
            saved(np.zeros((4, 6, 6), np.float32)),
            r"holds float32 of shape \(4, 6, 6\): allowed are",
        ),
        (saved(np.zeros((8, 3, 3), np.float32)), r"is \(8, 6, 6\) where the first is \(8, 3, 3\)"),
        (saved(np.full((8, 6, 6), np.nan, np.float32)), "hold NaN or infinity: encode them again"),
        (b"no array", "cannot read .*img-mean-std-00000000.npy as an .npy array"),
    ):
        with fails(message):
            eb.load_data(write_zip(tmp_path / "z.zip", files | {first: content}))
    with fails("would take .* are allowed for that"):
        eb.load_data(write_zip(tmp_path / "z.zip", files), limit=10_000)


# Folders.


def test_orientation_is_applied_and_said(tmp_path: Path) -> None:
    upright = np.random.default_rng(1).integers(0, 256, (3, 5, 7), dtype=np.uint8)
    exif = Image.Exif()
    for orientation, stored in (
        (1, upright),
        (3, upright[:, ::-1, ::-1]),
        (6, np.rot90(upright, 1, (1, 2))),
        (8, np.rot90(upright, -1, (1, 2))),
    ):
        exif[0x0112] = orientation
        folder = tmp_path / str(orientation)
        folder.mkdir()
        to_image(np.ascontiguousarray(stored)).save(folder / "a.png", exif=exif)
        data = eb.load_data(folder)
        np.testing.assert_array_equal(data.images[0], upright)
        assert ("EXIF" in data.note) == (orientation != 1)
    # Another library's pictures are turned as well.
    content = (folder / "a.png").read_bytes()
    data = eb.load_data(Dataset(lambda i: Image.open(io.BytesIO(content)), 2))
    np.testing.assert_array_equal(data.images[0], upright)
    assert "EXIF" in data.note


def classes(folder: Path) -> Path:
    for i, image in enumerate(IMAGES):
        place = folder / ("dog", "cat", "ape")[i % 3]
        place.mkdir(parents=True, exist_ok=True)
        to_image(image).save(place / f"{i}.png")
    return folder


def test_top_folders_are_classes_where_that_is_asked_for(tmp_path: Path) -> None:
    folder = classes(tmp_path / "kinds")
    plain, named = eb.load_data(folder), eb.load_data(folder, labels="folders")
    assert plain.labels is None
    said = "images lie in 3 top folders (ape, cat, dog), which are not read as labels"
    assert (plain.note, named.note) == (said, "")
    assert plain.folders == named.folders == ("ape", "cat", "dog")
    assert named.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert named.names[0] == "ape/2.png"
    assert eb.load_data(write_folder(tmp_path / "numbered", IMAGES)).folders == ()
    with zipfile.ZipFile(tmp_path / "kinds.zip", "w") as archive:
        for path in sorted(folder.rglob("*.png")):
            archive.write(path, path.relative_to(folder))
    packed = eb.load_data(tmp_path / "kinds.zip", labels="folders")
    assert packed.labels.tolist() == named.labels.tolist()
    model = eb.Denoiser(
        lambda x, t, labels: x,
        schedule=eb.schedules.linear(50),
        prediction_type="epsilon",
        shape=(3, 5, 7),
        classes=3,
    )
    with fails(
        r"class-conditional, but no labels are given: .* or, since kinds lies in 3 top folders"
        r" \(ape, cat, dog\), labels='folders'"
    ):
        eb.record(model, plain, steps=2)
    eb.record(model, named, steps=2, n=6)
    with fails("labels='folders', but the images of .* do not lie in folders of several names"):
        eb.load_data(folder / "ape", labels="folders")
    with fails("labels='kind', but .* has no columns: give 'folders'"):
        eb.load_data(folder, labels="kind")


def test_train_and_test_in_one_folder_are_said(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_folder(tmp_path / "both" / split, IMAGES)
    with pytest.warns(
        UserWarning, match=r"both holds test/, train/, whose images are read together: .*both/train"
    ) as caught:
        assert len(eb.load_data(tmp_path / "both")) == 12
    assert caught[0].filename == __file__
    assert len(eb.load_data(tmp_path / "both" / "test")) == 6


def test_a_folder_of_edms_images_has_its_classes(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "edm", IMAGES)
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.png"))
    listing = {"labels": [[name, i] for i, name in enumerate(names)]}
    (folder / "dataset.json").write_text(json.dumps(listing))
    assert eb.load_data(folder).labels.tolist() == list(range(6))


def test_bytes_of_0_and_1_are_said() -> None:
    x = np.random.default_rng(0).integers(0, 2, (4, 1, 3, 3), dtype=np.uint8)
    with pytest.warns(UserWarning, match=r"nothing but 0 and 1, .* give 255 \* x"):
        eb.load_data(x)
    eb.load_data(255 * x)
    eb.load_data(0 * x)
