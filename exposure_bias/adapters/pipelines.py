"""A diffusers pipeline as files.

The layouts they come in, what is read of them, and the checks before it.

    model_index.json                                      names the classes; absent in some of 2022
    unet/config.json, transformer/…, or config.json       the network: in a folder, or at the root
    scheduler/scheduler_config.json, or at the root       the scheduler
    diffusion_pytorch_model.safetensors                   the weights, beside the configuration,
    ….safetensors.index.json and its shards               or in several files,
    diffusion_pytorch_model.fp16.safetensors              or, if they are all, in half precision

A repository is a function from a file's name to where that file lies, so that one reader serves
folders and the hub, which then fetches what is asked for and nothing else. Only JSON and
safetensors are read, and only networks that `families.NETWORKS` names and diffusers' schedulers
are made: a repository's own code is never looked at.

The network is built twice: on torch's meta device, where a configuration of absurd size costs
nothing, to compare its weights with those in the files and with this machine's memory; and, where
that leaves something to be computed (DiT's and SD3's positions), in earnest. Weights are float32
afterwards, whatever they were."""

import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from exposure_bias.adapters.families import FAMILIES, class_named
from exposure_bias.errors import InputError, reason
from exposure_bias.files import weights
from exposure_bias.files.library import library

WEIGHTS = "diffusion_pytorch_model"
VARIANTS = ("", ".fp16", ".bf16")
TIMESTEPS = 100_000  # at most; the longest published schedule has 4000
DEPTH = 1_000  # layers at most; SDXL has about 70
# numbers at most in tensors that no file fills; DiT's positions at 512 pixels are 1.2 million
COMPUTED = 25_000_000
# What folders of the hub call DiT and PixArt by their older name.
OLDER_NAME = "Transformer2DModel"
AUTOENCODERS = (
    "AutoencoderKL",
    "AutoencoderDC",
    "AutoencoderKLCogVideoX",
    "AutoencoderKLLTXVideo",
    "AutoencoderKLWan",
    "VQModel",
)
# The attention of 2022 under its names of today.
RENAMED = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


@dataclass(frozen=True)
class Repository:
    """Files by name.

    get: where a file lies, None if there is none. folder: the folder that then holds the files of
    these patterns. absent: why a file might be missing, else "".
    """

    name: str
    get: Callable[[str], Path | None]
    folder: Callable[[list[str]], Path]
    absent: str = ""


@dataclass(frozen=True)
class Pipeline:
    """What was read.

    part: the network's place, "unet" or "transformer". variant: of the weights, "" or ".fp16".
    autoencoder: without weights, None where nobody asks it for its factor of size.
    """

    net: Any
    scheduler: Any
    name: str
    class_name: str
    part: str
    variant: str
    autoencoder: nn.Module | None


def local(folder: Path) -> Repository:
    """The files of a folder."""

    def get(name: str) -> Path | None:
        return folder / name if (folder / name).exists() else None

    return Repository(str(folder), get, lambda patterns: folder)


def diffusers_library() -> Any:
    """diffusers, imported.

    Raises InputError where it is missing, or another file of that name stands before it."""
    return library("diffusers", "DDPMScheduler", "diffusers>=0.35")


def read(repository: Repository, check: Callable[[str, dict[str, str]], None]) -> Pipeline:
    """Network, in evaluation mode, and scheduler of a repository.

    check: called with the pipeline's class and {part: class}, to refuse what is no denoiser or of a
    class unknown.

    Raises InputError for a file that is missing, damaged, too large or of the wrong kind; for a
    configuration of which diffusers makes nothing; for weights that are missing, too many or
    misshapen."""
    class_name, parts = index(repository)
    part = "unet" if "unet" in parts else "transformer"
    folder = f"{part}/" if repository.get(f"{part}/config.json") else ""
    if parts.get(part) == OLDER_NAME:
        name = class_named(OLDER_NAME, _config(repository, f"{folder}config.json"))
        parts = parts | {part: name}
    check(class_name, parts)
    config = _config(repository, f"{folder}config.json") | {"_class_name": parts[part]}
    scheduler = _scheduler(repository, parts["scheduler"])
    net, variant = _network(repository, parts[part], config, folder)
    coder = None
    told_size = FAMILIES[parts[part]].told_size and parts.get("vae") in AUTOENCODERS
    if told_size and repository.get("vae/config.json") is not None:
        config = _config(repository, "vae/config.json")
        coder = _without_memory(parts["vae"], config, f"{repository.name}: vae/config.json")
    return Pipeline(net, scheduler, repository.name, class_name, part, variant, coder)


