"""A small network of sequences: the next vector, denoised given the vectors before it.

With u = log σ / 4 and EDM's preconditioning for data of standard deviation s (Karras et al. 2022,
arXiv 2206.00364, Table 1),

    D(x, σ, c, τ) = c_skip x + c_out F(c_in x, c, u, τ),
    c_skip = s²/(σ² + s²),   c_out = σ s/√(σ² + s²),   c_in = 1/√(σ² + s²)

and F a multilayer perceptron with one skip connection for each layer. τ is the standard deviation
of noise on the context c, which the network is told. A folder of one holds `network.json` and
`network.safetensors`.
"""

import json
from pathlib import Path

import torch
from torch import Tensor

from exposure_bias.contexts import Context
from exposure_bias.denoisers import Denoiser
from exposure_bias.errors import InputError
from exposure_bias.files.weights import read_json
from exposure_bias.schedules import edm

CONFIG, WEIGHTS = "network.json", "network.safetensors"
FEATURES = 8  # sines and cosines of u
SETTINGS = ("size", "context", "width", "depth", "spread", "sigma_min", "sigma_max")


class SequenceNetwork(torch.nn.Module):
    """The network of the module docstring.

    size: numbers of a vector. context: p, how many vectors are given. width, depth: of the hidden
    layers. spread: s.
    """

    def __init__(
        self, size: int, context: int, width: int = 192, depth: int = 3, spread: float = 0.5
    ) -> None:
        super().__init__()
        self.size, self.spread = size, spread
        self.first = torch.nn.Linear((1 + context) * size + 2 * FEATURES + 1, width)
        self.hidden = torch.nn.ModuleList(torch.nn.Linear(width, width) for _ in range(depth))
        self.last = torch.nn.Linear(width, size)
        torch.nn.init.zeros_(self.last.weight)
        torch.nn.init.zeros_(self.last.bias)
        self.act = torch.nn.SiLU()

    def forward(self, x: Tensor, sigma: Tensor, frames: Tensor, tau: Tensor) -> Tensor:
        """D of states x (B, size) at σ (B,), given frames (B, p, size) with noise of τ (B,)."""
        sigma = sigma.to(x)[:, None]
        total = sigma.square() + self.spread**2
        angle = sigma.log() / 4 * torch.arange(1, FEATURES + 1).to(x)
        told = tau.to(x)[:, None]
        inputs = [x / total.sqrt(), frames.flatten(1), angle.sin(), angle.cos(), told]
        h = self.act(self.first(torch.cat(inputs, dim=1)))
        for layer in self.hidden:
            h = h + self.act(layer(h))
        skip = self.spread**2 / total
        return skip * x + sigma * self.spread / total.sqrt() * self.last(h)


def denoiser(
    network: SequenceNetwork,
    context: int,
    sigma_min: float,
    sigma_max: float,
    name: str,
    context_noise: float = 0.0,
) -> Denoiser:
    """The network as a `Denoiser` of frames (size,). context_noise: τ, of noise on its contexts."""

    def call(net: SequenceNetwork, x: Tensor, sigma: Tensor, c: Context) -> Tensor:
        frames = c.frames + context_noise * c.noise() if context_noise else c.frames
        return net(x, sigma, frames, torch.full_like(sigma, context_noise))

    return Denoiser(
        network,
        schedule=edm(sigma_min, sigma_max),
        prediction_type="sample",
        shape=(network.size,),
        call=call,
        name=name,
        context=context,
    )


def save(folder: Path, network: SequenceNetwork, context: int, sigmas: tuple[float, float]) -> None:
    """Write a network to a folder, its weights in float16."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "size": network.size,
        "context": context,
        "width": network.first.out_features,
        "depth": len(network.hidden),
        "spread": network.spread,
        "sigma_min": sigmas[0],
        "sigma_max": sigmas[1],
    }
    (folder / CONFIG).write_text(json.dumps(settings, indent=2) + "\n")
    weights = {name: value.half().contiguous() for name, value in network.state_dict().items()}
    save_file(weights, folder / WEIGHTS)


def load(folder: Path) -> Denoiser:
    """The `Denoiser` of a folder that `save` wrote. Raises InputError for any other."""
    from safetensors.torch import load_file

    settings = read_json(folder / CONFIG)
    if sorted(settings) != sorted(SETTINGS):
        raise InputError(f"{folder / CONFIG} does not describe a network of sequences")
    sigmas = settings.pop("sigma_min"), settings.pop("sigma_max")
    network = SequenceNetwork(**settings)
    network.load_state_dict({k: v.float() for k, v in load_file(folder / WEIGHTS).items()})
    return denoiser(network.eval(), settings["context"], *sigmas, folder.name)
