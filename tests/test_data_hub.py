"""Datasets by name of the hub, from a stand-in for the library `datasets`, and from the library."""

import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from networks import fails
from PIL import Image

import exposure_bias as eb
from exposure_bias.data import hub


class ImageColumn:
    """A stand-in for a feature of `datasets`."""


class ClassColumn:
    """The same, of classes."""


class Rows(list):  # type: ignore[type-arg]
    """A split on disk: rows by number, columns by name. features: what the dataset says its columns
    are, if it does."""

    features: Any = None

    def __getitem__(self, key: Any) -> Any:
        return [row[key] for row in self] if isinstance(key, str) else super().__getitem__(key)

    def select(self, places: Any) -> "Rows":
        return Rows([self[i] for i in places])


class Stream:
    """A split that stays where it is: its rows in order, and nothing else."""

    def __init__(self, rows: Rows) -> None:
        self._rows, self.features = rows, rows.features

    def __iter__(self) -> Iterator[Any]:
        return iter(list(self._rows))


def picture(i: int, mode: str = "L", size: tuple[int, int] = (4, 3)) -> Image.Image:
    depth = {"L": (), "RGB": (3,), "RGBA": (4,)}[mode]
    return Image.fromarray(np.full((size[1], size[0], *depth), i, np.uint8))


