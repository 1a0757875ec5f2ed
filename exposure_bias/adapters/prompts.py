"""Embeddings of prompts: a pipeline's own encoders, run once.

`encode` calls the pipeline's `encode_prompt` with the options that its `__call__` has by default
(the longest prompt, Sana's instruction, …), so that a prompt is encoded as the pipeline itself
would encode it. The encoders are needed no more afterwards: what they said is kept in a safetensors
file, and read from there by the next run of the same prompts and the same encoders.

From a folder or the hub only the tokenizers and text encoders are loaded, by the library
transformers, from safetensors; no code of a repository runs."""

import hashlib
import inspect
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from exposure_bias import files
from exposure_bias.adapters import pipelines
from exposure_bias.adapters.conditions import NEGATIVE
from exposure_bias.errors import InputError, reason
from exposure_bias.files import weights
from exposure_bias.files.library import library

BATCH = 16
# Parts of a pipeline that turn a text into numbers.
PART = re.compile(r"(text_encoder|tokenizer)(_\d)?")
CLASS = re.compile(
    r"[A-Z]\w*(Model|ModelWithProjection|ForCausalLM|Tokenizer|TokenizerFast|TokenizersBackend)"
    r"|TokenizersBackend"
)
# What lies in their folders: tokenizers' vocabularies, and weights as safetensors.
ENCODERS = [
    f"{part}*/{name}"
    for part in ("text_encoder", "tokenizer")
    for name in ("*.json", "*.txt", "*.model", "*.safetensors")
]
# What `encode_prompt` returns, by how many values: without and with pooled embeddings.
TEXT = ("prompt_embeds", "negative_prompt_embeds")
FLUX = ("prompt_embeds", "pooled_prompt_embeds", "text_ids")
POOLED = (*TEXT, "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
MASKED = (
    "prompt_embeds",
    "prompt_attention_mask",
    "negative_prompt_embeds",
    "negative_prompt_attention_mask",
)
WITH_POOLED = ("StableDiffusionXL", "StableDiffusion3")


@dataclass(frozen=True)
class Encoders:
    """A pipeline that encodes prompts.

    pipeline: makes it, or gives it. digest: of its tokenizers and encoders, "" where they are held
    in memory, so that nothing that they said can be read again from a file."""

    pipeline: Callable[[], Any]
    digest: Callable[[], str] = lambda: ""


def of_repository(repository: pipelines.Repository, class_name: str) -> Encoders:
    """The encoders of a folder, or of a repository of the hub."""
    return Encoders(lambda: _loaded(repository, class_name), lambda: _digest(repository))


def encode(
    encoders: Encoders | None,
    texts: Sequence[str],
    negative: str | None,
    guided: bool,
    place: Path | None = None,
) -> dict[str, Tensor]:
    """Encode K prompts.

    Parameters
    ----------
    encoders
        The pipeline's; None raises.
    texts
        K prompts.
    negative
        What guidance leads away from; None is the pipeline's own, mostly "".
    guided
        Whether the negative prompt is encoded as well.
    place
        A file to keep the embeddings in, or to read them from if they are of these prompts.

    Returns
    -------
    dict
        Tensors (K, …) by the names of `encode_prompt`'s arguments, those with negative_ (1, …).

    Raises
    ------
    InputError
        For no prompt or one that is no text, and for encoders that are missing."""
    if isinstance(texts, str) or not texts or not all(isinstance(t, str) for t in texts):
        raise InputError(
            f"prompts are {texts!r:.60}: give a list of texts, one for all samples or several"
        )
    if not (negative is None or isinstance(negative, str)):
        raise InputError(f"the negative prompt is {negative!r:.60}: give a text")
    if encoders is None:
        raise InputError(
            "prompts need the pipeline's encoders: give the pipeline or its folder instead of"
            " (network, scheduler), or give prompt_embeds="
        )
    digest = encoders.digest() if place is not None else ""
    key = hashlib.sha256(json.dumps([digest, *texts, negative, guided]).encode()).hexdigest()[:16]
    if digest and place is not None and place.exists():
        kept = _read(place, key)
        if kept is not None:
            return kept
    made = _encoded(encoders.pipeline(), texts, negative, guided)
    if place is not None:
        _write(place, made, key)
    return made


def _encoded(
    pipeline: Any, texts: Sequence[str], negative: str | None, guided: bool
) -> dict[str, Tensor]:
    _check(pipeline)
    options = _options(pipeline)
    made = [
        _call(pipeline, texts[i : i + BATCH], options | {"do_classifier_free_guidance": False})
        for i in range(0, len(texts), BATCH)
    ]
    tables = {
        name: torch.cat([part[name] for part in made])
        for name in made[0]
        if not name.startswith(NEGATIVE)
    }
    if not guided:
        return tables
    if "negative_prompt" not in inspect.signature(pipeline.encode_prompt).parameters:
        both = _call(pipeline, [negative or ""], options)  # Flux encodes both alike
        return tables | {NEGATIVE + name: value for name, value in both.items()}
    away = options["negative_prompt"] if negative is None else negative
    options["negative_prompt"] = away if away is None else [away]
    both = _call(pipeline, texts[:1], options | {"do_classifier_free_guidance": True})
    return tables | {name: value for name, value in both.items() if name.startswith(NEGATIVE)}


def _check(pipeline: Any) -> None:
    """Raise InputError unless a pipeline has what encodes prompts."""
    name = type(pipeline).__name__
    if not hasattr(pipeline, "encode_prompt"):
        raise InputError(f"a {name} encodes no prompts: leave prompts out, or give prompt_embeds=")
    parts = pipeline.components
    optional = getattr(pipeline, "_optional_components", [])
    for part, value in parts.items():
        if PART.fullmatch(part) and value is None and part not in optional:
            raise InputError(
                f"the {part} of this {name} is missing: load it, or give prompt_embeds="
            )


def _options(pipeline: Any) -> dict[str, Any]:
    """What `encode_prompt` is called with beside the prompts: the defaults of `__call__`."""
    takes = inspect.signature(pipeline.encode_prompt).parameters
    defaults = inspect.signature(type(pipeline).__call__).parameters
    options: dict[str, Any] = {
        name: defaults[name].default
        for name in takes
        if name in defaults and defaults[name].default is not inspect.Parameter.empty
    }
    options |= {"prompt_2": None, "prompt_3": None, "device": pipeline._execution_device}
    options |= {"num_images_per_prompt": 1, "num_videos_per_prompt": 1}
    return {name: value for name, value in options.items() if name in takes}


def _call(pipeline: Any, texts: Sequence[str], options: dict[str, Any]) -> dict[str, Tensor]:
    """The embeddings by name; those that there are none of are left out."""
    takes = inspect.signature(pipeline.encode_prompt).parameters
    options = {name: value for name, value in options.items() if name in takes}
    try:
        with pipelines.quiet(), torch.no_grad():
            made = pipeline.encode_prompt(**options | {"prompt": list(texts)})
    except Exception as error:  # of transformers, of a tokenizer, …
        raise InputError(
            f"{type(pipeline).__name__} cannot encode the prompts: {reason(error)}"
        ) from error
    names = {2: TEXT, 3: FLUX, 4: MASKED}.get(len(made), ())
    if type(pipeline).__name__.startswith(WITH_POOLED):
        names = POOLED
    if len(names) != len(made):
        raise InputError(
            f"{type(pipeline).__name__} encodes prompts to {len(made)} values, which we do not"
            " know: give prompt_embeds="
        )
    return {
        name: value.detach()
        for name, value in zip(names, made, strict=True)
        if value is not None and name != "text_ids"
    }


def _loaded(repository: pipelines.Repository, class_name: str) -> Any:
    """The pipeline of a repository, without its denoiser and autoencoder."""
    transformers = library("transformers", "CLIPTextModel", "transformers")
    cls: Any = getattr(pipelines.diffusers_library(), class_name, None)
    listed = weights.read_json(pipelines.file(repository, "model_index.json"))
    parts = {part: value for part, value in listed.items() if PART.fullmatch(part)}
    if not parts or not hasattr(cls, "encode_prompt"):
        raise InputError(
            f"{repository.name}, a {class_name or 'network alone'}, has no encoders of text: leave"
            " prompts out, or give prompt_embeds="
        )
    folder = repository.folder(ENCODERS)
    takes = inspect.signature(cls.__init__).parameters
    options = {name: listed.get(name) for name in takes if name not in ("self", *parts)}
    # Of what is listed only options stay: the denoiser, the autoencoder, … are not needed.
    options = {k: None if isinstance(v, list) else v for k, v in options.items()}
    defaults = {
        name: takes[name].default
        for name, value in options.items()
        if name not in listed and takes[name].default is not inspect.Parameter.empty
    }
    encoders = {part: _part(repository, folder, part, parts[part], transformers) for part in parts}
    try:
        with pipelines.quiet():
            pipeline = cls(**options | defaults | encoders)
    except Exception as error:  # whatever a constructor says to what it is given
        raise InputError(
            f"cannot make a {class_name} of the encoders of {repository.name}: {reason(error)}"
        ) from error
    if torch.accelerator.is_available():
        pipeline.to(torch.accelerator.current_accelerator())
    return pipeline


def _part(
    repository: pipelines.Repository, folder: Path, part: str, listed: Any, transformers: Any
) -> Any:
    """A tokenizer, or an encoder in evaluation mode; None where the pipeline does without.

    Raises InputError for what is none of the library transformers, and for weights that are not
    there as safetensors."""
    if listed == [None, None]:
        return None
    owner, name = listed if isinstance(listed, list) and len(listed) == 2 else ("", "")
    cls = getattr(transformers, str(name), None) if CLASS.fullmatch(str(name)) else None
    if owner != "transformers" or cls is None:
        raise InputError(
            f"{repository.name} has a {name or 'nothing'} of {owner or 'nowhere'} as its {part}:"
            " only text encoders and tokenizers of transformers are loaded; give prompt_embeds="
        )
    path = folder / part
    if not path.is_dir():
        raise InputError(
            f"{repository.name} names a {part} in its model_index.json, but has no folder"
            f" {part}{repository.absent}: save the whole pipeline, or give prompt_embeds="
        )
    options: dict[str, Any] = {"local_files_only": True}
    if part.startswith("text_encoder"):
        if not list(path.glob("*.safetensors")):
            raise InputError(
                f"{path} has no weights as .safetensors: save the pipeline again with"
                " safe_serialization=True, or give prompt_embeds="
            )
        options |= {"use_safetensors": True, _dtype(transformers): "auto"}
    try:
        with pipelines.quiet(), _without_bars(transformers):
            made = cls.from_pretrained(path, **options)
    except Exception as error:  # of transformers, of files that are damaged, …
        raise InputError(f"cannot load {path}: {reason(error)}") from error
    if not isinstance(made, torch.nn.Module):
        return made
    half_on_cpu = made.dtype == torch.float16 and not torch.accelerator.is_available()
    return (made.float() if half_on_cpu else made).eval()


@contextmanager
def _without_bars(transformers: Any) -> Iterator[None]:
    """Without transformers' own bars: it draws one for each shard of an encoder."""
    logging = transformers.utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _dtype(transformers: Any) -> str:
    """The name of the option of the weights' precision, which has changed."""
    return "dtype" if int(transformers.__version__.partition(".")[0]) >= 5 else "torch_dtype"


def _digest(repository: pipelines.Repository) -> str:
    """A hash of everything that the encoders are made of."""
    folder = repository.folder(ENCODERS)
    found = sorted(p for pattern in ENCODERS for p in folder.glob(pattern))
    digest = hashlib.sha256()
    for path in found:
        digest.update(path.relative_to(folder).as_posix().encode())
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _read(place: Path, key: str) -> dict[str, Tensor] | None:
    """The embeddings in a file if they are these; None otherwise."""
    from safetensors import safe_open
    from safetensors.torch import load_file

    try:
        with safe_open(str(place), framework="pt") as file:
            known = file.metadata() or {}
        return load_file(place) if known.get("key") == key else None
    except Exception:  # missing or damaged: made anew
        return None


def _write(place: Path, made: dict[str, Tensor], key: str) -> None:
    from safetensors.torch import save

    plain = {name: value.cpu().contiguous() for name, value in made.items()}
    os.makedirs(place.parent, exist_ok=True)
    files.write_bytes(place, save(plain, {"key": key}))
