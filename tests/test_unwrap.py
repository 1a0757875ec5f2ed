"""Wrapped networks: what is inside is adapted, and what cannot be taken out is refused with a cure
that works."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import diffusers
import libraries
import pytest
import torch
from libraries import SHAPE, EDMPrecond, GaussianDiffusion, Net
from networks import PROMPT, fails, text_unet, unet
from test_diffusers_adapter import folder, positive
from torch import nn

import exposure_bias as eb
from exposure_bias.adapters.unwrap import unwrapped

# torch's own, and diffusers 0.42.1's own use of numpy 2
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning"),
]

X = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A group of this one process."""
    if not torch.distributed.is_available() or torch.distributed.is_initialized():
        pytest.skip("torch.distributed is not to be had")
    store = torch.distributed.FileStore(str(tmp_path_factory.mktemp("group") / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


class EMA(nn.Module):
    """ema_pytorch's: an online network and its average, which is what it answers with."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.online_model, self.ema_model = Net(7), model

    def forward(self, *inputs: Any) -> Any:
        return self.ema_model(*inputs)


WRAPPERS: dict[str, Callable[[nn.Module], Any]] = {
    "compiled": torch.compile,
    "DataParallel": nn.DataParallel,
    "AveragedModel": torch.optim.swa_utils.AveragedModel,
    "EMA": EMA,
    "twice": lambda net: torch.compile(nn.DataParallel(net)),
    "thrice": lambda net: nn.DataParallel(torch.compile(torch.optim.swa_utils.AveragedModel(net))),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_wrapped_network_is_the_network(wrapper: str) -> None:
    wrap, scheduler, plain = (
        WRAPPERS[wrapper],
        diffusers.DDPMScheduler(),
        eb.adapt(unet(), diffusers.DDPMScheduler()),
    )
    model = eb.adapt(wrap(unet()), scheduler)
    level = plain.schedule.level(300)
    assert (model.weight_hash, model.name, model.shape) == (
        plain.weight_hash,
        "UNet2DModel",
        (1, 8, 8),
    )
    assert torch.equal(model(X, level), plain(X, level))

    pipe = diffusers.DDPMPipeline(unet(), scheduler)
    pipe.unet = wrap(pipe.unet)
    assert eb.adapt(pipe).weight_hash == plain.weight_hash


def test_distributed_data_parallel(group: None) -> None:
    net = unet()
    assert unwrapped(torch.compile(nn.parallel.DistributedDataParallel(net))) is net


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrapped_networks_of_other_families(wrapper: str) -> None:
    wrap = WRAPPERS[wrapper]
    scheduler = libraries.Scheduler()
    wrapped: dict[str, tuple[tuple[Any, ...], tuple[Any, ...]]] = {
        "edm": ((wrap(EDMPrecond()),), (EDMPrecond(),)),
        "diffusion": ((wrap(GaussianDiffusion(Net())),), (GaussianDiffusion(Net()),)),
        "the network in a diffusion": (
            (GaussianDiffusion(wrap_net(wrap)),),
            (GaussianDiffusion(Net()),),
        ),
        "flow": ((wrap(Net()), scheduler, SHAPE), (Net(), scheduler, SHAPE)),
        "k": (
            (wrap(libraries.Denoiser(Net())), eb.schedules.edm(0.01, 80), SHAPE),
            (libraries.Denoiser(Net()), eb.schedules.edm(0.01, 80), SHAPE),
        ),
    }
    for objects, plain in wrapped.values():
        assert eb.adapt(*objects).weight_hash == eb.adapt(*plain).weight_hash


def wrap_net(wrap: Callable[[nn.Module], Any]) -> Any:
    """A wrapped Net, with the two attributes that the stand-in of its diffusion asks of it."""
    wrapped = wrap(Net())
    wrapped.channels, wrapped.self_condition = 3, False
    return wrapped


def test_compiled_in_place_it_runs_compiled() -> None:
    """The way to run compiled that the documentation names: hash and hooks stay, numbers agree to
    round-off."""
    model, plain = (eb.adapt(unet(), diffusers.DDPMScheduler()) for _ in range(2))
    calls: list[int] = []

    def backend(graph: Any, example: Any) -> Any:
        calls.append(1)
        return graph.forward

    model.net.compile(backend=backend)
    level = plain.schedule.level(300)
    torch.testing.assert_close(model(X, level), plain(X, level))
    assert calls
    assert model.weight_hash == plain.weight_hash


def test_a_compiled_text_network() -> None:
    model = eb.adapt(torch.compile(text_unet()), diffusers.DDIMScheduler(), **positive(PROMPT))
    assert model.shape == (4, 8, 8)


# What cannot be taken out.


def test_an_average_without_a_network() -> None:
    from diffusers.training_utils import EMAModel

    net, average = unet(), unet()
    for parameter in average.parameters():
        parameter.data.mul_(0.5)
    ema = EMAModel(average.parameters())
    with fails(
        r"EMAModel holds averaged weights without a network: copy them into it with"
        r" (ema\.copy_to\(.*\)\)) and g"
    ):
        eb.adapt(ema, diffusers.DDPMScheduler())
    ema.copy_to(net.parameters())
    assert eb.adapt(net, ddpm()).weight_hash == eb.adapt(average, ddpm()).weight_hash


def ddpm() -> diffusers.DDPMScheduler:
    return diffusers.DDPMScheduler()


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"
)
def test_a_share_of_the_weights(version: int, group: None) -> None:
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

    if version == 1:
        sharded: nn.Module = FullyShardedDataParallel(unet(), device_id=torch.device("cpu"))
    else:
        sharded = unet()
        fully_shard(sharded, mesh=init_device_mesh("cpu", (1,)))
    for objects in ((sharded, ddpm()), (sharded,)):
        with fails(
            r"holds a share of the weights in each process: load all of them .*"
            r" (net\.load_state_dict.*\)\)\))"
        ) as e:
            eb.adapt(*objects)
    cure = re.search(r"net\.load_state_dict.*\)\)\)", str(e.value))
    assert cure is not None
    net = unet()
    for parameter in net.parameters():
        parameter.data.zero_()
    names = {"net": net, "sharded": sharded, "get_model_state_dict": get_model_state_dict}
    exec(cure[0], names | {"StateDictOptions": StateDictOptions})
    assert eb.adapt(net, ddpm()).weight_hash == eb.adapt(unet(), ddpm()).weight_hash


def test_weights_that_are_not_here() -> None:
    with torch.device("meta"):
        net = unet()
    with fails(
        r"UNet2DModel has \d+ weights on the meta device, conv_in\.weight"
        r" first.*load_state_dict\(weights, assign"
    ):
        eb.adapt(net, ddpm())
    net.load_state_dict(unet().state_dict(), assign=True)
    assert eb.adapt(net, ddpm()).weight_hash == eb.adapt(unet(), ddpm()).weight_hash


def test_weights_that_accelerate_keeps_elsewhere() -> None:
    """As accelerate's cpu_offload leaves a network: without the library, that is not among the
    dependencies."""
    with torch.device("meta"):
        net = unet()
    net.conv_in._hf_hook = object()
    pipe = diffusers.DDPMPipeline(unet(), ddpm())
    pipe.unet = net
    for objects in ((net, ddpm()), (pipe,)):
        with fails(
            r"accelerate\.hooks\.remove_hook_from_module\(net,"
            r" recurse=True\).*pipe\.remove_all_hooks\(\)"
        ):
            eb.adapt(*objects)


def test_weights_that_accelerate_keeps_elsewhere_come_back() -> None:
    accelerate = pytest.importorskip(
        "accelerate", reason="accelerate is no dependency; the cure was tried with 1.15.0"
    )
    net = unet()
    accelerate.cpu_offload(net, execution_device=torch.device("cpu"))
    with fails("remove_hook_from_module"):
        eb.adapt(net, ddpm())
    accelerate.hooks.remove_hook_from_module(net, recurse=True)
    assert eb.adapt(net, ddpm()).weight_hash == eb.adapt(unet(), ddpm()).weight_hash


def test_mixed_precision_from_outside_is_noted() -> None:
    net = unet()
    assert eb.adapt(net, ddpm()).note == ""
    net._original_forward = net.forward  # as accelerator.prepare leaves it
    assert eb.adapt(net, ddpm()).note == "computes under accelerate's mixed precision"


def test_nothing_that_is_given_is_changed() -> None:
    pipe = diffusers.DDPMPipeline(unet().train(), ddpm())
    before = dict(pipe.components)
    modes = [module.training for module in pipe.unet.modules()]
    eb.adapt(pipe)
    assert dict(pipe.components) == before
    assert [module.training for module in pipe.unet.modules()] == modes == [True] * len(modes)


def test_a_library_that_is_missing_or_broken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    where = folder(tmp_path, "DDPMPipeline", ddpm(), unet=unet())
    monkeypatch.setitem(sys.modules, "diffusers", ModuleType("diffusers"))
    with fails("is not the library diffusers"):
        eb.load_model(where)
