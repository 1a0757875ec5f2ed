"""Every source gives the same images, every bad input one clear line."""

import io
import json
import pickle
import struct
import subprocess
import sys
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

from exposure_bias.data import Data, load_data
from exposure_bias.data.bundled import FASHION
from exposure_bias.errors import InputError
from exposure_bias.files.limits import limit_of

sys.path.insert(0, str(Path(__file__).parent / "fuzz"))
import attacks

SMALL = 2**21
SHARED = Path(__file__).parents[2] / "shared" / "data"


def pixels(n: int = 6, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Random uint8 (n, channels, 5, 7): no two sides alike, so that a swapped axis shows."""
    return np.random.default_rng(seed).integers(0, 256, (n, channels, 5, 7), dtype=np.uint8)


def to_image(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))


def encoded(image: Image.Image, suffix: str = ".png", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, Image.registered_extensions()[suffix], **options)
    return buffer.getvalue()


def write_folder(folder: Path, images: np.ndarray) -> Path:
    for i, image in enumerate(images):
        file = folder / f"{i // 4:05d}" / f"img{i:08d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        to_image(image).save(file)
    return folder


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_npz(path: Path, *arrays: object, **named: object) -> Path:
    np.savez(path, *arrays, **named)
    return path


@contextmanager
def fails(*words: str) -> Iterator[None]:
    """Expects InputError, in one line, with every one of `words`."""
    with pytest.raises(InputError) as caught:
        yield
    message = str(caught.value)
    assert "\n" not in message
    assert [word for word in words if word not in message] == [], message


def test_digits_against_sklearn() -> None:
    whole = load_digits()
    order = np.random.default_rng(0).permutation(1797)
    expected = {"test": np.sort(order[:512]), "train": np.sort(order[512:])}
    assert len(expected["train"]) == 1285
    for split, ids in expected.items():
        data = load_data("digits", split)
        assert (len(data), data.shape, data.split, data.name) == (
            len(ids),
            (1, 8, 8),
            split,
            "digits",
        )
        batch = data.batch(np.arange(len(data)))
        assert batch.dtype == np.float32
        np.testing.assert_array_equal(batch[:, 0] * 8 + 8, whole.images[ids])
        np.testing.assert_array_equal(data.labels, whole.target[ids])
        assert data.labels.dtype == np.int64
    assert (
        load_data("digits").hash
        == load_data("digits", "test").hash
        != load_data("digits", "train").hash
    )


def test_patches_tile_their_side_of_each_photograph() -> None:
    photos = np.stack(load_sample_images().images)
    train, test = load_data("patches", "train"), load_data("patches", "test")
    assert (len(train), len(test), train.shape, test.shape) == (1560, 520, (3, 16, 16), (3, 16, 16))
    assert train.images.dtype == np.uint8
    assert "JPEG" in train.note
    for data, left, columns in ((train, 0, 30), (test, 480, 10)):
        where = [
            (p, 16 * r, left + 16 * c) for p in range(2) for r in range(26) for c in range(columns)
        ]
        assert max(x for _, _, x in where) + 16 == left + 16 * columns
        for image, (p, y, x) in zip(data.images, where, strict=True):
            np.testing.assert_array_equal(
                image, photos[p, y : y + 16, x : x + 16].transpose(2, 0, 1)
            )
    assert load_data("patches").hash == test.hash


def test_clothes_are_those_of_fashion_mnist() -> None:
    """Averages of 2×2 blocks, of distinct images, with their classes and their licence."""
    train, test = load_data("fashion", "train"), load_data("fashion", "test")
    assert train.shape == test.shape == (1, 14, 14)
    assert len(train) == len(test) == 2000
    assert load_data("fashion").hash == test.hash
    for data in (train, test):
        assert len(np.unique(data.images.reshape(2000, -1), axis=0)) > 1990
        assert np.bincount(data.labels).min() > 150
    assert "Zalando" in (FASHION.parent / "LICENSE").read_text()
    archive = SHARED / "fashion-mnist-test.zip"
    if not archive.exists():
        pytest.skip("Fashion-MNIST is not here")
    with zipfile.ZipFile(archive) as opened:
        names = sorted(name for name in opened.namelist() if name.endswith(".png"))
        whole = np.stack([np.array(Image.open(opened.open(name))) for name in names[:400]])
    blocks = whole.reshape(-1, 14, 2, 14, 2).mean((2, 4))
    ours = {image.tobytes() for image in test.images[:, 0]}
    found = sum(np.rint(block).astype(np.uint8).tobytes() in ours for block in blocks)
    assert 40 < found < 130  # a fifth of them


@pytest.mark.parametrize("channels", [1, 3])
def test_every_source_gives_the_same_images(tmp_path: Path, channels: int) -> None:
    images = pixels(channels=channels)
    folder = write_folder(tmp_path / "images", images)
    names = {p: p.relative_to(folder).as_posix() for p in folder.rglob("*.png")}
    archive = write_zip(
        tmp_path / "images.zip", {name: p.read_bytes() for p, name in sorted(names.items())[::-1]}
    )
    npz = write_npz(tmp_path / "images.npz", images.transpose(0, 2, 3, 1))
    as_float = images.astype(np.float64) * 2 / 255 - 1
    sources = [
        folder,
        str(folder),
        archive,
        npz,
        images,
        as_float,
        torch.tensor(images),
        torch.tensor(as_float),
    ]
    if channels == 1:
        sources.append(images[:, 0])
    for source in sources:
        data = load_data(source)
        assert (len(data), data.shape, data.split, data.labels) == (6, (channels, 5, 7), None, None)
        assert data.hash == load_data(images).hash
        batch = data.batch([4, 0, 4])
        assert (batch.dtype, batch.shape) == (np.float32, (3, channels, 5, 7))
        np.testing.assert_allclose(batch, as_float[[4, 0, 4]], rtol=0, atol=2e-7)
    assert {load_data(source).name for source in (folder, archive, npz)} == {"images"}
    assert load_data(archive).images.dtype == load_data(npz).images.dtype == np.uint8


def test_8_bit_values_map_onto_the_whole_range() -> None:
    every_value = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    np.testing.assert_allclose(
        load_data(every_value).batch([0]).ravel(), np.linspace(-1, 1, 256), rtol=0, atol=1e-7
    )


def test_tensors_of_any_float_type_with_gradient() -> None:
    tensor = torch.linspace(-1, 1, 2 * 5 * 7).reshape(2, 1, 5, 7)
    for dtype, tolerance in ((torch.float64, 1e-7), (torch.float16, 1e-3), (torch.bfloat16, 1e-2)):
        batch = load_data(tensor.to(dtype).requires_grad_()).batch([0, 1])
        assert batch.dtype == np.float32
        np.testing.assert_allclose(batch, tensor.numpy(), rtol=0, atol=tolerance)


def test_a_batch_is_a_copy() -> None:
    data = load_data(np.zeros((2, 1, 5, 7), np.float32))
    data.batch([0])[:] = 1
    assert not data.batch([0]).any()


def test_data_passes_through() -> None:
    data = load_data("digits", "train")
    assert load_data(data) is data
    assert load_data(data, "train") is data
    with fails("split", "'test'", "leave split out"):
        load_data(data, "test")


@given(st.integers(0, 5), st.integers(0, 2), st.integers(0, 4), st.integers(0, 6))
def test_hash_sees_every_pixel(i: int, c: int, y: int, x: int) -> None:
    images = pixels()
    changed = images.copy()
    changed[i, c, y, x] ^= 1
    as_float = (images / 127.5 - 1).astype(np.float32)
    nudged = as_float.copy()
    nudged[i, c, y, x] += 1e-5 if nudged[i, c, y, x] < 0 else -1e-5
    hashes = [load_data(array).hash for array in (images, as_float, changed, nudged)]
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3


def test_hash_sees_order_shape_and_the_last_chunk() -> None:
    images = pixels(n=150)
    variants = [
        images,
        images[::-1],
        images[:-1],
        images[:128],
        images.reshape(150, 3, 7, 5),
        images.reshape(450, 1, 5, 7),
    ]
    assert len({load_data(v).hash for v in variants}) == len(variants)
    assert all(len(load_data(v).hash) == 16 and int(load_data(v).hash, 16) >= 0 for v in variants)


def test_hash_ignores_signed_zero_and_labels() -> None:
    zero = np.zeros((1, 1, 5, 7), np.float32)
    assert (
        load_data(zero).hash == load_data(-zero).hash == Data(zero, "x", labels=np.array([3])).hash
    )


def test_value_range_none_opts_out() -> None:
    latents = np.random.default_rng(0).normal(0, 5, (4, 2, 1, 1))
    data = load_data(latents, value_range=None)
    assert (data.value_range, data.shape) == (None, (2, 1, 1))
    np.testing.assert_array_equal(data.batch(range(4)), latents.astype(np.float32))
    assert load_data(pixels(), value_range=None).value_range == (-1, 1)


def test_round_off_at_the_end_of_the_range_is_no_error() -> None:
    load_data(np.full((1, 1, 5, 7), np.nextafter(np.float32(1), np.float32(2))))


def test_labels(tmp_path: Path) -> None:
    images = pixels(n=3)
    pngs = {f"00000/img{i}.png": encoded(to_image(images[i])) for i in range(3)}
    listing = [[name, label] for name, label in zip(pngs, (7, 5, 9), strict=True)]
    for content, expected in (
        ({"labels": listing[::-1]}, [7, 5, 9]),
        ({"labels": None}, None),
        (None, None),
    ):
        archive = write_zip(
            tmp_path / "l.zip", {**pngs, "dataset.json": json.dumps(content).encode()}
        )
        labels = load_data(archive).labels
        assert (None if labels is None else labels.tolist()) == expected
    data = load_data(
        write_npz(tmp_path / "l.npz", images.transpose(0, 2, 3, 1), np.array([7, 5, 9], np.int32))
    )
    assert (data.labels.tolist(), data.labels.dtype) == ([7, 5, 9], np.int64)


@pytest.mark.parametrize(
    "content",
    [
        *({"labels": [["img0.png", 1]]}, {"labels": [["img1.png", [0, 1]]]}, {"labels": 3}, [1]),
        *({"labels": [["img1.png", True]]}, {"labels": [["img1.png", 1.0]]}),
    ],
)
def test_bad_labels_in_a_zip(tmp_path: Path, content: object) -> None:
    png = encoded(to_image(pixels()[0]))
    archive = write_zip(
        tmp_path / "l.zip", {"img1.png": png, "dataset.json": json.dumps(content).encode()}
    )
    with fails("dataset.json", "l.zip", "[[file, integer], ...]", "correct it"):
        load_data(archive)


def test_contradictions_in_an_archive(tmp_path: Path) -> None:
    """Neither of two labels, lists or arrays of one name is taken for the true one."""
    png = encoded(to_image(pixels()[0]))
    for content, message in (
        (b'{"labels": [["a.png", 1], ["a.png", 2]]}', "a.png has the labels 1 and 2"),
        (b'{"labels": [["a.png", 1]], "labels": null}', "'labels' stands there twice"),
    ):
        with fails("dataset.json", message):
            load_data(write_zip(tmp_path / "l.zip", {"a.png": png, "dataset.json": content}))
    same = b'{"labels": [["a.png", 1], ["a.png", 1]]}'
    archive = write_zip(tmp_path / "l.zip", {"a.png": png, "dataset.json": same})
    assert load_data(archive).labels.tolist() == [1]
    with zipfile.ZipFile(tmp_path / "twice.npz", "w") as made, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for value in (1, 2):
            buffer = io.BytesIO()
            np.save(buffer, np.full((2, 4, 4), value, np.uint8))
            made.writestr("arr_0.npy", buffer.getvalue())
    with fails("several files of one name"):
        load_data(tmp_path / "twice.npz")


def test_a_link_to_itself_among_images_is_counted(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(to_image(pixels()[0])))
    (tmp_path / "b.png").symlink_to("b.png")
    (tmp_path / "c").symlink_to("c")
    with pytest.warns(UserWarning, match="1 that are no files"):
        assert len(load_data(tmp_path)) == 1


@pytest.mark.parametrize(
    ("suffix", "exact"), [(".png", True), (".bmp", True), (".webp", True), (".jpg", False)]
)
def test_formats_and_the_jpeg_note(tmp_path: Path, suffix: str, exact: bool) -> None:
    smooth = np.broadcast_to(np.arange(0, 240, 5, dtype=np.uint8), (3, 40, 48))
    options = {".webp": {"lossless": True}, ".jpg": {"quality": 95}}.get(suffix, {})
    (tmp_path / f"a{suffix.upper()}").write_bytes(encoded(to_image(smooth), suffix, **options))
    (tmp_path / "._a.png").write_bytes(b"a macOS resource fork")
    (tmp_path / "notes.txt").write_text("ignored")
    data = load_data(tmp_path)
    np.testing.assert_allclose(data.images[0].astype(int), smooth, rtol=0, atol=0 if exact else 4)
    assert ("JPEG" in data.note) is not exact


def test_palette_bilevel_and_opaque_alpha_are_converted(tmp_path: Path) -> None:
    red_or_blue = np.zeros((3, 5, 7), np.uint8)
    red_or_blue[0, :, :3], red_or_blue[2, :, 3:] = 200, 100
    image, expected = to_image(red_or_blue), red_or_blue[None]
    for converted in (image.convert("P", palette=Image.Palette.ADAPTIVE), image.convert("RGBA")):
        np.testing.assert_array_equal(
            load_data(write_zip(tmp_path / "c.zip", {"a.png": encoded(converted)})).images, expected
        )
    half = np.arange(7) < 3
    bilevel = encoded(Image.fromarray(np.tile(half, (5, 1))))
    grey = load_data(write_zip(tmp_path / "c.zip", {"a.png": bilevel}))
    np.testing.assert_array_equal(grey.images[0, 0, 0], 255 * half)
    opaque_grey = to_image(pixels(1, 1)[0]).convert("LA")
    np.testing.assert_array_equal(
        load_data(write_zip(tmp_path / "c.zip", {"a.png": encoded(opaque_grey)})).images,
        pixels(1, 1),
    )


def test_modes_that_are_refused(tmp_path: Path) -> None:
    glass = to_image(pixels()[0]).convert("RGBA")
    glass.putpixel((0, 0), (1, 2, 3, 254))
    palette = Image.new("P", (7, 5))
    palette.putpalette([1, 2, 3])
    deep = Image.fromarray(np.full((5, 7), 40000, np.uint16))
    for image, word, options in (
        (glass, "transparent", {}),
        (palette, "transparent", {"transparency": 0}),
        (deep, "mode I", {}),
    ):
        archive = write_zip(tmp_path / "m.zip", {"sub/a.png": encoded(image, **options)})
        with fails("sub/a.png", word, "greyscale and RGB", "convert"):
            load_data(archive)


def test_images_must_be_alike(tmp_path: Path) -> None:
    images = pixels()
    write_folder(tmp_path, images)
    odd = tmp_path / "00001" / "odd.png"
    Image.new("RGB", (9, 5)).save(odd)
    with fails("00000/img00000000.png", "7x5", "00001/odd.png", "9x5", "convert"):
        load_data(tmp_path)
    Image.new("L", (7, 5)).save(odd)
    with fails("img00000000.png is RGB", "00001/odd.png is greyscale", "convert"):
        load_data(tmp_path)


def test_a_folder_that_is_missing_or_empty(tmp_path: Path) -> None:
    for missing in (
        tmp_path / "gone",
        str(tmp_path / "gone.zip"),
        "diggits",
        "~nobody/x",
        "x" * 300,
        "a\0b",
    ):
        with fails("no file or folder", "'digits'", "'patches'", "give"):
            load_data(missing)
    (tmp_path / "notes.txt").write_text("no image")
    with fails("no images in", str(tmp_path), ".png", "any depth"):
        load_data(tmp_path)
    with fails("no images in", "empty.zip"):
        load_data(write_zip(tmp_path / "empty.zip", {"notes.txt": b""}))
    with fails("notes.txt", "unknown kind '.txt'", ".npz", ".zip", "folder"):
        load_data(tmp_path / "notes.txt")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp"])
def test_damaged_images_are_named(tmp_path: Path, suffix: str) -> None:
    whole = encoded(
        to_image(np.random.default_rng(0).integers(0, 256, (3, 64, 64), dtype=np.uint8)), suffix
    )
    write_folder(tmp_path, np.zeros((1, 3, 64, 64), np.uint8))
    for content in (whole[: len(whole) // 2], whole[:20], b"", b"not an image at all"):
        (tmp_path / f"broken{suffix}").write_bytes(content)
        with fails(f"broken{suffix}", "cannot read", "as an image", "replace"):
            load_data(tmp_path)


def test_damaged_archives_are_named(tmp_path: Path) -> None:
    png = encoded(to_image(pixels()[0]))
    whole = write_zip(tmp_path / "whole.zip", {"a.png": png}).read_bytes()
    flipped = bytearray(whole)
    flipped[whole.index(png) + len(png) // 2] ^= 1  # the archive's checksum catches it
    for content in (whole[:-30], b"", b"PK\x03\x04 nothing", bytes(flipped)):
        (tmp_path / "broken.zip").write_bytes(content)
        with fails("broken.zip", "cannot read", "replace"):
            load_data(tmp_path / "broken.zip")
    npz = write_npz(tmp_path / "whole.npz", pixels().transpose(0, 2, 3, 1)).read_bytes()
    flipped = bytearray(npz)
    flipped[len(npz) // 2] ^= 1
    plain = io.BytesIO()
    np.save(plain, pixels())
    for content in (npz[:-30], b"", bytes(flipped), plain.getvalue(), pickle.dumps(pixels())):
        (tmp_path / "broken.npz").write_bytes(content)
        with fails("broken.npz", "cannot read", ".npz", "replace"):
            load_data(tmp_path / "broken.npz")


class Bomb:
    """Writes a file if it is ever unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    hostile = write_npz(tmp_path / "hostile.npz", np.array([Bomb(trace)], dtype=object))
    with fails("hostile.npz", "cannot read"):
        load_data(hostile)
    assert not trace.exists()
    np.load(hostile, allow_pickle=True)["arr_0"]
    assert trace.exists()  # the bomb does work


def test_bad_npz_contents(tmp_path: Path) -> None:
    nhwc = pixels().transpose(0, 2, 3, 1)
    path = tmp_path / "x.npz"
    with fails("x.npz", "no 'arr_0'", "np.savez"):
        load_data(write_npz(path, images=nhwc))
    with fails("x.npz", "(6, 5, 7, 3)", "channels-last", "(N, C, H, W)"):
        load_data(write_npz(path, nhwc / 127.5 - 1))
    for wrong in (nhwc[0], pixels(), nhwc.astype(np.int64)):
        with fails("x.npz", str(wrong.dtype), str(wrong.shape), "uint8 (N, H, W, C)"):
            load_data(write_npz(path, wrong))
    for labels in (np.arange(5), np.arange(6) / 2, np.ones((6, 2), int)):
        with fails("'arr_1'", str(labels.shape), "6 integer labels"):
            load_data(write_npz(path, nhwc, labels))
    with fails("no images", "(0, 3, 5, 7)"):
        load_data(write_npz(path, nhwc[:0]))


def with_value(index: int, value: float) -> np.ndarray:
    images = np.zeros((6, 3, 5, 7), np.float32)
    images[index:, 1, 2, 3] = value
    return images


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (with_value(4, np.nan), ("image 4", "NaN", "finite")),
        (with_value(2, -np.inf), ("image 2", "infinity", "finite")),
        (with_value(3, 1.25), ("0 to 1.25", "[-1, 1]", "value_range=None")),
        (with_value(3, -3.5), ("-3.5 to 0", "[-1, 1]", "value_range=None")),
        (with_value(3, 250.0), ("0 to 250", "[-1, 1]", "0..255", "uint8", "127.5")),
        (torch.full((2, 1, 5, 7), 255.0), ("255", "0..255", "127.5")),
        (pixels().transpose(0, 2, 3, 1), ("(6, 5, 7, 3)", "channels-last", "(N, C, H, W)")),
        (np.zeros((6, 8, 8, 1)), ("(6, 8, 8, 1)", "channels-last", "transpose")),
        (np.zeros(5), ("(5,)", "(N, D)", "(N, C, H, W)", "reshape")),
        (np.zeros((2, 1, 1, 1, 1, 1)), ("(2, 1, 1, 1, 1, 1)", "(N, C, F, H, W)", "reshape")),
        (np.zeros((0, 1, 5, 7)), ("no images", "(0, 1, 5, 7)", "at least one")),
        (np.zeros((6, 3, 5, 7), np.int64), ("int64", "uint8", "convert")),
        (torch.zeros((6, 3, 5, 7), dtype=torch.bool), ("bool", "uint8", "convert")),
        (np.zeros((6, 3, 5, 7), complex), ("complex128", "float", "convert")),
        (None, ("NoneType", "folder", "'digits'")),
        ([[1.0]], ("list", "array", "'digits'")),
    ],
)
def test_bad_arrays(source: object, words: tuple[str, ...]) -> None:
    with fails(*words):
        load_data(source)


