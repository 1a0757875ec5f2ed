"""`Denoiser`: the one contract between a model and everything else here.

`(x, level) -> raw output`.

A denoiser is a network together with what its authors left implicit: its noise schedule, what its
output means and the shape it works on. The raw output is kept as the network gave it and converted
where it is used, because a round trip ε → x_0 → ε loses digits near the clean end. States are
float64, whatever the network's own precision.
"""

import copy
import hashlib
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from itertools import chain
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from exposure_bias.checking import check_arguments
from exposure_bias.clipping import UNCLIPPED, Clipping, Convention, clipping
from exposure_bias.contexts import Context
from exposure_bias.errors import InputError, reason, shown, whole_number
from exposure_bias.paths import Noise
from exposure_bias.run import Probe
from exposure_bias.samplers import Prediction
from exposure_bias.schedules import PREDICTION_TYPES, Level, Schedule, conversion
from exposure_bias.states import State, checked_shape

UNHASHED = "unhashed"
# What torch says of tensors that do not fit each other.
SIZES = re.compile(
    r"size of tensor|[Ss]izes of tensors|shapes cannot be multiplied|[Ee]xpected size"
    r"|is invalid for input of size|must match the existing size"
)
# A probe keeps this many numbers. They differ from device to device by round-off: TF32 keeps 11
# bits of a product, bfloat16 8, and an epsilon scaling by 1.005 has to stand out from the first of
# these.
PROBED = 32
ROUND_OFF, HALF_ROUND_OFF = 2e-3, 5e-2


PRECISIONS = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


class Speed(NamedTuple):
    """How a network is computed: by default as it is.

    precision: one of PRECISIONS; the half ones by torch's autocast, which leaves the weights and
    what is delicate as they are. compile: through torch.compile. channels_last: in that layout of
    memory.
    """

    precision: str | None = None
    compile: bool = False
    channels_last: bool = False

    def __str__(self) -> str:
        words = {"compiled": self.compile, "channels last": self.channels_last}
        return ", ".join([self.precision or "", *(k for k, v in words.items() if v)]).strip(", ")


AS_IT_IS = Speed()


class NotFinite(InputError):
    """A network returned NaN or infinity."""


class FractionalTimestep(InputError):
    """A network was asked at a timestep between two whole ones, and knows whole ones only."""