def autoencoder(repository: Repository) -> nn.Module:
    """The autoencoder of a latent model's repository, in evaluation mode.

    Raises InputError where there is none, or one of a class unknown, and as `read`."""
    name = index(repository)[1].get("vae", "")
    if name not in AUTOENCODERS:
        came = f"a {name}" if name else "none"
        raise InputError(
            f"{repository.name} has no autoencoder that images could be encoded with (it has"
            f" {came}; known are {', '.join(AUTOENCODERS)}): give latents, encoded with"
            " eb.adapters.latents.encode(vae, images)"
        )
    return _network(repository, name, _config(repository, "vae/config.json"), "vae/")[0]


def index(repository: Repository) -> tuple[str, dict[str, str]]:
    """The pipeline's class and {part: class}.

    Without an index, of the parts that lie side by side at the root."""
    path = repository.get("model_index.json")
    if path is None:
        return "", _side_by_side(repository)
    try:
        index = weights.read_json(path)
    except InputError as error:
        raise InputError(f"{path} does not list a pipeline's parts: {error}") from error
    parts = {}
    for part, value in index.items():
        if isinstance(value, list):
            if len(value) != 2 or not all(isinstance(v, str | None) for v in value):
                raise InputError(
                    f"{path} does not list a pipeline's parts: {part} is {reason(str(value))}"
                )
            if value[1]:
                parts[part] = value[1]
    return str(index.get("_class_name")), parts


def _side_by_side(repository: Repository) -> dict[str, str]:
    network, scheduler = (repository.get(name) for name in ("config.json", "scheduler_config.json"))
    if network is None:
        raise InputError(
            f"{repository.name} is no diffusers pipeline folder: it has no"
            f" model_index.json{repository.absent}"
        )
    name = _class_name(network)
    if scheduler is None:
        raise InputError(
            f"{repository.name} holds a {name} without its scheduler: load both, as in"
            f" eb.adapt(diffusers.{name}.from_pretrained(folder), diffusers.DDPMScheduler(...)), or"
            " save the whole pipeline"
        )
    part = "transformer" if "Transformer" in name else "unet"
    return {part: name, "scheduler": _class_name(scheduler)}


def _class_name(path: Path) -> str:
    name = weights.read_json(path).get("_class_name")
    if not isinstance(name, str):
        raise InputError(
            f"{path} does not say its class: it has no _class_name; save the whole pipeline"
        )
    return name


def file(repository: Repository, name: str) -> Path:
    """A file that has to be there. Raises InputError where it is not."""
    path = repository.get(name)
    if path is None:
        raise InputError(
            f"{repository.name} has no {name}{repository.absent}: save the whole pipeline"
        )
    return path


def _config(repository: Repository, name: str) -> dict[str, Any]:
    return weights.read_json(file(repository, name))