def test_not_finite_without_a_range() -> None:
    with fails("image 1", "infinity"):
        load_data(with_value(1, 1).astype(np.float64) * 1e300, value_range=None)


def test_bad_options(tmp_path: Path) -> None:
    for source in ("digits", pixels()):
        with fails("unknown split 'val'", "train, test"):
            load_data(source, "val")
    for source in (pixels(), write_folder(tmp_path, pixels())):
        with fails("'train'", "'patches' and 'fashion'", "leave split out"):
            load_data(source, "train")
    with fails("(0, 1)", "(-1, 1) and None", "rescale"):
        load_data(np.zeros((1, 1, 5, 7)), value_range=(0, 1))


@pytest.mark.skipif(not (SHARED / "cifar10-test.zip").exists(), reason="shared/data is not here")
def test_real_archives() -> None:
    for name, shape, note in (
        ("cifar10-test", (3, 32, 32), True),
        ("mnist-test", (1, 28, 28), False),
    ):
        data = load_data(SHARED / f"{name}.zip")
        assert (data.name, len(data), data.shape, bool(data.note)) == (name, 10000, shape, note)
        with zipfile.ZipFile(SHARED / f"{name}.zip") as archive:
            listing = json.loads(archive.read("dataset.json"))["labels"]
            assert data.labels.tolist() == [label for _, label in sorted(listing)]
            last = np.asarray(Image.open(io.BytesIO(archive.read(sorted(listing)[-1][0]))))
        np.testing.assert_array_equal(
            data.images[-1], last.transpose(2, 0, 1) if last.ndim == 3 else last[None]
        )


