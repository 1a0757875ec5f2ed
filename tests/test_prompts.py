"""Prompts: a pipeline's own encoders, tiny and random, run once and kept.

Each family's pipeline is called with its prompts as texts, and its chain is compared with that of
the model that `adapt` makes of the same texts.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import networks
import numpy as np
import pytest
import torch
from networks import fails
from test_prompted_pipelines import CASES, Case, agree, data, pipeline, steps

import exposure_bias as eb
from exposure_bias.adapters import prompts
from exposure_bias.streams import Step, chain

transformers = pytest.importorskip("transformers")
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
__all__ = ["steps"]  # a fixture

WORDS = ["<pad>", "<s>", "</s>", "<unk>", "a", "cat", "dog", "red", "blue", "the", "and", "on"]
TEXTS = ["a cat", "a red dog", "the blue cat and a dog"]
WIDTH = 8


def tokenizer(length: int = 8) -> Any:
    """One word is one token."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    marks = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, model_max_length=length, **marks
    )


def clip(width: int = WIDTH, projected: int = 0) -> Any:
    torch.manual_seed(20 + projected)
    config = transformers.CLIPTextConfig(
        vocab_size=len(WORDS),
        hidden_size=width,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=8,
        projection_dim=projected or width,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    kind = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    return kind(config).eval()


def t5(kind: str = "T5") -> Any:
    torch.manual_seed(21)
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=len(WORDS), d_model=WIDTH, d_kv=4, d_ff=16, num_layers=2, num_heads=2
    )
    return getattr(transformers, f"{kind}EncoderModel")(config).eval()