def _scheduler(repository: Repository, class_name: str) -> Any:
    scheduler_class: Any = (
        getattr(diffusers_library(), class_name, None) if class_name.isidentifier() else None
    )
    if scheduler_class is None or not class_name.endswith("Scheduler"):
        raise InputError(
            f"{repository.name} names the scheduler {class_name}, which diffusers does not have"
        )
    inside = "scheduler/scheduler_config.json"
    place = file(repository, inside if repository.get(inside) else "scheduler_config.json")
    # diffusers writes so a bound that is not there: lambda_min_clipped of DPMSolverMultistep.
    config = weights.read_json(place, ("-Infinity",))
    check_timesteps(config.get("num_train_timesteps"), f"num_train_timesteps of {repository.name}")
    betas = config.get("trained_betas")
    if betas is not None and not (isinstance(betas, list) and len(betas) <= TIMESTEPS):
        raise InputError(
            f"trained_betas of {repository.name} are no list of at most {TIMESTEPS:,} numbers"
        )
    try:
        with quiet():
            return scheduler_class.from_config(config)
    except Exception as error:  # whatever a constructor says to its numbers
        raise InputError(
            f"{repository.name} has a {class_name} of which diffusers makes nothing:"
            f" {reason(error)}"
        ) from error


def check_timesteps(value: Any, what: str) -> None:
    """Raise InputError unless a number of training timesteps can be one.

    It may be absent; else it is whole and of a possible size."""
    if value is not None and (type(value) is not int or not 0 < value <= TIMESTEPS):
        raise InputError(
            f"{what} is {reason(str(value))}: a whole number from 1 to {TIMESTEPS:,} is allowed"
        )


def _network(
    repository: Repository, class_name: str, config: dict[str, Any], folder: str
) -> tuple[nn.Module, str]:
    """A network with its weights, and their variant."""
    where = f"{repository.name}: {folder}config.json"
    net = _without_memory(class_name, config, where)
    files, variant = _weight_files(repository, folder)
    shapes: weights.Shapes = {}
    for path in files:
        shapes |= weights.shapes_in(path)
    names = _names(net, shapes)
    came = {names[name]: shape for name, shape in shapes.items() if name in names}
    problems = weights.differences(came, weights.shapes_of(net.state_dict()))
    if problems:
        raise InputError(
            f"the weights of {repository.name} are not those of its {folder}config.json: {problems}"
        )
    if _left_to_compute(net, where):
        with quiet():
            net = getattr(diffusers_library(), class_name).from_config(config)
    state: dict[str, Tensor] = {}
    for path in files:
        state |= {
            names[name]: value
            for name, value in weights.read_safetensors(path).items()
            if name in names
        }
    net.load_state_dict(state, assign=True)
    return net.float().eval(), variant


def _without_memory(class_name: str, config: dict[str, Any], where: str) -> nn.Module:
    check_depth(config, where)
    try:
        with quiet(), torch.device("meta"):
            net: nn.Module = getattr(diffusers_library(), class_name).from_config(config)
    except InputError:
        raise
    except Exception as error:  # whatever a constructor says to its numbers
        raise InputError(f"{where} describes no {class_name}: {reason(error)}") from error
    weights.check_memory(net, where)
    return net


def check_depth(config: dict[str, Any], where: str) -> None:
    """Raise InputError for a network of far too many layers.

    Only to list them would take minutes and gigabytes."""
    blocks = max((len(value) for value in config.values() if isinstance(value, list)), default=0)
    layers, inner = (
        _largest(config.get("layers_per_block")),
        _largest(config.get("transformer_layers_per_block")),
    )
    depth = max(blocks, 1) * max(layers, 1) * max(inner, 1)
    counts = (key for key in config if re.fullmatch(r"num_(\w+_)?(layers|heads)", str(key)))
    depth = max(depth, blocks, *(_largest(config[key]) for key in counts), 0)
    if depth > DEPTH or _largest(config.get("sample_size")) > 2**16:
        raise InputError(
            f"{where} describes {depth:,} layers, or states beyond 65,536 pixels: at most {DEPTH:,}"
            " are built"
        )


def _largest(value: Any) -> int:
    """The largest whole number in a value, or in lists of lists; 0 if there is none."""
    if isinstance(value, list | tuple):
        return max((_largest(v) for v in value), default=0)
    return value if isinstance(value, int) else 0