class Denoiser:
    """A network with its schedule and prediction type.

    net: a torch module or a function. A module is evaluated in evaluation mode, whatever mode it is
    in, and is left in the mode that it was in (`evaluating`). schedule: `exposure_bias.schedules`.
    prediction_type: `epsilon`, `sample`, `v_prediction`, `flow_prediction` or `score`. shape: (C,
    *space), one to four numbers: a vector (D,), a signal (C, T), an image (C, H, W), a video or
    volume (C, F, H, W). call: how to call the network, a function (net, x, timestep) -> output for
    x (B, *shape) in the network's dtype and timestep (B,); the default is `net(x, timestep)`.
    learned_variance: the output has 2C channels, the second half an interpolation between log β̃
    (−1) and log β (+1) as in improved DDPM. name: what reports call the model.

    classes: the number of class labels of a conditional model, whose `call` takes (net, x,
    timestep, labels) with int64 labels (B,); None is unconditional. guidance: the classifier-free
    guidance scale inside `call`, None without. A guided field ε̂ = ε_∅ + w (ε_c − ε_∅), w ≠ 1, is
    no denoiser of q (Ho & Salimans 2022, arXiv 2207.12598, eq. 6), so its gaps are "guidance +
    bias".

    context: p ≥ 1 for a network that draws a frame of a sequence from the p frames before it, whose
    `call` takes (net, x, timestep, c) with c a `contexts.Context`; None for a network of single
    states. Such a model is run by `drift_budget` and `drift`.

    computed: what `computed_with` was asked for, else empty. Adapters set further attributes.
    source: where a model of the hub came from, {"repo", "revision", "commit", "files": {name:
    sha256}}, else None. note: what a reader of its numbers must know, for example that it was
    trained on other noise, else empty. conditions: a hash of the embeddings of prompts, else empty.
    chosen_by: what a label stands for, "class" or "prompt". any_size: whether the network takes
    states of other sizes (`fitted`). guidance_embedded: whether the network is told the guidance
    scale, so that it is called once and not twice. from_loop: (B, *shape) of what a pipeline's own
    loop holds, a function (tensor, shape) -> tensor. sampling: the options of the scheduler in its
    folder, of which `record` says what it leaves out.

    A plain function's `device` is where it wants its inputs, by default the CPU. The modules it
    calls are its own business: put them into evaluation mode first. Its weights cannot be seen, and
    recordings call them "unhashed"; what tells two functions apart is their `probe`.

    Raises InputError for an unknown prediction type, a shape of no or more than four numbers, fewer
    than one class, a context below 1, a context beside classes, or a net that cannot be called.
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
        context: int | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        if not callable(net):
            raise InputError(
                f"a model is a torch module or a function (x, timestep) -> output, got {net!r:.80}"
            )
        if type(net).__name__ == "ExportedProgram":
            raise InputError("an ExportedProgram is no module: give program.module()")
        check_arguments(Denoiser.__init__, locals())
        if prediction_type not in PREDICTION_TYPES:
            allowed = ", ".join(PREDICTION_TYPES)
            raise InputError(f"unknown prediction type {prediction_type!r}: allowed are {allowed}")
        if classes is not None and classes < 1:
            raise InputError(
                f"a conditional model has at least one class, got {classes}: None is unconditional"
            )
        if context is not None:
            context = whole_number(context, "context, the number of frames before the next,")
            if classes is not None:
                raise InputError(
                    "a model has classes or a context: give the classes of sequences as a stream of"
                    " theirs, Sequences(frames, label=labels), and read c['label']"
                )
        if isinstance(net, torch.nn.Module) and device is not None:
            raise InputError(
                "device= is for plain functions: move a module itself, with"
                f" net.to({str(device)!r})"
            )
        self.net: Any = net
        self.schedule, self.prediction_type = schedule, prediction_type
        self.shape: State = checked_shape(shape)
        self.learned_variance = learned_variance
        self.name = str(name or getattr(net, "__name__", type(net).__name__))
        self.classes, self.guidance, self.context = classes, guidance, context
        self.source: dict[str, Any] | None = None
        self.sampling: dict[str, Any] = {}
        self.note = self.computed = self.conditions = ""
        self.chosen_by = "class"
        self.any_size = self.guidance_embedded = False
        self.from_loop: Callable[[Tensor, State], Tensor] = lambda x, shape: x
        self._autocast: torch.dtype | None = None
        self._fractions: list[bool] = []  # whether it answers between timesteps, once asked
        self._most: list[int] = []  # how many states fit the device's memory, once that is known
        self._call = call or (lambda net, *inputs: net(*inputs))
        self._labels: Tensor | None = None
        self._context: Context | None = None
        self._like = on_device(device)

    def __repr__(self) -> str:
        return (
            f"Denoiser({self.name}, {self.prediction_type}, {self.schedule.name},"
            f" shape={self.shape})"
        )

    def _repr_html_(self) -> str:
        """Show in a notebook what model this is."""
        from exposure_bias.results.tables import facts

        module = isinstance(self.net, torch.nn.Module)
        count = sum(p.numel() for p in self.net.parameters()) if module else None
        rows = {
            "predicts": self.prediction_type,
            "noise schedule": self.schedule.name,
            "shape of a state": "×".join(map(str, self.shape)),
            "network": type(self.net).__name__,
            "parameters": count and f"{count:,}",
            "classes": self.classes,
            "guidance": self.guidance,
            "frames of context": self.context,
            "device": self.device,
            "note": self.note,
        }
        return facts(f"Denoiser {self.name}", rows)

    @property
    def _parameter(self) -> Tensor:
        if isinstance(self.net, torch.nn.Module):
            for tensor in chain(self.net.parameters(), self.net.buffers()):
                if tensor.is_floating_point():
                    # Weights that are fetched for each call are no place for a state.
                    return torch.empty(0, dtype=tensor.dtype) if tensor.is_meta else tensor
        return self._like

    @property
    def _label_dtype(self) -> torch.dtype:
        """That of a label between whole timesteps: exact for a float64 network."""
        return torch.float64 if self._parameter.dtype == torch.float64 else torch.float32

    @property
    def device(self) -> torch.device:
        """Where states live: the network's device, or the CPU where that has no float64 (mps)."""
        device = self._parameter.device
        return torch.device("cpu") if device.type in ("mps", "meta") else device

    def given(self, labels: Any) -> Self:
        """This model bound to a batch's labels, integers (B,): classes, or indices of prompts.

        The same network, called with them.

        An unconditional model is returned as it is, whatever the labels. Raises InputError if a
        conditional model's labels are missing (None), not B integers, or outside 0 … classes − 1.
        """
        if self.classes is None:
            return self
        several = {"class": "classes", "prompt": "prompts"}[self.chosen_by]
        allowed = f"one of the {self.classes} {several} 0 to {self.classes - 1} for each image"
        if labels is None:
            raise InputError(
                f"{self.name} is {self.chosen_by}-conditional: give {allowed} with"
                " load_data(images, labels=...)"
            )
        labels = torch.as_tensor(labels)
        if labels.dim() != 1 or labels.is_floating_point() or labels.dtype == torch.bool:
            raise InputError(
                f"labels are {labels.dtype} of shape {tuple(labels.shape)}: give {allowed}, int64"
                " (B,)"
            )
        wrong = labels[(labels < 0) | (labels >= self.classes)]
        if len(wrong):
            raise InputError(
                f"{self.chosen_by} label {int(wrong[0])} is unknown to {self.name}: give {allowed}"
            )
        bound = copy.copy(self)
        bound._labels = labels.to(torch.int64)
        return bound

    def within(self, context: Context) -> Self:
        """Return this model bound to a batch's context, which every call then hands on.

        Raises InputError for a model of single states, and for a context of another number of
        frames or of frames of another shape.
        """
        if self.context is None:
            raise InputError(f"{self.name} takes no context: make it with Denoiser(…, context=p)")
        expected = (self.context, *self.shape)
        if tuple(context.frames.shape[1:]) != expected:
            raise InputError(
                f"{self.name} takes a context of shape (B, {', '.join(map(str, expected))}), got"
                f" {tuple(context.frames.shape)}"
            )
        bound = copy.copy(self)
        bound._context = context
        return bound

    def computed_with(self, speed: Speed) -> Self:
        """The same model, computed in another precision or manner.

        Raises InputError for an unknown precision, and for a plain function that is to be changed.
        """
        if speed.precision is not None and speed.precision not in PRECISIONS:
            raise InputError(
                f"unknown precision {speed.precision!r}: allowed are {', '.join(PRECISIONS)}"
            )
        if speed == AS_IT_IS:
            return self
        if not isinstance(self.net, torch.nn.Module):
            raise InputError(
                f"{self.name} is a plain function, whose networks are its own business: leave out"
                f" {speed}"
            )
        model = copy.copy(self)
        model.computed = str(speed)
        if speed.precision == "float32":
            model.net.float()
        elif speed.precision is not None:
            model._autocast = PRECISIONS[speed.precision]
        if speed.channels_last:
            model.net.to(memory_format=torch.channels_last)
        if speed.compile:
            call, compiled = model._call, torch.compile(model.net)
            model._call = lambda net, *inputs: call(compiled, *inputs)
        return model

    @property
    def weight_hash(self) -> str:
        """The first 16 hex digits of a SHA-256 over the weights and buffers.

        Over their names and values; "unhashed" for a plain function."""
        return weight_hash(self.net) if isinstance(self.net, torch.nn.Module) else UNHASHED

    def fitted(self, shape: State) -> Self:
        """This model for states of another size, where its network takes several."""
        if not self.any_size or len(shape) != len(self.shape) or shape[0] != self.shape[0]:
            return self
        sized = copy.copy(self)
        sized.shape = checked_shape(shape)
        return sized

    def __call__(self, x: Tensor, level: Level) -> Tensor:
        """The network's raw output at states x (B, *shape), all at one level.

        On x's device, no gradient.

        The network may write into what it is given, and into what it gave before: states and
        outputs are copied. A module answers in evaluation mode and is left as it was.

        Raises InputError for an output that is no tensor of real floating-point numbers, and
        `FractionalTimestep` where a network that knows whole timesteps only is asked between two of
        them.
        """
        whole = not self.schedule.continuous and float(level.timestep).is_integer()
        with gradients(), evaluating(self.net):
            try:
                dtype = torch.long if whole else self._label_dtype
                output = self._fitting(x, level.timestep, dtype)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:
                if self._answers_at_whole(x, level):
                    raise FractionalTimestep(
                        f"{self.name} answers at whole timesteps only, not at {level.timestep:g}:"
                        " choose a grid and a sampler of whole ones, such as grid='linspace' with"
                        " 'ddpm' or 'ddim'"
                    ) from error
                if SIZES.search(str(error)):
                    raise InputError(_of_another_batch(self.name, x, error)) from error
                raise
        return _own(self._numbers(output), x.device)

    def _fitting(self, x: Tensor, label: float, dtype: torch.dtype) -> Any:
        """The output, in pieces where the states together do not fit the device's memory."""
        while True:
            most = min([len(x), *self._most])
            try:
                if most == len(x):
                    return self._asked(x, label, dtype)
                parts = [slice(i, i + most) for i in range(0, len(x), most)]
                return torch.cat([self._numbers(self._asked(x, label, dtype, p)) for p in parts])
            except torch.OutOfMemoryError:
                if most == 1:
                    raise
                if not self._most:
                    warnings.warn(
                        f"{len(x)} states at once do not fit the device's memory: the network gets"
                        " them in halves, or as often halved as it takes",
                        stacklevel=2,
                    )
                self._most.append(most // 2)
                torch.cuda.empty_cache()

    def _asked(self, x: Tensor, label: float, dtype: torch.dtype, rows: slice = slice(None)) -> Any:
        """What the network says of some of the states."""
        parameter, states = self._parameter, x[rows]
        timestep = torch.full((len(states),), label, device=parameter.device, dtype=dtype)
        inputs: list[Any] = [_own(states, parameter.device, parameter.dtype), timestep]
        if self.classes is not None:
            inputs.append(_own(self._batch_labels(len(x))[rows], parameter.device))
        if self.context is not None:
            inputs.append(self._batch_context(len(x)).part(rows).like(parameter))
        if self._autocast is None:
            return self._call(self.net, *inputs)
        with torch.autocast(parameter.device.type, self._autocast):
            return self._call(self.net, *inputs)

    def _answers_at_whole(self, x: Tensor, level: Level) -> bool:
        """Whether the network answers at a whole timestep.

        It failed at a fractional one, to which that is next.
        """
        if float(level.timestep).is_integer():
            return False
        try:
            self._asked(x, round(level.timestep), torch.long)
        except Exception:  # whatever it is, it is not the fraction
            return False
        return True

    def takes_fractions(self, x: Tensor) -> bool:
        """Whether the network answers between whole timesteps; found by asking it once, at x."""
        if self.schedule.continuous or len(self.schedule) < 2:
            return self.schedule.continuous
        if not self._fractions:
            try:
                self(x, self.schedule.level(len(self.schedule) // 2 - 0.5))
                self._fractions.append(True)
            except FractionalTimestep:
                self._fractions.append(False)
        return self._fractions[0]

    def evaluating(self) -> AbstractContextManager[None]:
        """A context in which every part of the network is in evaluation mode.

        Each goes back to its own afterwards.
        """
        return evaluating(self.net)

    def _numbers(self, output: Any) -> Tensor:
        """The tensor in a network's output; InputError unless real.

        The output may be diffusers' {"sample": tensor}.
        """
        if isinstance(output, Mapping) and list(output) == ["sample"]:
            output = output["sample"]
        if not isinstance(output, Tensor):
            raise InputError(
                f"{self.name} returned {type(output).__name__} where a tensor was expected: say"
                " with call=lambda net, x, timestep: ... how to call it"
            )
        if output.is_meta or output.is_nested or output.layout is not torch.strided:
            kind = "no numbers (on the meta device)" if output.is_meta else "a sparse tensor"
            raise InputError(
                f"{self.name} returned {kind} where a plain tensor was expected: say with call="
                "lambda net, x, timestep: ... how to make one of it"
            )
        if not output.is_floating_point():
            raise InputError(
                f"{self.name} returned numbers of {output.dtype} where real floating-point ones"
                " were expected: say with call=lambda net, x, timestep: ... how to make them of it"
            )
        return output if _DIFFERENTIATING.get() else output.detach()

    def _batch_labels(self, batch: int) -> Tensor:
        if self._labels is None:
            raise InputError(
                f"{self.name} is {self.chosen_by}-conditional: bind each batch's labels with"
                " model.given(labels)"
            )
        if len(self._labels) != batch:
            raise InputError(
                f"{len(self._labels)} {self.chosen_by} labels were given for a batch of {batch}"
                " states"
            )
        return self._labels

    def _batch_context(self, batch: int) -> Context:
        if self._context is None:
            raise InputError(
                f"{self.name} draws a frame from the {self.context} before it: measure it with"
                " drift_budget(model, sequences), or bind a context with model.within(context)"
            )
        if len(self._context) != batch:
            raise InputError(
                f"a context of {len(self._context)} sequences was given for a batch of {batch}"
                " states"
            )
        return self._context

    def predict(self, x: Tensor, level: Level, clip: Clipping = UNCLIPPED) -> Prediction:
        """x̂_0 and ε̂ at float64 states x (B, *shape) of one level.

        Raises InputError if the network returns NaN or Inf, or another shape.
        """
        output = self(x, level)
        clip = clipping(clip)
        expected = (len(x), self.shape[0] * (2 if self.learned_variance else 1), *self.shape[1:])
        if output.shape != expected:
            raise InputError(
                f"the network returned shape {tuple(output.shape)} where {expected} was expected: "
                "check shape= and learned_variance="
            )
        return self.read(output, x, level, clip)

    def read(
        self, output: Tensor, x: Tensor, level: Level, clip: Clipping = UNCLIPPED
    ) -> Prediction:
        """`predict` for an output that the network has given.

        (B, C or 2C, *space); the second C is its variance.
        """
        # One reduction, not a mask: a sum is finite only if every term is.
        if not torch.isfinite(output.sum()) and not torch.isfinite(output).all():
            raise NotFinite("the network returned NaN or Inf")
        value, variance = (
            output.chunk(2, dim=1) if output.shape[1] == 2 * x.shape[1] else (output, None)
        )
        if value.dtype.itemsize < 4:
            value = value.float()  # a norm of half-precision numbers would lose digits or overflow
        x0 = self._converted(value, "sample", x, level)
        outside = (x0.abs() > clip.bound).flatten(1).sum(1) / x0[0].numel()
        # An x̂_0 at a small σ determines ε̂ badly, so that it is derived where it is needed.
        said = self._converted(value, "epsilon", x, level)
        norm = said.flatten(1).norm(dim=1)
        clipped = x0.clamp(-clip.bound, clip.bound) if clip else x0
        if clip.convention is Convention.REDERIVE:
            said = (x - level.alpha * clipped) / level.sigma
        fraction = None if variance is None else (variance.double() + 1) / 2
        return Prediction(clipped, said, fraction, outside, output, norm)

    def _converted(self, value: Tensor, target: str, x: Tensor, level: Level) -> Tensor:
        if target == "epsilon" and self.prediction_type == "sample":
            return (x - level.alpha * value.double()) / level.sigma
        p, q = conversion(self.prediction_type, target, level)
        # Multiplied as float64: σ/α is 2·10⁴ at the end of a cosine schedule, and would make
        # float32 round-off visible. Converted before, not in, the addition: that takes a quarter of
        # the time.
        if p == 0:
            return value if (q == 1 and target == "epsilon") else q * value.double()
        return (p * x).add_(value.double(), alpha=q)


def weight_hash(net: torch.nn.Module) -> str:
    """The first 16 hex digits of a SHA-256 over a module's weights and buffers.

    Of a network that several processes hold together it is over all of it, in all of them.
    """
    digest = hashlib.sha256()
    # torch.compile puts its own name into those of the weights, but leaves the weights what they
    # are.
    state = net.state_dict() | _elsewhere(net)
    state = {key.replace("_orig_mod.", ""): value for key, value in state.items()}
    for key, value in sorted(state.items()):
        if value.is_meta or value.layout is not torch.strided:
            raise InputError(
                f"the network's {key} has no numbers (on the meta device) or is sparse: load its"
                " weights first"
            )
        whole = value.full_tensor() if hasattr(value, "full_tensor") else value
        digest.update(key.encode())
        digest.update(
            whole.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        )
    return digest.hexdigest()[:16]


def _elsewhere(net: torch.nn.Module) -> dict[str, Tensor]:
    """The weights that accelerate's hooks keep elsewhere between calls, by name."""
    found: dict[str, Tensor] = {}
    for path, module in net.named_modules():
        hook = getattr(module, "_hf_hook", None)
        maps = [getattr(each, "weights_map", None) for each in (hook, *getattr(hook, "hooks", ()))]
        own = chain(module.named_parameters("", False), module.named_buffers("", False))
        names = [name for name, tensor in own if tensor.is_meta]
        for kept in (m for m in maps if m is not None):
            found |= {f"{path}.{name}".lstrip("."): kept[name] for name in names}
    return found


@contextmanager
def differentiating() -> Iterator[None]:
    """A context in which a denoiser's outputs can be differentiated with respect to its states.

    Elsewhere no gradients are recorded."""
    before = _DIFFERENTIATING.set(True)
    try:
        yield
    finally:
        _DIFFERENTIATING.reset(before)


def gradients() -> AbstractContextManager[Any]:
    """A context that records gradients inside `differentiating`, and none elsewhere."""
    return torch.set_grad_enabled(_DIFFERENTIATING.get())


_DIFFERENTIATING: ContextVar[bool] = ContextVar("differentiating", default=False)


@contextmanager
def evaluating(net: Any) -> Iterator[None]:
    """A context in which a module and all that it holds are in evaluation mode.

    Anything else is left alone.

    Each submodule goes back to the mode that it was in, also where that is not its parent's. Inside
    such a context of the same module another costs nothing: a run opens one, and each of its calls
    then need not ask every submodule."""
    if not isinstance(net, torch.nn.Module) or id(net) in _EVALUATED:
        yield
        return
    modules = list(net.modules())
    modes = [module.training for module in modules]
    _EVALUATED.add(id(net))
    try:
        if any(modes):
            try:
                net.eval()
            except NotImplementedError:  # torch.export's, which keep the mode of their export
                for module in modules:
                    module.training = False
        yield
    finally:
        _EVALUATED.discard(id(net))
        for module, mode in zip(modules, modes, strict=True):
            if module.training != mode:
                module.training = mode


# By identity, which is theirs as long as the context holds them.
_EVALUATED: set[int] = set()


def _of_another_batch(name: str, x: Tensor, error: Exception) -> str:
    return (
        f"{name} cannot be called on a batch of {len(x)} states {tuple(x.shape[1:])}:"
        f" {reason(error)}. A network that holds a context of its own (embeddings, labels) for a"
        " batch of another size must choose it for each state: give embeddings with a row for each"
        " prompt to adapt, or classes= and call=lambda net, x, timestep, labels: ... to Denoiser"
    )


def _own(tensor: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """The tensor on a device, in storage of its own."""
    moved = tensor.to(device, dtype or tensor.dtype)
    return moved.clone() if moved is tensor else moved


def probe(model: Denoiser) -> Probe:
    """What a model says to one fixed noise at the middle of its schedule.

    It tells apart models that hash alike.

    Functions have no weights to hash, and `call` is not hashed. values: at most 32 of the raw
    output's numbers, evenly spread; tolerance: how far they may be off, relative to their root mean
    square (`run.Probe.agrees`). A conditional model is asked for class 0. One call of the network
    with a batch of one.
    """
    level = model.schedule.level(len(model.schedule) // 2)
    x = level.sigma * Noise(0, "probe", [0], model.shape, model.device)(0).double()
    with model.evaluating():
        said = model.given([0])(x, level)
    numbers = said.flatten()[torch.linspace(0, said.numel() - 1, min(PROBED, said.numel())).long()]
    values = [float(f"{v:.6g}") for v in numbers.double().tolist()]
    return Probe(tuple(values), HALF_ROUND_OFF if said.dtype.itemsize < 4 else ROUND_OFF)


def on_device(device: torch.device | str | None) -> Tensor:
    """An empty float32 tensor there. Raises InputError for a device that is not there."""
    if not isinstance(device, str | torch.device | None):
        raise InputError(f"a device is named by a text such as 'cuda', got {shown(device)}")
    try:
        return torch.empty(0, device=device)
    except (
        RuntimeError,
        AssertionError,
    ) as error:  # torch raises either for a device that is not there
        raise InputError(f"cannot use device {str(device)!r}: {reason(error)}") from error
