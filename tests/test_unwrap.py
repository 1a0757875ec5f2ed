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
import numpy as np
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
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
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


class KarrasEMA(nn.Module):
    """ema_pytorch's, which answers with its average and keeps the online network out of sight."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.online_model, self.ema_model = [Net(7)], model


class LoraModel(nn.Module):
    """As PEFT's tuner, a BaseTuner, which has put its adapters into the network's own layers."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model


BaseTuner = type("BaseTuner", (LoraModel,), {})


class PeftModel(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.base_model = BaseTuner(model)


WRAPPERS: dict[str, Callable[[nn.Module], Any]] = {
    "compiled": torch.compile,
    "DataParallel": nn.DataParallel,
    "AveragedModel": torch.optim.swa_utils.AveragedModel,
    "EMA": EMA,
    "KarrasEMA": KarrasEMA,
    "PEFT": PeftModel,
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


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("PostHocEMA", r"give one of them, ema\.synthesize_ema_model\(sigma_rel=0\.05\)"),
        ("PowerFunctionEMA", r"give one of them, ema\.get\(\)\[0\]\[0\]"),
    ],
)
def test_averages_of_several_lengths(name: str, cure: str) -> None:
    with fails(f"{name} holds several averages of the weights: {cure}"):
        eb.adapt(type(name, (), {})(), diffusers.DDPMScheduler())


def test_ema_pytorch_itself(tmp_path: Path) -> None:
    library = pytest.importorskip("ema_pytorch")
    net = unet()
    average = library.KarrasEMA(net, sigma_rel=0.1)
    assert eb.adapt(average, ddpm()).weight_hash == eb.adapt(unet(), ddpm()).weight_hash
    several = library.PostHocEMA(net, sigma_rels=(0.05, 0.1), checkpoint_folder=str(tmp_path))
    several.checkpoint()
    with fails("holds several averages") as e:
        eb.adapt(several, ddpm())
    cure = str(e.value).partition("give one of them, ")[2]
    given = eval(cure, {"ema": several})
    assert eb.adapt(given, ddpm()).shape == (1, 8, 8)


def test_peft_itself() -> None:
    """The adapters are part of the network, of its numbers and of its hash."""
    peft = pytest.importorskip("peft")
    lora = peft.get_peft_model(unet(), peft.LoraConfig(target_modules=["conv1"]))
    for name, parameter in lora.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    model, plain = eb.adapt(lora, ddpm()), eb.adapt(unet(), ddpm())
    level = plain.schedule.level(300)
    assert (model.shape, model.name) == ((1, 8, 8), "UNet2DModel")
    assert model.weight_hash != plain.weight_hash
    timestep = torch.full((2,), 300)
    torch.testing.assert_close(model(X, level), lora(X, timestep).sample.detach())
    assert (model(X, level) - plain(X, level)).abs().max() > 1e-3


class Called(nn.Module):
    """A network of (x, t) that can be exported."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.layer(x) + 0 * t.view(-1, 1, 1, 1)


def whole(net: nn.Module) -> eb.Denoiser:
    return eb.Denoiser(
        net, schedule=eb.schedules.linear(), prediction_type="epsilon", shape=(1, 8, 8)
    )


def test_files_of_whole_networks(tmp_path: Path) -> None:
    """Answered with two lines, which load them; loaded they are recorded like the module itself."""
    net, example = Called().eval(), (X, torch.zeros(2))
    batch = torch.export.Dim("batch")
    program = torch.export.export(net, example, dynamic_shapes=({0: batch}, {0: batch}))
    torch.export.save(program, str(tmp_path / "net.pt2"))
    torch.jit.save(torch.jit.trace(net, example), str(tmp_path / "net.pt"))
    expected = eb.record(whole(net), "digits", steps=3, n=16)
    for name, kind in (("net.pt", "TorchScript"), ("net.pt2", "torch.export")):
        with fails(f"{name} is a {kind} file") as e:
            eb.load_model(tmp_path / name)
        lines = re.findall("`(.*?)`", str(e.value))
        scope: dict[str, Any] = {"torch": torch, "eb": eb}
        exec("\n".join(lines).replace("(3, 32, 32)", "(1, 8, 8)"), scope)
        rec = eb.record(scope["model"], "digits", steps=3, n=16)
        for variable in ("state_sum", "epsilon_norm"):
            np.testing.assert_allclose(
                rec["chain"][variable], expected["chain"][variable], rtol=1e-5, atol=1e-5
            )
    with fails(r"no module: give program\.module\(\)"):
        whole(program)
    given = unwrapped(program)
    torch.testing.assert_close(given(*example), net(*example))


def ddpm() -> diffusers.DDPMScheduler:
    return diffusers.DDPMScheduler()


@pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"
)
def test_a_share_of_the_weights(group: None) -> None:
    """FSDP1 is refused with a cure that works."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    from torch.distributed.fsdp import FullyShardedDataParallel

    sharded = FullyShardedDataParallel(unet(), device_id=torch.device("cpu"))
    for objects in ((sharded, ddpm()), (sharded,)):
        with fails(
            r"\(FSDP1\) holds a share of the weights in each process: use FSDP2's .*"
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


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_fsdp2_is_taken_as_it_is(group: None) -> None:
    """Its hash is that of the whole network, before a call and after one; see test_parallel."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    from exposure_bias.running.shards import holders

    sharded, plain = unet(), eb.adapt(unet(), ddpm())
    fully_shard(sharded, mesh=init_device_mesh("cpu", (1,)))
    model, level = eb.adapt(sharded, ddpm()), plain.schedule.level(300)
    for _ in range(2):
        assert holders(sharded, 0) == (0,)
        assert model.weight_hash == plain.weight_hash
        assert torch.equal(model(X, level), plain(X, level))


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


def test_weights_that_accelerate_fetches_for_each_call(tmp_path: Path) -> None:
    """Spread over devices and disk, by a device_map or by offloading: the network's own numbers."""
    accelerate = pytest.importorskip("accelerate", reason="no dependency; tried with 1.15.0")
    plain = eb.adapt(unet(), ddpm())
    level = plain.schedule.level(300)
    whole = dict.fromkeys((name for name, _ in unet().named_children()), "cpu")
    ways = {
        "device_map": lambda net: accelerate.dispatch_model(
            net,
            whole | {"conv_in": "disk", "down_blocks": "disk"},
            main_device="cpu",
            offload_dir=str(tmp_path),
        ),
        "offload": lambda net: accelerate.cpu_offload(net, execution_device=torch.device("cpu")),
    }
    for name, spread in ways.items():
        net = unet().eval()
        net = spread(net) or net
        assert any(p.is_meta for p in net.parameters()), name
        model = eb.adapt(net, ddpm())
        assert model.weight_hash == plain.weight_hash
        torch.testing.assert_close(model(X, level), plain(X, level))
        rec = eb.record(model, "digits", steps=2, n=16)
        expected = eb.record(plain, "digits", steps=2, n=16)
        np.testing.assert_allclose(
            rec["chain"]["state_sum"], expected["chain"]["state_sum"], rtol=1e-6, atol=1e-6
        )
        accelerate.hooks.remove_hook_from_module(net, recurse=True)


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