def test_import_is_light() -> None:
    code = (
        "import sys, exposure_bias.data; print(sorted({'torch', 'sklearn', 'PIL'} &"
        " set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_images_from_0_to_1_are_warned_about() -> None:
    images = np.random.default_rng(0).uniform(0, 1, (4, 1, 3, 3)).astype(np.float32)
    with pytest.warns(UserWarning, match=r"give 2 \* x - 1"):
        load_data(images)
    load_data(2 * images - 1)
    load_data(images, value_range=None)


@pytest.mark.parametrize("shape", [(5,), (2, 9), (1, 3, 4), (3, 4, 5, 6), (1, 1), (1, 1, 1, 2)])
def test_states_of_any_rank(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """An array of states is read alike from memory, .npy and .npz, and fitted to the shape that a
    model has."""
    states = np.random.default_rng(0).uniform(-1, 1, (7, *shape)).astype(np.float32)
    np.save(tmp_path / "states.npy", states)
    write_npz(tmp_path / "states.npz", states, np.arange(7))
    sources = [states, torch.tensor(states), tmp_path / "states.npy", tmp_path / "states.npz"]
    read = [load_data(source).fitted(shape) for source in sources]
    for data in read:
        assert data.shape == shape
        np.testing.assert_array_equal(data.batch([3, 0]), states[[3, 0]])
    assert len({data.hash for data in read}) == 1
    assert read[-1].labels.tolist() == list(range(7))


def test_an_ambiguous_array_is_an_image_until_a_model_says_otherwise() -> None:
    states = np.zeros((6, 8, 8), np.float32)
    data = load_data(states)
    assert data.shape == (1, 8, 8)
    assert data.fitted((8, 8)).shape == (8, 8)
    assert load_data(states[:, None, None]).fitted((8, 8)).shape == (8, 8)
    for other in ((64,), (8, 8, 1), (2, 4, 8)):  # the same number of values, but other axes
        assert data.fitted(other) is data


def test_latents_in_files(tmp_path: Path) -> None:
    latents = np.random.default_rng(0).normal(0, 5, (4, 2, 6))
    np.save(tmp_path / "latents.npy", latents)
    with fails("allowed is [-1, 1]", "value_range=None", "--any-range"):
        load_data(tmp_path / "latents.npy")
    data = load_data(tmp_path / "latents.npy", value_range=None).fitted((2, 6))
    np.testing.assert_array_equal(data.batch(range(4)), latents.astype(np.float32))


def test_a_large_archive_is_turned_in_place(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (150, 5, 7, 3), dtype=np.uint8)
    for order in (images, np.asfortranarray(images)):
        data = load_data(write_npz(tmp_path / "x.npz", order))
        np.testing.assert_array_equal(data.images, images.transpose(0, 3, 1, 2))


def test_masks_and_imaginary_parts_are_not_lost() -> None:
    masked = np.ma.masked_greater(np.linspace(-1, 1, 24).reshape(6, 4), 0.5)
    with fails("masked", "filled"):
        load_data(masked)
    assert load_data(np.ma.masked_array(masked.data)).shape == (4,)
    with fails("complex64", "real and imaginary parts to channels"):
        load_data(torch.zeros((6, 4), dtype=torch.complex64))


def test_hidden_files_and_folders_are_passed_over(tmp_path: Path) -> None:
    png = encoded(to_image(pixels()[0]))
    hidden = {
        ".ipynb_checkpoints/a-checkpoint.png": 1,
        "class/.thumbnails/a.png": 1,
        "@eaDir/a.png/SYNOFILE_THUMB_M.jpg": 1,
        ".a.png": 1,
        "__MACOSX/._a.png": 0,
        "class/._a.png": 0,
    }
    files_ = dict.fromkeys(hidden, b"no image") | {"a.png": png, "class/b.png": png}
    write_zip(tmp_path / "some.zip", files_)
    for name, content in files_.items():
        (tmp_path / "some" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "some" / name).write_bytes(content)
    for source in (tmp_path / "some", tmp_path / "some.zip"):
        with pytest.warns(UserWarning, match=rf"left out: {sum(hidden.values())} in hidden"):
            assert len(load_data(source)) == 2


def test_images_of_other_kinds_are_counted(tmp_path: Path) -> None:
    write_folder(tmp_path, pixels())
    for name in ("a.gif", "b.GIF", "c.heic", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.warns(UserWarning, match=r"3 of kinds .*\(\.gif, \.heic\), 1 that are no files"):
        assert len(load_data(tmp_path)) == 6
    for path in tmp_path.glob("0*"):
        path.rename(tmp_path / f".{path.name}")
    with fails("no images", "6 in hidden", "3 of kinds"):
        load_data(tmp_path)


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    write_folder(tmp_path / "elsewhere", pixels())
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "class").symlink_to(tmp_path / "elsewhere")
    assert len(load_data(tmp_path / "data")) == 6
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "data")
    with fails("class/back", "leads back", "remove"):
        load_data(tmp_path / "data")


def test_a_folder_in_the_shadow_of_bundled_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path / "digits", pixels())
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match=r"bundled data; for the folder .* '\./digits'"):
        assert load_data("digits").shape == (1, 8, 8)
    assert load_data("./digits").shape == (3, 5, 7)


