"""EDM and EDM2: a loaded network D(x; σ) that returns x̂_0 itself.

    q(x_σ | x_0) = N(x_0, σ² I),        σ from max(0.002, net.sigma_min) to min(80, net.sigma_max)

as their samplers take it (EDM2's networks name no range). All four of EDM's preconditionings (EDM,
VP, VE, iDDPM) look the same from outside; iDDPM's knows finitely many σ and `round_sigma` takes
every level to the nearest of them. The network's own deterministic sampler is `sampler="heun"` or
`"euler"` with `grid="karras"`; churn is not offered.

Sources: Karras et al. 2022 (arXiv 2206.00364, eq. 5 and Alg. 1), Karras et al. 2023 (arXiv
2312.02696), and the public attributes of the networks in NVlabs/edm and NVlabs/edm2."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from exposure_bias.denoisers import Denoiser
from exposure_bias.errors import InputError
from exposure_bias.schedules import Level, Schedule, edm

SIGMA_MIN, SIGMA_MAX = 0.002, 80.0


@dataclass(frozen=True, eq=False)
class RoundedSchedule(Schedule):
    """A schedule with α = 1 whose levels are those that the network knows.

    rounded: σ -> the nearest of them.
    """

    rounded: Callable[[float], float] = float

    def level(self, index: float) -> Level:
        """The level at a (possibly fractional) index between 0 and T − 1, rounded.

        0 is the least noise."""
        return self._rounded(super().level(index))

    def at_ratio(self, ratio: float) -> Level:
        """The level nearest to a noise-to-signal ratio σ/α, rounded."""
        return self._rounded(super().at_ratio(ratio))

    def _rounded(self, level: Level) -> Level:
        sigma = self.rounded(level.sigma)
        return Level(sigma, 1.0, sigma)


def recognises(value: Any) -> bool:
    """Whether an object is a network of NVlabs/edm or NVlabs/edm2, by its attributes."""
    common = all(hasattr(value, name) for name in ("img_resolution", "img_channels", "label_dim"))
    return common and (hasattr(value, "round_sigma") or hasattr(value, "sigma_data"))


def adapt(*objects: Any) -> Denoiser:
    """A Denoiser of one loaded network, usually the pickle's `ema`.

    With `label_dim` classes it is class-conditional.

    EDM2's 512-pixel networks work on latents of 4 × 64 × 64: give latents, `load_data(x,
    value_range=None)`.

    Raises InputError for more than one object: guidance by a second network is not supported.
    """
    if len(objects) != 1:
        came = ", ".join(type(o).__name__ for o in objects)
        raise InputError(
            f"an EDM network is adapted alone, got {came}: guidance by a second network (EDM2's"
            " gnet) is not supported, because the guided field is no denoiser of q"
        )
    net = objects[0]
    for name in ("sigma_min", "sigma_max"):
        if not isinstance(getattr(net, name, 0), int | float):
            raise InputError(
                f"{name} of this {type(net).__name__} is {getattr(net, name)!r:.80}: give a number"
            )
    if type(net.label_dim) is not int or net.label_dim < 0:
        raise InputError(
            f"label_dim of this {type(net).__name__} is {net.label_dim!r:.80}: a number of classes,"
            " 0 for none"
        )
    grid = edm(
        max(SIGMA_MIN, getattr(net, "sigma_min", 0.0)),
        min(SIGMA_MAX, getattr(net, "sigma_max", SIGMA_MAX)),
    )
    return Denoiser(
        net,
        schedule=RoundedSchedule(
            grid.name,
            grid.parameterisation,
            grid.timestep,
            grid.alpha,
            grid.sigma,
            grid.curve,
            _rounding(net),
        ),
        prediction_type="sample",
        shape=(net.img_channels, net.img_resolution, net.img_resolution),
        call=_call,
        classes=net.label_dim or None,
    )


def refuse_pickle(path: Path) -> NoReturn:
    """Raise InputError: a pickle is a program, and EDM's pickles hold the architecture as code."""
    raise InputError(
        f"{path} is a pickle, and loading one runs the code inside it: if you trust it, load it in"
        " Python with its own repository (net = pickle.load(file)['ema']) and give the network"
        " itself, eb.adapt(net); saving its state_dict is not enough, because the architecture is"
        " code"
    )


def _call(net: Any, x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
    output: Tensor = net(
        x, sigma, None if labels is None else one_hot(labels, net.label_dim).to(x.dtype)
    )
    return output


def _rounding(net: Any) -> Callable[[float], float]:
    if not hasattr(net, "round_sigma"):
        return float
    return lambda sigma: float(net.round_sigma(torch.tensor(sigma, dtype=torch.float64)))
