"""`Denoiser`: the one contract between a model and everything else here, `(x, level) -> raw output`.

A denoiser is a network together with what its authors left implicit: its noise schedule, what its output means and the
shape it works on. The raw output is kept as the network gave it and converted where it is used, because a round trip
ε → x_0 → ε loses digits near the clean end. States are float64, whatever the network's own precision.
"""

import copy
import hashlib
from collections.abc import Callable
from itertools import chain
from typing import Any, Literal, Self

import torch
from torch import Tensor

from exposure_bias.errors import InputError
from exposure_bias.noise import Noise
from exposure_bias.samplers import Prediction
from exposure_bias.schedules import PREDICTION_TYPES, Level, Schedule, conversion

Clip = Literal[False, True, "keep_epsilon"]
CLIP_CONVENTIONS = {
    False: "x0 unclipped",
    True: "x0 clipped to [-1, 1], epsilon re-derived (guided-diffusion)",
    "keep_epsilon": "x0 clipped to [-1, 1], epsilon kept (diffusers' DDIM)",
}
UNHASHED = "unhashed"
# A probe keeps this many numbers. They differ from device to device by round-off: TF32 keeps 11 bits of a product,
# bfloat16 8, and an epsilon scaling by 1.005 has to stand out from the first of these.
PROBED = 32
ROUND_OFF, HALF_ROUND_OFF = 2e-3, 5e-2


