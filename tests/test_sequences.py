"""Sequences of frames: what may be given, how it is read, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import exposure_bias as eb


def frames(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("shape", [(3,), (2, 5), (1, 4, 6), (3, 2, 4, 4)])
def test_frames_of_any_rank_are_read_one_by_one(shape: tuple[int, ...]) -> None:
    array = frames(5, 4, *shape)
    sequences = eb.Sequences(array)
    assert (len(sequences), sequences.length, sequences.shape) == (5, 4, shape)
    np.testing.assert_array_equal(sequences.frame([3, 1], 2), array[[3, 1], 2])
    np.testing.assert_array_equal(eb.Sequences(torch.from_numpy(array)).frame([0], 3), array[:1, 3])


def test_a_number_for_each_frame_is_a_vector_of_one() -> None:
    array = frames(5, 4)
    assert eb.Sequences(array).shape == (1,)
    np.testing.assert_array_equal(eb.Sequences(array).frame([2], 1), array[2:3, 1:2])


def test_bytes_become_numbers_between_minus_one_and_one() -> None:
    array = np.array([0, 51, 255], dtype=np.uint8).reshape(1, 3, 1, 1, 1)
    sequences = eb.Sequences(array)
    read = [float(sequences.frame([0], k).item()) for k in range(3)]
    np.testing.assert_allclose(read, [-1, -0.6, 1], atol=1e-6)


def test_frames_of_a_chunk_stand_behind_the_channels() -> None:
    array = frames(4, 7, 3, 5, 5)
    sequences = eb.Sequences(array, chunk=3, action=frames(4, 7, 2))
    assert (sequences.length, sequences.shape) == (2, (3, 3, 5, 5))
    read = sequences.frame([2], 1)[0]
    for k in range(3):
        np.testing.assert_array_equal(read[:, k], array[2, 3 + k])
    assert sequences.extra([0, 1], 0, 1)["action"].shape == (2, 2, 3, 2)
    assert eb.Sequences(frames(4, 6, 5), chunk=2).shape == (5, 2)


def test_streams_are_read_beside_the_frames_that_they_belong_to() -> None:
    action = frames(5, 4, 2)
    sequences = eb.Sequences(frames(5, 4, 3), action=action, label=np.arange(20).reshape(5, 4))
    assert sequences.streams == ["action", "label"]
    read = sequences.extra([4, 0], 1, 2)
    np.testing.assert_array_equal(read["action"], action[[4, 0], 1:3])
    np.testing.assert_array_equal(read["label"], [[17, 18], [1, 2]])


def test_files_are_read_as_arrays_are(tmp_path: Path) -> None:
    array, action = frames(5, 4, 1, 3, 3), frames(5, 4, 2)
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "b.npz", array, action=action)
    (tmp_path / "clips").mkdir()
    for i, clip in enumerate(array):
        # Clips may be longer than the shortest.
        np.save(tmp_path / "clips" / f"{i}.npy", np.concatenate([clip, clip[:i]]))
    expected = eb.Sequences(array).hash
    mapped = eb.Sequences(tmp_path / "a.npy")
    assert isinstance(mapped._clips.array, np.memmap)  # type: ignore[attr-defined]
    assert mapped.hash == eb.Sequences(str(tmp_path / "clips")).hash == expected
    archive = eb.Sequences(tmp_path / "b.npz")
    np.testing.assert_array_equal(archive.extra([1], 0, 0)["action"], action[1:2, :1])
    assert archive.hash == eb.Sequences(array, action=action).hash != expected


def test_a_folder_of_clips_is_decoded_frame_by_frame(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 4, 3), dtype=np.uint8)
    for i, clip in enumerate(pixels):
        (tmp_path / f"clip{i}").mkdir()
        for k, picture in enumerate(clip):
            Image.fromarray(picture).save(tmp_path / f"clip{i}" / f"{k}.png")
    (tmp_path / ".hidden").mkdir()
    sequences = eb.Sequences(tmp_path)
    assert (len(sequences), sequences.length, sequences.shape) == (2, 3, (3, 5, 4))
    expected = pixels[:, 1].transpose(0, 3, 1, 2) / 127.5 - 1
    np.testing.assert_allclose(sequences.frame([0, 1], 1), expected, atol=1e-6)
    Image.fromarray(pixels[0, 0, :3]).save(tmp_path / "clip1" / "2.png")
    with pytest.raises(eb.InputError, match="one size"):
        eb.Sequences(tmp_path).frame([0, 1], 2)


def test_the_hash_sees_values_order_and_streams() -> None:
    array = frames(3, 4, 2)
    known = eb.Sequences(array).hash
    moved = array.copy()
    moved[2, 3, 1] += 1e-3
    assert eb.Sequences(array.copy()).hash == known
    others = [
        eb.Sequences(moved),
        eb.Sequences(array[::-1]),
        eb.Sequences(array[:, ::-1]),
        eb.Sequences(array, chunk=2),
        eb.Sequences(array, action=array),
        eb.Sequences(array, other=array),
    ]
    assert len({s.hash for s in others} | {known}) == 7


NAN = frames(3, 4, 2)
NAN[1, 2, 0] = np.nan


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (frames(3), {}, "shape"),
        (frames(0, 4, 2), {}, "at least one"),
        (frames(3, 4, 2, 2, 2, 2, 2), {}, "shape"),
        (np.zeros((3, 4, 2), dtype=int), {}, "int64"),
        (np.zeros((3, 4, 2), dtype=complex), {}, "complex128"),
        (frames(3, 4, 16, 16, 3), {}, "channels-last"),
        (frames(3, 4, 2), {"chunk": 5}, "no chunk"),
        (frames(3, 4, 2), {"chunk": 0}, "chunk"),
        (frames(3, 4, 1, 2, 2, 2), {"chunk": 2}, "no axis"),
        (frames(3, 4, 2), {"action": frames(3, 3, 1)}, "'action' has shape"),
        (frames(3, 4, 2), {"action": frames(2, 4, 1)}, "'action' has shape"),
        (frames(3, 4, 2), {"action": NAN}, "'action' holds NaN"),
        (frames(3, 4, 2), {"action": np.full((3, 4), "left")}, "'action' is"),
        ("nowhere", {}, "no file or folder"),
        (7, {}, "cannot read sequences from a int"),
    ],
)
def test_what_cannot_be_used_is_refused(source: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(eb.InputError, match=message):
        eb.Sequences(source, **options)


def test_what_is_not_finite_is_named_where_it_stands() -> None:
    sequences = eb.Sequences(NAN)
    assert np.isfinite(sequences.frame([0, 1], 1)).all()
    with pytest.raises(eb.InputError, match="sequence 1 holds NaN or infinity at frame 2"):
        sequences.frame([0, 1], 2)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(b"no array")
    (tmp_path / "b.txt").write_text("text")
    (tmp_path / "empty").mkdir()
    np.savez(tmp_path / "c.npz", other=frames(2, 2, 2))
    for name, message in (
        ("a.npy", "cannot read"),
        ("b.txt", "no file of sequences"),
        ("empty", "no clips"),
        ("c.npz", "arr_0"),
    ):
        with pytest.raises(eb.InputError, match=message):
            eb.Sequences(tmp_path / name)