def gemma() -> Any:
    torch.manual_seed(22)
    config = transformers.Gemma2Config(
        vocab_size=len(WORDS),
        hidden_size=WIDTH,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=4,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return transformers.Gemma2Model(config).eval()


def one(encoder: Callable[[], Any], length: int = 8) -> Callable[[], dict[str, Any]]:
    return lambda: {"text_encoder": encoder(), "tokenizer": tokenizer(length)}


def sdxl() -> dict[str, Any]:
    """Two encoders, whose states stand side by side: together as wide as the network wants."""
    return {
        "text_encoder": clip(4),
        "text_encoder_2": clip(4, 6),
        "tokenizer": tokenizer(),
        "tokenizer_2": tokenizer(),
    }


def sd3() -> dict[str, Any]:
    """Two of CLIP's, whose pooled states stand side by side, and a T5."""
    return {
        "text_encoder": clip(4, 3),
        "text_encoder_2": clip(4, 3),
        "text_encoder_3": t5(),
        "tokenizer": tokenizer(),
        "tokenizer_2": tokenizer(),
        "tokenizer_3": tokenizer(),
    }


def flux() -> dict[str, Any]:
    return {
        "text_encoder": clip(6),
        "text_encoder_2": t5(),
        "tokenizer": tokenizer(),
        "tokenizer_2": tokenizer(),
    }


ENCODERS: dict[str, Callable[[], dict[str, Any]]] = {
    "SD": one(clip),
    "SDXL": sdxl,
    "SD3": sd3,
    "FLUX.1-dev": flux,
    "FLUX with two passes": flux,
    "PixArt": one(t5),
    "Sana": one(gemma, 400),
    "AuraFlow": one(lambda: t5("UMT5")),
    "Lumina2": one(gemma, 400),
    "Wan": one(lambda: t5("UMT5")),
    "CogVideoX": one(t5),
    "LTX": one(t5),
    "UNet3D": one(clip),
}


def whole(name: str, **parts: Any) -> Any:
    """The pipeline with its encoders. CogVideoX's network knows how long a prompt is there."""
    if name == "CogVideoX":
        parts["transformer"] = networks.cogvideox(max_text_seq_length=226)
    return pipeline(CASES[name], **ENCODERS[name](), **parts)


def called(case: Case, pipe: Any, guidance: float, **told: Any) -> None:
    pipe(
        num_inference_steps=4,
        generator=torch.Generator().manual_seed(1),
        output_type="latent",
        **case.call | told | {case.scale: guidance},
    )


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("name", ENCODERS)
def test_texts_mean_what_they_mean_to_the_pipeline(
    name: str, guided: bool, steps: list[Step]
) -> None:
    case, embedded = CASES[name], name == "FLUX.1-dev"
    guidance = 4.0 if guided else 1.0
    two = guided and not embedded
    pipe = whole(name)
    model = eb.adapt(
        pipe,
        prompts=TEXTS,
        guidance_scale=guidance,
        shape=case.shape,
        negative_prompt="red" if two else None,
    )
    with eb.observe(pipe, data=data(case.shape), model=model) as seen:
        told = {"negative_prompt": ["red"] * len(TEXTS)} if two else {}
        if case.pipeline == "SanaPipeline":
            told = {"negative_prompt": "red"} if two else {}
        called(case, pipe, guidance, prompt=TEXTS, **told)
    start = steps[0].x
    sampler: Any = seen._sampler
    bound = model.given(torch.arange(len(TEXTS)))
    agree(
        steps, chain(bound, start, sampler.own_levels, sampler, lambda i: torch.zeros_like(start))
    )


@pytest.mark.parametrize("name", ["SD", "SDXL", "SD3", "FLUX.1-dev", "Sana", "Lumina2", "Wan"])
def test_a_folder_says_what_its_pipeline_says(name: str, tmp_path: Path) -> None:
    case, pipe = CASES[name], whole(name)
    pipe.save_pretrained(tmp_path / "folder")
    told: dict[str, Any] = {"prompts": TEXTS, "guidance_scale": 3.0, "shape": case.shape}
    direct, read = (eb.adapt(given, **told) for given in (pipe, str(tmp_path / "folder")))
    assert read.conditions == direct.conditions != ""
    level = direct.schedule.level(500)
    x = networks.random(3, *case.shape)
    labels = torch.tensor([2, 0, 1])
    assert torch.equal(read.given(labels)(x, level), direct.given(labels)(x, level))


def test_one_prompt_is_that_of_all_samples() -> None:
    pipe = whole("SD")
    one, several = (eb.adapt(pipe, prompts=texts) for texts in (TEXTS[1:2], TEXTS))
    assert (one.classes, several.classes) == (None, 3)
    x, level = networks.random(4, 4, 8, 8), one.schedule.level(300)
    both = one(x, level), several.given([1, 1, 1, 1])(x, level)
    torch.testing.assert_close(*both, rtol=0, atol=1e-6)
    assert (several.given([0, 1, 2, 1])(x, level) - both[0]).abs().flatten(1).amax(1).tolist()[
        ::2
    ] > [1e-4, 1e-4]


def test_each_sample_keeps_its_prompt_at_every_batch_size() -> None:
    model = eb.adapt(whole("SD"), prompts=TEXTS)
    runs = [
        eb.record(model, data((4, 8, 8)), sampler="ddim", steps=3, n=12, batch_size=size)
        for size in (5, 12)
    ]
    for stream in ("forward", "chain"):
        a, b = (run[stream]["epsilon_norm"].values for run in runs)
        np.testing.assert_allclose(a[:, :-1], b[:, :-1], rtol=1e-5)
    shifted = data((4, 8, 8))
    shifted = eb.load_data(shifted.images, value_range=None, labels=(shifted.labels + 1) % 3)
    other = eb.record(model, shifted, sampler="ddim", steps=3, n=12)
    difference = other["forward"]["epsilon_norm"].values - runs[1]["forward"]["epsilon_norm"].values
    assert np.abs(difference[:, :-1]).max() > 1e-4
    with fails("they differ in data labels"):
        eb.merge([runs[1], eb.record(model, shifted, sampler="ddim", steps=3, n=12, first=12)])


def test_prompts_are_part_of_a_runs_identity(tmp_path: Path) -> None:
    pipe = whole("SD")
    images = data((4, 8, 8), labels=False)

    def run(first: int = 0, **told: Any) -> eb.Recording:
        model = eb.adapt(pipe, **told)
        return eb.record(model, images, sampler="ddim", steps=3, n=12, first=first)

    cat = run(prompts=["a cat"])
    assert cat.run.model.conditions != run(prompts=["a dog"]).run.model.conditions
    cat.save(tmp_path / "cat.nc")
    assert eb.load(tmp_path / "cat.nc").run == cat.run
    with fails("they differ in model conditions: .* against "):
        eb.merge([cat, run(12, prompts=["a dog"])])
    eb.merge([cat, run(12, prompts=["a cat"])])


def test_encoders_run_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole("SD").save_pretrained(tmp_path / "folder")
    place = tmp_path / "out" / "prompts.safetensors"
    made: list[str] = []
    loaded = prompts._loaded

    def watched(*given: Any) -> Any:
        made.append("pipeline")
        return loaded(*given)

    monkeypatch.setattr(prompts, "_loaded", watched)

    def adapt(texts: list[str], **told: Any) -> eb.Denoiser:
        return eb.adapt(tmp_path / "folder", prompts=texts, encoded=place, **told)

    first, second = adapt(TEXTS), adapt(TEXTS)
    assert len(made) == 1
    assert first.conditions == second.conditions
    assert adapt(TEXTS[:2]).conditions != first.conditions
    assert len(made) == 2
    adapt(TEXTS, guidance_scale=2.0)
    adapt(TEXTS, guidance_scale=2.0, negative_prompt="red")
    assert len(made) == 4
    adapt(TEXTS)
    config = tmp_path / "folder" / "tokenizer" / "tokenizer_config.json"
    config.write_text(config.read_text().replace('"model_max_length": 8', '"model_max_length": 7'))
    adapt(TEXTS)
    assert len(made) == 6
    place.write_bytes(b"damaged")
    assert adapt(TEXTS).classes == 3
    assert len(made) == 7


def changed(folder: Path, **parts: Any) -> Path:
    """The folder, whose index names other parts."""
    path = folder / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | parts))
    return folder


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a text in place of a list": (
        lambda f: eb.adapt(f, prompts="a cat"),
        "prompts are 'a cat': give a list of texts",
    ),
    "no prompt": (lambda f: eb.adapt(f, prompts=[]), r"prompts are \[\]: give a list of texts"),
    "a number": (lambda f: eb.adapt(f, prompts=[3]), r"prompts are \[3\]: give a list of texts"),
    "a negative prompt without guidance": (
        lambda f: eb.adapt(f, prompts=TEXTS, negative_prompt="red"),
        "nothing is guided: give a guidance_scale .* above 1",
    ),
    "a negative prompt without prompts": (
        lambda f: eb.adapt(f, negative_prompt="red", guidance_scale=2.0),
        "a negative prompt is given without prompts",
    ),
    "prompts and embeddings": (
        lambda f: eb.adapt(f, prompts=TEXTS, prompt_embeds=networks.random(1, 3, 8)),
        "prompts and prompt_embeds are both given",
    ),
    "a network alone": (
        lambda f: eb.adapt(networks.text_unet(), diffusers.DDIMScheduler(), prompts=TEXTS),
        r"prompts need the pipeline's encoders: give the pipeline or its folder",
    ),
    "an encoder that is not there": (
        lambda f: eb.adapt(changed(f, text_encoder_2=["transformers", "T5Model"]), prompts=TEXTS),
        "names a text_encoder_2 in its model_index.json, but has no folder text_encoder_2",
    ),
    "an encoder of the repository's own": (
        lambda f: eb.adapt(changed(f, text_encoder=["mine", "Encoder"]), prompts=TEXTS),
        "has a Encoder of mine as its text_encoder: only text encoders and tokenizers of transf",
    ),
    "no encoder of the pipeline": (
        lambda f: eb.adapt(
            diffusers.StableDiffusionPipeline(
                None, None, None, networks.text_unet(), diffusers.DDIMScheduler(), None, None
            ),
            prompts=TEXTS,
        ),
        "the text_encoder of this StableDiffusionPipeline is missing: load it",
    ),
    "encoders of nobody": (
        lambda f: eb.adapt(changed(f, _class_name="DDPMPipeline"), prompts=TEXTS),
        "a DDPMPipeline, has no encoders of text",
    ),
    "an encoder that fails": (
        lambda f: eb.adapt(
            pipeline(CASES["SD"], text_encoder=t5(), tokenizer=lambda *a, **k: 1 / 0),
            prompts=TEXTS,
        ),
        "StableDiffusionPipeline cannot encode the prompts: 'function' object has",
    ),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "folder"
    whole("SD").save_pretrained(folder)
    return folder


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case: str, saved: Path) -> None:
    index = (saved / "model_index.json").read_text()
    run, message = BAD[case]
    try:
        with fails(message):
            run(saved)
    finally:
        (saved / "model_index.json").write_text(index)


def test_without_transformers(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "transformers", None)
    with fails("this needs the library transformers|importing transformers"):
        eb.adapt(saved, prompts=TEXTS)


def test_encoders_that_are_pickles_are_refused(saved: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(saved, tmp_path / "folder")
    weights = tmp_path / "folder" / "text_encoder" / "model.safetensors"
    weights.rename(weights.with_name("pytorch_model.bin"))
    with fails("has no weights as .safetensors: save the pipeline again with safe_serialization"):
        eb.adapt(tmp_path / "folder", prompts=TEXTS)