class Denoiser:
    """A network with its schedule and prediction type.

    net: a torch module, put into evaluation mode, or a function. schedule: `exposure_bias.schedules`. prediction_type:
    `epsilon`, `sample`, `v_prediction` or `flow_prediction`. shape: (C, H, W). call: how to call the network, a
    function (net, x, timestep) -> output for x (B, C, H, W) in the network's dtype and timestep (B,); the default is
    `net(x, timestep)`. learned_variance: the output has 2C channels, the second half an interpolation between log β̃
    (−1) and log β (+1) as in improved DDPM. name: what reports call the model.

    classes: the number of class labels of a conditional model, whose `call` takes (net, x, timestep, labels) with int64
    labels (B,); None is unconditional. guidance: the classifier-free guidance scale inside `call`, None without. A
    guided field ε̂ = ε_∅ + w (ε_c − ε_∅), w ≠ 1, is no denoiser of q (Ho & Salimans 2022, arXiv 2207.12598, eq. 6), so
    its gaps are "guidance + bias".

    A plain function's `device` is where it wants its inputs, by default the CPU. The modules it calls are its own
    business: put them into evaluation mode first. Its weights cannot be seen, and recordings call them "unhashed"; what
    tells two functions apart is their `probe`.

    Raises InputError for an unknown prediction type, a shape that is not (C, H, W), fewer than one class, or a net that
    cannot be called.
    """

    def __init__(
        self,
        net: Callable[..., Any],
        *,
        schedule: Schedule,
        prediction_type: str,
        shape: tuple[int, ...],
        call: Callable[..., Tensor] | None = None,
        learned_variance: bool = False,
        name: str | None = None,
        classes: int | None = None,
        guidance: float | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        if not callable(net):
            raise InputError(f"a model is a torch module or a function (x, timestep) -> output, got {net!r:.80}")
        if prediction_type not in PREDICTION_TYPES:
            allowed = ", ".join(PREDICTION_TYPES)
            raise InputError(f"unknown prediction type {prediction_type!r}: allowed are {allowed}")
        if len(shape) != 3 or min(shape) < 1:
            raise InputError(f"a model's shape is (channels, height, width), got {tuple(shape)}")
        if classes is not None and classes < 1:
            raise InputError(f"a conditional model has at least one class, got {classes}: None is unconditional")
        if isinstance(net, torch.nn.Module):
            if device is not None:
                raise InputError(f"device= is for plain functions: move a module itself, with net.to({str(device)!r})")
            net.eval()
        self.net: Any = net
        self.schedule, self.prediction_type = schedule, prediction_type
        self.shape: tuple[int, int, int] = (int(shape[0]), int(shape[1]), int(shape[2]))
        self.learned_variance = learned_variance
        self.name = str(name or getattr(net, "__name__", type(net).__name__))
        self.classes, self.guidance = classes, guidance
        self._call = call or (lambda net, *inputs: net(*inputs))
        self._labels: Tensor | None = None
        self._like = _float32_on(device)

    def __repr__(self) -> str:
        return f"Denoiser({self.name}, {self.prediction_type}, {self.schedule.name}, shape={self.shape})"

    @property
    def _parameter(self) -> Tensor:
        if isinstance(self.net, torch.nn.Module):
            for tensor in chain(self.net.parameters(), self.net.buffers()):
                if tensor.is_floating_point():
                    return tensor
        return self._like

    @property
    def device(self) -> torch.device:
        """Where states live: the network's device, or the CPU where that has no float64 (mps)."""
        device = self._parameter.device
        return torch.device("cpu") if device.type in ("mps", "meta") else device

    def given(self, labels: Any) -> Self:
        """This model bound to a batch's class labels, integers (B,): the same network, called with them.

        An unconditional model is returned as it is, whatever the labels. Raises InputError if a conditional model's
        labels are missing (None), not B integers, or outside 0 … classes − 1.
        """
        if self.classes is None:
            return self
        allowed = f"one of the {self.classes} classes 0 to {self.classes - 1} for each image"
        if labels is None:
            raise InputError(f"{self.name} is class-conditional: give {allowed} with load_data(images, labels=...)")
        labels = torch.as_tensor(labels)
        if labels.dim() != 1 or labels.is_floating_point() or labels.dtype == torch.bool:
            raise InputError(f"labels are {labels.dtype} of shape {tuple(labels.shape)}: give {allowed}, int64 (B,)")
        wrong = labels[(labels < 0) | (labels >= self.classes)]
        if len(wrong):
            raise InputError(f"class label {int(wrong[0])} is unknown to {self.name}: give {allowed}")
        bound = copy.copy(self)
        bound._labels = labels.to(torch.int64)
        return bound

    @property
    def weight_hash(self) -> str:
        """The first 16 hex digits of a SHA-256 over the names and values of the weights and buffers; "unhashed" for a
        plain function."""
        if not isinstance(self.net, torch.nn.Module):
            return UNHASHED
        digest = hashlib.sha256()
        for key, value in sorted(self.net.state_dict().items()):
            digest.update(key.encode())
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    def __call__(self, x: Tensor, level: Level) -> Tensor:
        """The network's raw output at states x (B, C, H, W), all at one level; on x's device, no gradient."""
        parameter = self._parameter
        discrete = self.schedule.path == "vp" and float(level.timestep).is_integer()
        dtype = torch.long if discrete else torch.float32
        timestep = torch.full((len(x),), level.timestep, device=parameter.device, dtype=dtype)
        inputs = [x.to(parameter.device, parameter.dtype), timestep]
        if self.classes is not None:
            inputs.append(self._batch_labels(len(x)).to(parameter.device))
        with torch.no_grad():
            output = self._call(self.net, *inputs)
        if not isinstance(output, Tensor):
            raise InputError(
                f"{self.name} returned {type(output).__name__} where a tensor was expected: say with "
                "call=lambda net, x, timestep: ... how to call it"
            )
        return output.to(x.device)

    def _batch_labels(self, batch: int) -> Tensor:
        if self._labels is None:
            raise InputError(f"{self.name} is class-conditional: bind each batch's labels with model.given(labels)")
        if len(self._labels) != batch:
            raise InputError(f"{len(self._labels)} class labels were given for a batch of {batch} states")
        return self._labels

    def predict(self, x: Tensor, level: Level, clip: Clip = False) -> Prediction:
        """x̂_0 and ε̂ at float64 states x (B, C, H, W) of one level.

        clip: False; True clips x̂_0 to [−1, 1] and re-derives ε̂ = (x − α x̂_0)/σ, as guided-diffusion does;
        "keep_epsilon" leaves ε̂ as it was. Raises InputError if the network returns NaN or Inf, or another shape.
        """
        output = self(x, level)
        expected = (len(x), self.shape[0] * (2 if self.learned_variance else 1), *self.shape[1:])
        if output.shape != expected:
            raise InputError(
                f"the network returned shape {tuple(output.shape)} where {expected} was expected: "
                "check shape= and learned_variance="
            )
        return self.read(output, x, level, clip)

    def read(self, output: Tensor, x: Tensor, level: Level, clip: Clip = False) -> Prediction:
        """`predict` for an output (B, C or 2C, H, W) that the network has given; the second C is its variance."""
        # One reduction, not a mask: a sum is finite only if every term is.
        if not torch.isfinite(output.sum()) and not torch.isfinite(output).all():
            raise InputError("the network returned NaN or Inf")
        value, variance = output.chunk(2, dim=1) if output.shape[1] == 2 * x.shape[1] else (output, None)
        if value.dtype.itemsize < 4:
            value = value.float()  # a norm of half-precision numbers would lose digits or overflow
        p, q = conversion(self.prediction_type, "sample", level)
        # Multiplied as float64: σ/α is 2·10⁴ at the end of a cosine schedule, and would make float32 round-off visible.
        # Converted before, not in, the addition: that takes a quarter of the time.
        x0 = q * value.double() if p == 0 else (p * x).add_(value.double(), alpha=q)
        outside = (x0.abs() > 1).flatten(1).sum(1) / x0[0].numel()
        clipped = x0.clamp(-1, 1) if clip else x0
        if self.prediction_type != "sample" and clip is not True:
            p, q = conversion(self.prediction_type, "epsilon", level)
            epsilon = value if p == 0 else (p * x).add_(value.double(), alpha=q)
        else:
            epsilon = (x - level.alpha * (clipped if clip is True else x0)) / level.sigma
        fraction = None if variance is None else (variance.double() + 1) / 2
        return Prediction(clipped, epsilon, fraction, outside, output)


def probe(model: Denoiser) -> dict[str, Any]:
    """What a model says to one fixed noise at the middle of its schedule: what tells apart models that hash alike.

    Functions have no weights to hash, and `call` is not hashed. values: at most 32 of the raw output's numbers, evenly
    spread; tolerance: how far they may be off, relative to their root mean square (`recording.refuse_differences`). A
    conditional model is asked for class 0. One call of the network with a batch of one.
    """
    level = model.schedule.level(len(model.schedule) // 2)
    x = level.sigma * Noise(0, "probe", [0], model.shape, model.device)(0).double()
    said = model.given([0])(x, level)
    numbers = said.flatten()[torch.linspace(0, said.numel() - 1, min(PROBED, said.numel())).long()]
    values = [float(f"{v:.6g}") for v in numbers.double().tolist()]
    return {"values": values, "tolerance": HALF_ROUND_OFF if said.dtype.itemsize < 4 else ROUND_OFF}


def _float32_on(device: torch.device | str | None) -> Tensor:
    try:
        return torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch raises either for a device that is not there
        raise InputError(f"cannot use device {str(device)!r}: {str(error).splitlines()[0]}") from error
