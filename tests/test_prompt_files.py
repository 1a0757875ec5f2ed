"""Files of prompts: one for all images, one for each in order, or one for each by name."""

import json
from pathlib import Path

import pytest
from networks import fails
from test_data import pixels, write_folder

import exposure_bias as eb
from exposure_bias.data.prompts import distinct, read_prompts

IMAGES = pixels(6)
TEXTS = ["a cat", "a dog", "a cat", "an ape", "", "a, b"]
NAMES = [f"{i // 4:05d}/img{i:08d}.png" for i in range(6)]


@pytest.fixture
def data(tmp_path: Path) -> eb.data.Data:
    return eb.load_data(write_folder(tmp_path / "images", IMAGES))


def csv(rows: list[dict[str, str]], mark: str = ",") -> str:
    quoted = [
        mark.join(f'"{v}"' if mark in v or not v else v for v in row.values()) for row in rows
    ]
    return "\n".join([mark.join(rows[0]), *quoted, ""])


def jsonl(rows: list[dict[str, str]]) -> str:
    return "\n".join(json.dumps(row) for row in rows) + "\n"


def named(column: str = "file_name", text: str = "text") -> list[dict[str, str]]:
    """In another order than the images, and with one row more."""
    rows = [{column: n, text: t} for n, t in zip(NAMES, TEXTS, strict=True)]
    return [*rows[::-1], {column: "another.png", text: "a bird"}]


def bare(text: str = "caption") -> list[dict[str, str]]:
    return [{text: t} for t in TEXTS]


FILES = {
    "lines": ("p.txt", "\n".join(TEXTS) + "\n\n"),
    "windows": ("p.txt", "\ufeff" + "\r\n".join(TEXTS)),
    "csv by name": ("p.csv", csv(named())),
    "csv in order": ("p.csv", csv(bare())),
    "tsv by name": ("p.tsv", csv(named("image", "prompt"), "\t")),
    "jsonl by name": ("metadata.jsonl", jsonl(named())),
    "jsonl by the last part": (
        "p.jsonl",
        jsonl([{"file": Path(n).name, "caption": t} for n, t in zip(NAMES, TEXTS, strict=True)]),
    ),
    "jsonl in order": ("p.jsonl", jsonl(bare("prompt"))),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_prompt_for_each_image(kind: str, data: eb.data.Data, tmp_path: Path) -> None:
    name, content = FILES[kind]
    (tmp_path / name).write_text(content, newline="")
    assert read_prompts(tmp_path / name, data) == TEXTS


def test_one_prompt_for_all(data: eb.data.Data, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("  a cat \n")
    assert read_prompts(tmp_path / "p.txt", data) == ["a cat"]
    (tmp_path / "p.jsonl").write_text('{"prompt": "a cat"}')
    assert read_prompts(str(tmp_path / "p.jsonl"), data) == ["a cat"]


def test_different_prompts_and_which_image_has_which() -> None:
    texts, index = distinct(TEXTS, 6)
    assert texts == ["a cat", "a dog", "an ape", "", "a, b"]
    assert [texts[i] for i in index] == TEXTS
    assert distinct(["x"], 3)[1].tolist() == [0, 0, 0]


def test_names_inside_folders_tell_images_apart(tmp_path: Path) -> None:
    for part in ("one", "two"):
        write_folder(tmp_path / "images" / part, IMAGES[:2])
    data = eb.load_data(tmp_path / "images")
    rows = [{"file_name": n, "text": n[:3]} for n in data.names]
    (tmp_path / "p.jsonl").write_text(jsonl(rows))
    assert read_prompts(tmp_path / "p.jsonl", data) == ["one", "one", "two", "two"]
    rows = [{"file_name": Path(n).name, "text": "a"} for n in data.names]
    (tmp_path / "p.jsonl").write_text(jsonl(rows))
    with fails("has no prompt for 4 of the 4 images of images, one/00000/img00000000.png first"):
        read_prompts(tmp_path / "p.jsonl", data)


BAD: dict[str, tuple[str, str | bytes, str]] = {
    "too few": ("p.txt", "a\nb\n", "holds 2 prompts, but images has 6 images: give one prompt"),
    "none": ("p.txt", "\n", "holds 0 prompts, but images has 6 images"),
    "an empty table": ("p.csv", "file_name,text\n", "holds no prompts: give one"),
    "no text": ("p.csv", "file_name,words\na.png,b\n", "has no column of prompts: name it one of"),
    "a missing image": (
        "p.csv",
        csv(named()[1:]),
        "has no prompt for 1 of the 6 images of images, 00001/img00000005.png first",
    ),
    "a number": ("p.jsonl", '{"text": 3}', "row 1 of .* has no text in 'text'"),
    "a row without": ("p.jsonl", '{"text": "a"}\n{"words": "b"}', "row 2 of .* has no text"),
    "no json": ("p.jsonl", "a cat", "line 1 of .* is no JSON"),
    "no object": ("p.jsonl", '["a cat"]', "line 1 of .* is no JSON object"),
    "no text at all": ("p.txt", b"\xff\xfe\x00", "is no text"),
    "a broken table": ("p.csv", 'text\n"a', "cannot read .* as a table"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files(case: str, data: eb.data.Data, tmp_path: Path) -> None:
    name, content, message = BAD[case]
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with fails(message) as caught:
        read_prompts(tmp_path / name, data)
    assert len(str(caught.value).splitlines()) == 1


def test_names_need_images_that_have_some(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text(jsonl(named()))
    with fails("names files, but the images of array have no names: give the prompts in the"):
        read_prompts(tmp_path / "p.jsonl", eb.load_data(IMAGES))
    with fails("cannot read .*nowhere.txt"):
        read_prompts(tmp_path / "nowhere.txt", eb.load_data(IMAGES))
