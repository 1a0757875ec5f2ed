"""From a wheel to the first answer on a folder of one's own, in the two commands of the README."""

import os
import subprocess
import sys
from pathlib import Path

import diffusers
import numpy as np
import pytest
from PIL import Image

import exposure_bias as eb

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds what the wheel of this checkout installs, without its dependencies."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", str(folder), str(ROOT)], check=True)
    (wheel,) = folder.glob("*.whl")
    target = folder / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", str(target), str(wheel)], check=True)
    return target


def test_first_answer(installed: Path, tmp_path: Path) -> None:
    """The answer is about a pipeline that diffusers saved and a folder of pictures."""
    net = eb.load_model("digits").net
    diffusers.DDPMPipeline(net, diffusers.DDPMScheduler(clip_sample=False)).save_pretrained(
        tmp_path / "model"
    )
    (tmp_path / "images").mkdir()
    pixels = eb.load_data("digits", split="test").batch(np.arange(512))[:, 0]
    for i, image in enumerate(((pixels + 1) * 127.5).round().astype(np.uint8)):
        Image.fromarray(image).save(tmp_path / "images" / f"{i:03}.png")
    command = ["-m", "exposure_bias", "diagnose", "--model", "model", "--data", "images"]
    done = subprocess.run(
        [sys.executable, *command, "--steps", "20", "--quick", "-o", "results"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "% comes from the" in done.stdout.splitlines()[0] + done.stdout.splitlines()[1]
    assert (tmp_path / "results" / "report.html").exists()
    assert eb.load(tmp_path / "results" / "diagnose.nc").attrs["answer"]
