"""Text-conditional models at the command line: a folder, images and prompts, and then a report."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networks
import numpy as np
import pytest
from PIL import Image
from test_prompts import whole

import exposure_bias as eb
from exposure_bias.cli import main

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

# By family: its autoencoder, and the height and width of images whose latents its network takes.
FAMILIES: dict[str, tuple[Callable[[], Any], tuple[int, int]]] = {
    **dict.fromkeys(
        ("SD", "SDXL", "SD3", "PixArt", "AuraFlow", "Lumina2"), (networks.vae, (16, 16))
    ),
    "FLUX.1-dev": (networks.vae, (16, 24)),
    "Sana": (lambda: networks.video_vae("AutoencoderDC"), (16, 16)),
    "Wan": (lambda: networks.video_vae("AutoencoderKLWan"), (32, 48)),
    "CogVideoX": (lambda: networks.video_vae("AutoencoderKLCogVideoX"), (48, 64)),
    "LTX": (lambda: networks.video_vae("AutoencoderKLLTXVideo"), (64, 96)),
}
TRAINED_WITH_DDPM = ("SD", "SDXL", "PixArt", "CogVideoX")


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("EXPOSURE_BIAS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def laid_out(folder: Path, name: str, count: int = 16) -> list[str]:
    """A pipeline's folder, images and a file of prompts; the options that name them."""
    make, size = FAMILIES[name]
    whole(name, vae=make()).save_pretrained(folder / "model")
    (folder / "images").mkdir()
    random = np.random.default_rng(0)
    for i in range(count):
        pixels = random.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{i:02}.png")
    texts = ["a cat", "a red dog"]
    rows = [f"{i:02}.png,{texts[i % 2]}" for i in range(count)]
    (folder / "prompts.csv").write_text("\n".join(["file_name,text", *rows]))
    sampler = "ddim" if name in TRAINED_WITH_DDPM else "euler"
    places = {k: str(folder / f) for k, f in
              {"model": "model", "data": "images", "prompts": "prompts.csv"}.items()}  # fmt: skip
    return [
        *(word for key, place in places.items() for word in (f"--{key}", place)),
        *("--steps", "3", "--sampler", sampler),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_from_a_folder_to_a_report(name: str, tmp_path: Path) -> None:
    given = laid_out(tmp_path, name)
    out = tmp_path / "out"
    assert main(["diagnose", *given, "--quick", "--restarts", "-o", str(out), "-q"]) == 0
    page = (out / "report.html").read_text()
    assert "--prompts" in page
    assert (out / "diagnose.nc").exists()


@pytest.mark.filterwarnings("ignore:the scheduler in")
def test_prompts_and_guidance_change_what_is_recorded(tmp_path: Path, kept: Path) -> None:
    given = laid_out(tmp_path, "SD")
    norms = []
    guided = ["--guidance", "3", "--negative-prompt", "the dog"]
    for number, more in enumerate(([], guided)):
        path = tmp_path / f"{number}.nc"
        assert main(["record", *given, *more, "-o", str(path), "-q"]) == 0
        recording = eb.load(path)
        assert recording.run.data.labels is not None
        assert recording.run.model.guided == bool(more)
        norms.append(recording["chain"]["epsilon_norm"].values[:, 0])
    assert not np.allclose(*norms)
    assert list(kept.glob("prompts-*.safetensors"))


def test_bad_prompts_are_told_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = laid_out(tmp_path, "SD", count=4)
    capsys.readouterr()  # bars of those who write it

    def told(*more: str) -> str:
        assert main(["gap", *given, *more]) == 2
        words = capsys.readouterr().err
        assert words.count("\n") == 1
        return words

    prompts = tmp_path / "prompts.csv"
    prompts.write_text("text\na cat\na dog\n")
    assert "holds 2 prompts, but images has 4 images" in told()
    prompts.write_text("text\na cat\n")
    assert "guidance" in told("--guidance", "nan")
    shutil.rmtree(tmp_path / "model" / "text_encoder")
    assert "names a text_encoder in its model_index.json, but has no folder" in told()
    assert main(["gap", "--prompts", str(prompts), "--steps", "2"]) == 2
    assert "prompts" in capsys.readouterr().err