def rows(count: int = 6, mode: str = "L", **odd: Any) -> Rows:
    made = Rows([{"image": picture(i, mode), "label": i % 3, "text": "cat"} for i in range(count)])
    if odd:
        made[4]["image"] = odd["image"]
    made.features = {"image": ImageColumn(), "label": ClassColumn()}
    return made


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A `datasets` that serves what a test lays into it."""
    library: Any = ModuleType("datasets")
    library.__version__ = "5.2.0"
    library.ClassLabel = ClassColumn
    library.splits = {"train": rows(), "test": rows(3)}
    library.size, library.streamed, library.asked = 1000, False, []

    def load_dataset(repo: str, config: str | None, *, split: str, streaming: bool) -> Any:
        library.asked.append((repo, config, split))
        library.streamed = streaming
        return Stream(library.splits[split]) if streaming else library.splits[split]

    def load_dataset_builder(repo: str, config: str | None) -> Any:
        if repo == "org/broken":
            raise ValueError("Couldn't find it\nanywhere")
        return SimpleNamespace(info=SimpleNamespace(download_size=library.size))

    library.load_dataset, library.load_dataset_builder = load_dataset, load_dataset_builder
    library.get_dataset_split_names = lambda repo, config: list(library.splits)
    monkeypatch.setitem(sys.modules, "datasets", library)
    return library


def test_images_of_a_dataset(stand_in: Any) -> None:
    data = eb.load_data("org/data")
    assert stand_in.asked == [("org/data", None, "test")]
    assert (data.name, data.split, data.note) == ("org/data", "test", "org/data, split test")
    assert (data.images.shape, data.images.dtype) == ((3, 1, 3, 4), np.uint8)
    assert data.images[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert data.labels.tolist() == [0, 1, 2]
    for name, split in (("org/data:train", None), ("org/data", "train")):
        data = eb.load_data(name, split, config="small")
        assert stand_in.asked[-1] == ("org/data", "small", "train")
        assert (len(data), data.split) == (6, "train")
    stand_in.splits = {"train": rows(4, "RGB"), "other": rows(2)}
    assert eb.load_data("org/data").shape == (3, 3, 4)


def test_columns_are_found_or_named(stand_in: Any) -> None:
    for row in stand_in.splits["test"]:
        row["left"] = row["image"]
    with fails("org/data has several columns of images, image, left: name one with column="):
        eb.load_data("org/data")
    data = eb.load_data("org/data", column="left")
    assert (len(data), data.labels.tolist()) == (3, [0, 1, 2])
    for features in (
        None,
        {"label": ClassColumn(), "kind": ClassColumn()},
    ):  # unknown, or not the only one
        stand_in.splits["test"].features = features
        assert eb.load_data("org/data", column="left").labels is None
    data = eb.load_data("org/data", column="image", labels="label")
    assert data.labels.tolist() == [0, 1, 2]
    for options, message in (
        ({"column": "right"}, "has no column 'right': it has image, label, text, left"),
        ({"column": "text"}, "cannot read sample 0 of org/data from a str"),
        (
            {"column": "image", "labels": "kind"},
            "has no column 'kind': it has image, label, text, left",
        ),
    ):
        with fails(message):
            eb.load_data("org/data", **options)
    for row in stand_in.splits["test"]:
        del row["image"], row["left"]
    with fails("has no column of images among label, text"):
        eb.load_data("org/data")


def test_a_dataset_that_does_not_say_its_size(
    stand_in: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import HfApi

    stand_in.size = None
    for size, streamed in ((10, False), (3 * 2**30, True)):
        info = SimpleNamespace(siblings=[SimpleNamespace(size=size), SimpleNamespace(size=None)])
        monkeypatch.setattr(
            HfApi, "dataset_info", lambda self, repo, files_metadata, info=info: info
        )
        eb.load_data("org/data:train")
        assert stand_in.streamed == streamed


def test_many_images_stay_on_disk(stand_in: Any) -> None:
    data = eb.load_data("org/data:train", limit=40)
    assert isinstance(data.images, eb.data.Lazy)
    assert (len(data), data.images.shape, data.images.dtype) == (6, (6, 1, 3, 4), np.uint8)
    assert data.images[[4, 1]][:, 0, 0, 0].tolist() == [4, 1]
    assert data.images[3].shape == (1, 3, 4)
    assert data.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert data.hash == eb.load_data("org/data:train").hash
    assert not stand_in.streamed


def test_large_datasets_are_streamed(stand_in: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in.size = 3 * 2**30
    data = eb.load_data("org/data:train", limit=40)
    assert (stand_in.streamed, len(data), len(data.labels)) == (True, 3, 3)
    assert data.note == "org/data, split train, its first 3 images"
    monkeypatch.setattr(hub, "STREAMED", 4)
    assert eb.load_data("org/data:train").note == "org/data, split train, its first 4 images"


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("image", "message"),
    [
        (picture(0, "RGBA"), "sample 4 of org/data has mode RGBA: allowed are 8-bit greyscale"),
        (picture(0, "RGB"), r"sample 4 of org/data is \(3, 3, 4\) where the first is \(1, 3, 4\)"),
        (picture(0, "L", (5, 5)), r"sample 4 of org/data is \(1, 5, 5\) where the first"),
        ("none", "cannot read sample 4 of org/data from a str"),
    ],
)
def test_images_that_are_not_alike(
    image: Any, message: str, streaming: bool, stand_in: Any
) -> None:
    stand_in.splits["train"] = rows(image=image)
    stand_in.size = 3 * 2**30 if streaming else 0
    with fails(message):
        eb.load_data("org/data:train")


def test_datasets_that_cannot_be_had(stand_in: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in.splits["empty"] = rows(0)
    for name, options, message in (
        (
            "org/data:train",
            {"split": "test"},
            "org/data:train and split='test' name two splits: leave one of them out",
        ),
        ("org/data:nope", {}, "org/data has no split 'nope': it has train, test, empty"),
        ("org/data:empty", {}, "org/data holds no images in its split empty"),
        ("org/data:train", {"labels": "text"}, "the column 'text' holds no whole numbers"),
        ("org/broken", {}, "cannot load the dataset org/broken: Couldn't find it anywhere"),
    ):
        with fails(message) as caught:
            eb.load_data(name, **options)
        assert len(str(caught.value).splitlines()) == 1
    stand_in.__version__ = "3.6.0"
    with fails("datasets 3.6.0 may run a repository's code: pip install -U 'datasets>=4'"):
        eb.load_data("org/data")
    monkeypatch.delitem(sys.modules, "datasets")
    monkeypatch.setattr(sys, "path", [])
    with fails("this needs the library datasets: install it with pip install 'datasets>=4'"):
        eb.load_data("org/data")