def _weight_files(repository: Repository, folder: str) -> tuple[list[Path], str]:
    """The files that hold the weights, and their variant."""
    for variant in VARIANTS:
        single = repository.get(f"{folder}{WEIGHTS}{variant}.safetensors")
        if single is not None:
            return [single], variant
        for index_name in (
            f"{WEIGHTS}.safetensors.index{variant}.json",
            f"{WEIGHTS}{variant}.safetensors.index.json",
        ):
            index = repository.get(folder + index_name)
            if index is not None:
                return _shards(repository, folder, index), variant
    raise InputError(_no_weights(repository, folder))


def _shards(repository: Repository, folder: str, index: Path) -> list[Path]:
    places = weights.read_json(index).get("weight_map")
    names = sorted({str(name) for name in places.values()}) if isinstance(places, dict) else []
    if not names or not all(re.fullmatch(r"[\w.-]+\.safetensors", name) for name in names):
        raise InputError(
            f"{index} names no .safetensors files beside it in its weight_map: save the network"
            " again"
        )
    found = {name: repository.get(folder + name) for name in names}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        raise InputError(
            f"{index} names {weights.few(missing)}, not there{repository.absent}: fetch all its"
            " files"
        )
    return [path for path in found.values() if path is not None]


def _no_weights(repository: Repository, folder: str) -> str:
    name = f"{folder}{WEIGHTS}"
    if repository.get(f"{name}.bin") is None:
        return f"{repository.name} has no {name}.safetensors{repository.absent}"
    return (
        f"{repository.name} has its weights in {name}.bin only, a pickle, which may run any code it"
        " holds: convert it, "
        'python -c "import torch; from safetensors.torch import save_file;'
        f" save_file(torch.load({name + '.bin'!r}, "
        f'weights_only=True), {name + ".safetensors"!r})" in its folder'
    )


def _names(net: nn.Module, came: weights.Shapes) -> dict[str, str]:
    """Each weight's name in the files, and in the network.

    The latter without marks, and as attention is called today."""
    plain = weights.plain_names(came)
    places = [
        name
        for name, module in net.named_modules()
        if getattr(module, "_from_deprecated_attn_block", False)
    ]
    for name, short in plain.items():
        module, _, rest = short.rpartition(".")
        parent, _, last = module.rpartition(".")
        if last in RENAMED and parent in places:
            plain[name] = f"{parent}.{RENAMED[last]}.{rest}"
    doubled = [name for name, count in Counter(plain.values()).items() if count > 1]
    if doubled:
        raise InputError(
            f"the weights {weights.few(doubled)} are there twice, with and without a wrapper's mark"
        )
    return plain


def _left_to_compute(net: nn.Module, where: str) -> bool:
    """Whether a network keeps tensors that its weights do not fill.

    Buffers that are not saved, plain attributes.

    Raises InputError for so many numbers in them that to compute them would take gigabytes.
    """
    saved = set(net.state_dict())
    tensors = [value for name, value in net.named_buffers() if name not in saved]
    for module in net.modules():
        for name, value in vars(module).items():
            if name not in ("_parameters", "_buffers", "_modules"):
                tensors += _tensors_in(value)
    count = sum(tensor.numel() for tensor in tensors)
    if count > COMPUTED:
        raise InputError(
            f"{where} describes {count:,} numbers of positions: at most {COMPUTED:,} are computed"
        )
    return bool(tensors)


def _tensors_in(value: Any) -> list[Tensor]:
    """A tensor, or those of a list: Lumina2 keeps its rotary places so."""
    if isinstance(value, list | tuple):
        return [inner for each in value for inner in _tensors_in(each)]
    return [value] if isinstance(value, Tensor) else []


@contextmanager
def quiet() -> Iterator[None]:
    """Without what diffusers logs of options that it does not know.

    Warnings that no user can act on are left out, too."""
    from diffusers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logging.set_verbosity(level)