@pytest.mark.parametrize("suffix", [".tiff", ".webp", ".png"])
def test_several_frames_are_refused(tmp_path: Path, suffix: str) -> None:
    frames = [to_image(image) for image in pixels()]
    animated = encoded(frames[0], suffix, save_all=True, append_images=frames[1:])
    with fails(f"a{suffix}", "several frames", "convert"):
        load_data(write_zip(tmp_path / "a.zip", {f"a{suffix}": animated}))


def deep_png() -> bytes:
    """A PNG of 16 bits a channel, 2 × 1 pixels, RGB."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content))
            + kind
            + content
            + zlib.crc32(kind + content).to_bytes(4)
        )

    rows = b"\0" + struct.pack(">6H", *range(0, 60000, 10000))
    header = struct.pack(">2I5B", 2, 1, 16, 2, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + content


def deep_tiff() -> bytes:
    """The same as an uncompressed TIFF."""
    entries = [(256, 3, 1, 2), (257, 3, 1, 1), (258, 3, 3, 122), (259, 3, 1, 1), (262, 3, 1, 2)]
    entries += [(273, 4, 1, 128), (277, 3, 1, 3), (278, 3, 1, 1), (279, 4, 1, 12)]
    directory = struct.pack("<H", len(entries))
    directory += b"".join(struct.pack("<2H2I", *entry) for entry in entries) + bytes(4)
    return b"II*\0" + struct.pack("<I", 8) + directory + struct.pack("<9H", *[16] * 3, *range(6))


def deep_ppm() -> bytes:
    return b"P6 2 1 65535\n" + struct.pack(">6H", *range(0, 60000, 10000))


@pytest.mark.parametrize(
    ("name", "content"), [("a.png", deep_png()), ("a.tiff", deep_tiff()), ("a.ppm", deep_ppm())]
)
def test_16_bits_are_not_cut_to_8(tmp_path: Path, name: str, content: bytes) -> None:
    assert Image.open(io.BytesIO(content)).mode == "RGB"  # Pillow cuts them
    with fails(name, "16 bits", "cut to 8"):
        load_data(write_zip(tmp_path / "a.zip", {name: content}))


def test_formats_that_are_not_named_are_not_opened(tmp_path: Path) -> None:
    """EPS would start Ghostscript."""
    image = to_image(pixels()[0])
    for suffix in (".eps", ".gif", ".tga", ".ico", ".pcx"):
        renamed = write_zip(tmp_path / "a.zip", {"a.png": encoded(image, suffix)})
        with fails("a.png", "cannot read", "UnidentifiedImageError"):
            load_data(renamed)


@pytest.mark.parametrize("given", ["8GB", "8 gb", 8 * 10**9, "8000 MB", "8000000000"])
def test_the_limit_of_data(given: object) -> None:
    assert limit_of(given).bytes == 8 * 10**9


@pytest.mark.parametrize("given", ["", "8 TB", "-1", 0, 1.5, True, "GB"])
def test_bad_limits(given: object) -> None:
    with fails("the limit of data", "8GB"):
        load_data(pixels(), limit=given)


def test_sizes_are_checked_against_the_limit(tmp_path: Path) -> None:
    images = pixels(60)
    folder = write_folder(tmp_path / "images", images)
    names = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.png")}
    sources = [
        folder,
        write_zip(tmp_path / "images.zip", names),
        write_npz(tmp_path / "images.npz", images.transpose(0, 2, 3, 1)),
        tmp_path / "images.npy",
    ]
    np.save(sources[-1], images)
    for source in sources:
        assert len(load_data(source, limit="1MB")) == 60
        with fails(source.name, "limit of 4.88 KiB", "--limit-data"):
            load_data(source, limit=5000)


def test_an_empty_name() -> None:
    with fails("empty", "'digits'"):
        load_data("")


def test_a_message_is_one_line_whatever_a_file_is_called(tmp_path: Path) -> None:
    folder = tmp_path / "two\nlines\x1b[31m"
    folder.mkdir()
    (folder / "a\rb.png").write_bytes(b"no image")
    with fails(r"two\nlines\x1b[31m/a\rb.png", "cannot read"):
        load_data(folder)


@pytest.mark.parametrize("attack", attacks.attacks(SMALL), ids=lambda attack: attack.name)
@pytest.mark.filterwarnings("ignore:images of")
def test_hostile_files(attack: attacks.Attack, tmp_path: Path) -> None:
    """The same at their full size, with time and memory: make fuzz."""
    source = attack.make(tmp_path)
    if not attack.refusal:
        with suppress(InputError):
            assert load_data(source, limit=SMALL).images.nbytes <= SMALL
        return
    with pytest.raises(InputError, match=attack.refusal) as caught:
        load_data(source, limit=SMALL)
    assert "\n" not in str(caught.value)
