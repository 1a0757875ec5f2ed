"""The HTML report: self-contained, escaped, readable on a phone, and its slider moves."""

import csv
import io
import json
import re
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from shutil import which
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest

import exposure_bias as eb
from exposure_bias.cli import main
from exposure_bias.reporting.pictures import slider
from exposure_bias.run import DataId, ModelId

EVIL = "<script>alert('1')</script>"


@pytest.fixture(scope="module")
def rec() -> Any:
    """256 noisy pictures of a Gaussian law, of its exact denoiser."""
    x = np.random.default_rng(0).normal(0, 0.3, (256, 1, 6, 6)).astype(np.float32)
    oracle = eb.oracles.GaussianOracle(np.zeros((1, 6, 6)), 0.09, eb.schedules.linear(1000))
    return eb.record(oracle, eb.load_data(x, value_range=None), steps=6, n=256)


@pytest.fixture(scope="module")
def page(rec: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return eb.report(rec, path=tmp_path_factory.mktemp("report") / "report.html")


class Page(HTMLParser):
    """Elements with their attributes, and ids."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def all(self, *tags: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag in tags]


def test_the_answer_comes_first_and_all_parts_are_there(page: Path) -> None:
    text = page.read_text()
    assert text.index('class="lead"') < text.index("<h2>")
    found = Page(text)
    ids = [a["id"] for a in found.all("section") if "id" in a]
    assert ids == [
        "along",
        "variance-gap",
        "spectrum",
        "epsilon-norm",
        "state-error",
        "published-delta",
        "made",
    ]
    assert "eb-analyze record --model" in text
    assert len(found.all("h1")) == 1
    assert all(a.get("alt") for a in found.all("img"))
    assert page.stat().st_size < 5e6


def test_nothing_is_fetched(page: Path) -> None:
    """Every address is data: or a place in the page, and the policy allows nothing else."""
    text = page.read_text()
    found = Page(text)
    addresses = [a.get(key) for _, a in found.elements for key in ("src", "href") if key in a]
    assert addresses
    assert all(str(a).startswith(("data:", "#")) for a in addresses)
    assert not found.all("link", "iframe", "object", "base")
    assert not any(key.startswith("on") or key == "style" for _, a in found.elements for key in a)
    policy = next(a["content"] for a in found.all("meta") if a.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy


def test_tables_can_be_taken_away(page: Path, rec: Any) -> None:
    links = [a for a in Page(page.read_text()).all("a") if "download" in a]
    link = next(a for a in links if a["download"] == "variance-gap.csv")
    content = b64decode(unquote(str(link["href"])).partition(",")[2]).decode()
    rows = list(csv.DictReader(io.StringIO(content)))
    gap = eb.variance_gap(rec)["gap"].values
    np.testing.assert_allclose([float(row["gap"]) for row in rows], gap)


def test_names_are_escaped(rec: Any, tmp_path: Path) -> None:
    run = replace(
        rec.run,
        model=ModelId(EVIL, "weights", "epsilon"),
        data=DataId(EVIL, images=256, note=f"{EVIL} &amp; </script>"),
        sampler="ddpm",
    )
    path = eb.report(replace(rec, run=run), path=tmp_path / "a.html", commands=[EVIL])
    text = path.read_text()
    assert EVIL not in text
    assert "&lt;script&gt;alert(" in text
    assert len(Page(text).all("script")) == 2


def test_results_that_do_not_belong_together_are_named(rec: Any, tmp_path: Path) -> None:
    other = eb.variance_gap(rec)
    other.attrs["model"] = "another"
    with pytest.raises(eb.InputError, match=r"recording and variance_gap do not belong together"):
        eb.report(rec, other, path=tmp_path / "a.html")
    with pytest.raises(eb.InputError, match="at least one"):
        eb.report(path=tmp_path / "a.html")
    with pytest.raises(eb.InputError, match="not int"):
        eb.report(3, path=tmp_path / "a.html")
    with pytest.raises(eb.InputError, match="lacks gap over"):
        eb.report(other[["gap"]].rename(gap="a"), path=tmp_path / "a.html")
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_refused_first(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(eb.InputError, match="is a file, not a folder"):
        eb.report(object(), path=tmp_path / "file" / "report.html")


def test_the_command_line_writes_one_beside_its_results(
    rec: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rec.save(tmp_path / "rec.nc")
    folder = tmp_path / "out"
    assert main(["spectrum", str(tmp_path / "rec.nc"), "-o", str(folder)]) == 0
    text = (folder / "report.html").read_text()
    assert f"eb-analyze spectrum {tmp_path}/rec.nc -o {folder}" in text
    assert "report.html" in capsys.readouterr().err
    together = str(tmp_path / "together.html")
    assert main(["report", str(tmp_path / "rec.nc"), str(folder), "-o", together]) == 0
    said = capsys.readouterr()
    assert "2 results in" in said.err
    assert "±" in said.out.splitlines()[0]
    assert main(["report", str(tmp_path / "none.nc")]) == 2
    picture = tmp_path / "strip.png"
    assert main(["strip", str(tmp_path / "rec.nc"), "-o", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    said = capsys.readouterr()
    assert "3 of 256 samples" in said.err
    assert "±" in said.out.splitlines()[0]
    assert main(["strip", str(tmp_path / "rec.nc"), "-o", "strip.doc"]) == 2


def test_frames_are_those_of_the_recording(rec: Any) -> None:
    along = slider(rec)
    assert along is not None
    assert [frame["step"] for frame in along.frames] == list(range(7))
    assert list(along.rows) == ["truth", "state", "difference", "prediction", "forward"]
    assert "prediction" not in along.frames[-1]["images"]
    total = np.sum(along.frames[0]["histogram_state"])
    assert total == pytest.approx(1)
    json.dumps(along.frames, allow_nan=False)


def test_colours_have_contrast() -> None:
    """WCAG 2.1: at least 4.5 for every text on every ground, light and dark."""
    css = (Path(eb.__file__).parent / "reporting" / "page.css").read_text()
    schemes = [
        dict(re.findall(r"--(\w+): (#\w{6})", part))
        for part in css.split("@media print")[0].split("@media")[:2]
    ]
    for scheme in schemes:
        for ground in ("paper", "card"):
            for ink in ("ink", "soft", "accent", "true", "own"):
                assert contrast(scheme[ink], scheme[ground]) >= 4.5, (ink, ground, scheme)


def contrast(one: str, other: str) -> float:
    low, high = sorted(luminance(colour) for colour in (one, other))
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    channels = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.fixture
def browser() -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium, driver = which("chromium"), which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("chromium and chromium-driver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "disable-background-networking"):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    found = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield found
    found.quit()


def test_in_a_browser(browser: Any, page: Path) -> None:
    """The slider moves by keyboard, the pictures change, nothing is asked of the network, nothing
    is wider than the screen."""
    browser.get(f"file://{page}")
    level = browser.find_element("id", "level")
    assert browser.find_element("id", "where").text == "6: the finished sample"
    pictures, words = [], []
    for _ in range(4):
        image = browser.find_element("id", "row-state")
        pictures.append(image.get_attribute("src"))
        words.append(browser.find_element("id", "where").text)
        assert browser.execute_script("return arguments[0].naturalWidth", image) > 0
        level.send_keys("\ue012")  # the arrow to the left
    assert all(one != other for one, other in pairwise(pictures))
    assert len(set(words)) == 4
    assert browser.find_elements("css selector", "#spectrum path.own")
    for width in (400, 1200):
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        for summary in browser.find_elements("css selector", "details:not([open]) summary"):
            browser.execute_script("arguments[0].click()", summary)
        wide = browser.execute_script("return document.documentElement.scrollWidth")
        assert wide <= width
        for image in browser.find_elements("css selector", ".figure img"):
            assert image.size["width"] <= image.find_element("xpath", "../..").size["width"]
    for summary in browser.find_elements("css selector", "details[open] summary"):
        browser.execute_script("arguments[0].click()", summary)
    browser.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert not browser.find_elements("css selector", "details:not([open])")
    assert not [entry for entry in browser.get_log("browser") if entry["level"] != "INFO"]
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [
        e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"
    ]
    assert all(address.startswith(("file:", "data:")) for address in asked)
