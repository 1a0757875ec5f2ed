"""What both kinds of observed loop share.

Batches under way, the chain's sums, and the recording made of them."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from exposure_bias.clipping import Clipping
from exposure_bias.contexts import Context
from exposure_bias.data import Data
from exposure_bias.data.sequences import Sequences
from exposure_bias.denoisers import Denoiser
from exposure_bias.diagnostics.denoising import warn_unless_denoises
from exposure_bias.errors import InputError, reason, whole_number
from exposure_bias.paths import Draws, Noise
from exposure_bias.recording import Recording
from exposure_bias.run import UNKNOWN_GUIDANCE, Run, Spacing, Start, Stream
from exposure_bias.running.setup import identities, kept_steps, made
from exposure_bias.samplers import Prediction
from exposure_bias.schedules import Level
from exposure_bias.statistics.collector import Collector, Layout, Subjects
from exposure_bias.statistics.kept import KEEP
from exposure_bias.statistics.law import Law, law
from exposure_bias.streams import Step, forward, in_network_coordinates

DISAGREEMENT = 0.05


@contextmanager
def plainly(x: Tensor) -> Iterator[None]:
    """Without gradients, and without the loop's autocast.

    That would take the statistics to half precision."""
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        yield


class Seen(NamedTuple):
    """One call of the network: the state's level, the state and the raw output."""

    level: Level
    x: Tensor
    output: Tensor


@dataclass
class Batch:
    """A batch that is under way.

    collector: None while the levels are unknown; then its calls are held. added: the mean square of
    what each step added to the state before it, where that is looked at.
    """

    subjects: Subjects
    collector: Collector | None
    held: list[Seen] = field(default_factory=list)
    count: int = 0
    added: list[float] = field(default_factory=list)


@dataclass
class OneFrame:
    """What was seen so far of one frame of roll-outs, and what it should look like."""

    data: Data | None
    law: Law | None
    n: int = 0
    chain: Collector | None = None
    added: NDArray[np.float64] | None = None


class Observation(ABC):
    """What was seen so far: the statistics of the finished batches. `observe` makes one.

    Nothing that goes wrong here stops the loop. It is told in a warning, the first time, and again
    by `recording`; the batch that it happened in is left out.

    Attributes
    ----------
    n : int
        How many samples were recorded.
    error : Exception or None
        What went wrong first.
    """

    def __init__(
        self,
        model: Denoiser,
        data: Data | None,
        seed: int,
        first: int,
        sequences: Sequences | None = None,
    ) -> None:
        self.model, self.data, self.seed, self.first = model, data, seed, first
        self.n = 0
        self._sequences = sequences
        self._frame, self._frames = 0, [OneFrame(data, None if data is None else law(data))]
        self._law: Law | None = self._frames[0].law
        self._levels: tuple[Level, ...] | None = None
        self._chain: Collector | None = None
        self._batch: Batch | None = None
        self._largest = 0
        self._example: Seen | None = None
        self._autocast: tuple[str, torch.dtype] | None = None
        self._added: NDArray[np.float64] | None = None
        self._active = self._guided = False
        self.error: Exception | None = None
        self.failed = False  # the batch under way has failed: what follows of it is not looked at
        self._left_out = 0
        self._why_nothing = "nothing was observed: run the loop inside `with eb.observe(...)`"

    def __enter__(self) -> Self:
        if self._active:
            raise InputError(
                "this observation is under way already: make another one with eb.observe(...)"
            )
        self._install()
        self._active = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._active = False
        self._remove()
        if kind is None:
            with self._apart():
                self._close()
        self._forget()
        if kind is None and not (self.n or self.frames) and self.error is None:
            warnings.warn(self._why_nothing, stacklevel=2)

    def begin(self) -> None:
        """Mark that the next call of the network begins a batch.

        A loop whose noise rises within a chain, such as Restart, or whose chain is one call, may
        not show where its batches begin. Once this was called, batches begin nowhere else.

        Raises
        ------
        InputError
            Outside the `with` block.

        Examples
        --------
        A model of one step, whose batches look alike:

        >>> import torch
        >>> import exposure_bias as eb
        >>> class Halving(torch.nn.Module):
        ...     def forward(self, x, sigma):
        ...         return 0.5 * x
        >>> model = eb.Denoiser(
        ...     Halving(), schedule=eb.schedules.edm(), prediction_type="sample", shape=(1, 8, 8)
        ... )
        >>> with eb.observe(model) as chain:
        ...     for _ in range(2):
        ...         chain.begin()
        ...         x0 = model.net(80 * torch.randn(4, 1, 8, 8), torch.tensor(80.0))
        >>> chain.recording().n
        8
        """
        if not self._active:
            raise InputError("begin marks a batch of the loop: call it inside the `with` block")
        with self._apart():
            self._begin_marked()
            self._turn(0)
        self.failed = False

    def frame(self, x: Tensor | None = None) -> None:
        """Mark the end of a frame of a roll-out, so that every frame has a recording of its own.

        Call it when a frame is drawn, before a cache is filled with a noisy version of it, and
        `begin()` before each further roll-out. Calls of the network between two frames that are not
        at a chain's first level are no steps, nor are those at σ = 0 and of the frame itself.

        Parameters
        ----------
        x : Tensor, optional
            The frame (B, *shape), in the coordinates of the model. A scheduler's last state is
            seen; of another loop the last prediction is taken where x is left out.

        Raises
        ------
        InputError
            Outside the `with` block.

        Examples
        --------
        >>> import torch
        >>> import exposure_bias as eb
        >>> model = eb.load_model("lorenz96")
        >>> sequences = eb.Sequences("lorenz96")
        >>> frames = [torch.from_numpy(sequences.frame(range(16), 0))]
        >>> with eb.observe(model, data=sequences) as chain:
        ...     for _ in range(3):
        ...         x = 20 * torch.randn(16, 16)
        ...         for sigma, below in ((20.0, 2.0), (2.0, 0.2), (0.2, 0.0)):
        ...             level = torch.full((16,), sigma)
        ...             x0 = model.net(x, level, frames[-1][:, None], torch.zeros(16))
        ...             x = x0 + below / sigma * (x - x0)
        ...         frames.append(x.detach())
        ...         chain.frame(frames[-1])
        >>> chain.frames, chain.recording(frame=3).n
        (3, 16)
        """
        if not self._active:
            raise InputError("frame marks a frame of the loop: call it inside the `with` block")
        with self._apart():
            self._end_frame(x)
        with self._apart():
            self._turn(self._frame + 1)
        self.failed = False

    @property
    def frames(self) -> int:
        """How many frames were marked."""
        return len(self._frames) - 1

    def _turn(self, frame: int) -> None:
        """Go on with what was seen of another frame."""
        own = self._frames[self._frame]
        own.n, own.chain, own.added = self.n, self._chain, self._added
        while len(self._frames) <= frame:
            data = self._data_of(len(self._frames))
            self._frames.append(OneFrame(data, None if data is None else law(data)))
        self._frame, other = frame, self._frames[frame]
        self.data, self._law = other.data, other.law
        self.n, self._chain, self._added = other.n, other.chain, other.added

    def _data_of(self, frame: int) -> Data | None:
        """The data's own frame; None beyond their end, and where there are none."""
        if self._sequences is None:
            return None
        index = (self.model.context or 0) + frame
        if index >= self._sequences.length:
            return None
        return frame_of(self._sequences, index)

    def finish(self, x0: Tensor) -> None:
        """End the batch under way with its clean images.

        This is for loops whose network alone is watched.

        Parameters
        ----------
        x0 : Tensor
            The images (B, *shape).
        """
        raise InputError("a scheduler's last state is seen: leave finish out")

    @contextmanager
    def _apart(self) -> Iterator[None]:
        """Keep what goes wrong of ours from the loop: tell it once, and leave the batch out."""
        try:
            yield
        except Exception as error:
            told = error if isinstance(error, InputError) else _unexpected(error)
            self.failed = True
            self._left_out += 1
            self._forget()
            if self.error is None:
                self.error = told
                with suppress(UserWarning):  # where warnings are errors: the loop goes on
                    warnings.warn(
                        f"this batch is not recorded, and the loop goes on: {told}", stacklevel=5
                    )

    def recording(self, frame: int | None = None) -> Recording:
        """Make a `Recording` of what was observed; it starts from noise.

        Parameters
        ----------
        frame : int, optional
            Which frame, from 1; where frames were marked by `frame(x)` it has to be said.

        Returns
        -------
        Recording
            Of a frame whose model holds its context itself, there is no forward stream.

        Notes
        -----

        With data this runs the network once more: the forward stream, at the chain's levels, in
        batches as large as the loop's, in evaluation mode and under the loop's autocast. A
        class-conditional model meets each image's own class there, whatever classes the loop was
        asked for.

        Raises InputError while the loop is being observed and where no batch was recorded. Warns of
        batches that could not be, and where the model does not say what the loop's network said:
        another prompt, guidance scale or dropout."""
        if self._active:
            raise InputError(
                "the loop is still being observed: call recording() after the `with` block"
            )
        self._turn(self._asked_for(frame))
        if self._chain is None or self._levels is None:
            raise InputError(str(self.error or self._why_nothing)) from self.error
        how = made(batch_size=self._largest, device=str(self.model.device))
        if self.error is not None:
            how |= {"left_out": self._left_out, "left_out_because": str(self.error)}
            batches = "1 batch is" if self._left_out == 1 else f"{self._left_out} batches are"
            warnings.warn(
                f"{batches} not in this recording of {self.n} samples: {self.error}", stacklevel=2
            )
        ids = np.arange(self.first, self.first + self.n)
        streams = {} if self.data is None else self._forward(self.data, ids, self._levels)
        streams["chain"] = self._chain_of(ids, self._chain)
        return warn_unless_denoises(
            Recording(streams, self._run(self._levels, streams), self.n, how)
        )

    def _asked_for(self, frame: int | None) -> int:
        """The place of the frame that a recording is asked of."""
        if not self.frames:
            if self._sequences is not None or frame is not None:
                raise InputError(
                    "no frame was marked: call frame(x) after each frame of the roll-out"
                )
            return 0
        if frame is None or not 1 <= whole_number(frame, "frame") <= self.frames:
            raise InputError(
                f"{self.frames} frames were marked: give recording(frame=k), k from 1 to"
                f" {self.frames}"
            )
        return frame - 1

    def _chain_of(self, ids: NDArray[np.int64], collector: Collector) -> xr.Dataset:
        """The chain's statistics, with the power that each step added where that was looked at."""
        chain = collector.to_dataset(ids, self._images(ids))
        if self._added is not None and np.isfinite(self._added).all():
            chain["noise_power"] = ("step", self._added[list(collector.row)])
        return chain

    def _run(self, levels: tuple[Level, ...], streams: dict[str, xr.Dataset]) -> Run:
        known = identities(self.model, self.data)
        if self._guided and self.model.guidance is None:
            known["model"] = replace(known["model"], guidance=UNKNOWN_GUIDANCE)
        return Run(
            **known,
            levels=levels,
            sampler=self._sampler_name(),
            spacing=Spacing.OBSERVED,
            start=Start.NOISE,
            clip=self._clip(),
            seed=self.seed,
            streams=tuple(Stream(name) for name in sorted(streams.keys() - {"data"})),
        )

    def _forward(
        self, data: Data, ids: NDArray[np.int64], levels: tuple[Level, ...]
    ) -> dict[str, xr.Dataset]:
        """The data's own sums and the forward stream of the samples `ids`."""
        if self.n > len(data):
            warnings.warn(
                f"{self.n} samples of {len(data)} images: images recur, each time with fresh noise",
                stacklevel=3,
            )
        model, kept, known = self.model, kept_steps(len(levels) - 1), self._known(data.shape)
        own = self._collector("data", [0], [model.schedule.clean], self.n, known)
        collector = self._collector("forward", kept, [levels[i] for i in kept], self.n, known)
        with (
            model.evaluating(),
            nullcontext() if self._autocast is None else torch.autocast(*self._autocast),
        ):
            asks = not self.frames or model.context is not None
            if asks and model.context is None:
                self._compare()
            for start in range(0, self.n, self._largest):
                batch = ids[start : start + self._largest]
                images = self._images(batch)
                x0 = torch.from_numpy(data.batch(images)).to(model.device, torch.float64)
                subjects = Subjects(slice(start, start + len(batch)), images, x0, known)
                with plainly(x0):
                    own.update(Step(0, model.schedule.clean, x0, None), subjects)
                if not asks:
                    continue
                noise = Noise(self.seed, "forward", batch.tolist(), model.shape, model.device)
                with self._in_words(len(batch)):
                    bound = self._bound(data, images)
                    for step in forward(bound, x0, levels, noise, indices=kept):
                        with plainly(x0):
                            collector.update(step, subjects)
        images = self._images(ids)
        found = {"data": own.to_dataset(ids, images).merge(known.to_dataset())}
        return found | ({"forward": collector.to_dataset(ids, images)} if asks else {})

    def _bound(self, data: Data, images: NDArray[np.int64]) -> Denoiser:
        """The model with the labels of these images, or with the true frames before them."""
        if self._sequences is None or self.model.context is None:
            return self.model.given(data.labels_of(images))
        context = true_context(self.model, self._sequences, images, self._frame, self.seed)
        return self.model.within(context)

    @contextmanager
    def _in_words(self, rows: int) -> Iterator[None]:
        """Raise InputError where a network cannot be asked again outside of its loop."""
        try:
            yield
        except InputError:
            raise
        except (RuntimeError, ValueError, IndexError) as error:
            raise InputError(
                f"the network could not be asked about {rows} states after the loop"
                f" ({reason(error)}): if it holds a context of the loop, such as a cache, observe"
                " without data, or give a Denoiser(…, context=p) and Sequences"
            ) from error

    def _compare(self) -> None:
        """Warn where the model does not answer what the loop's network answered.

        To some of the first states."""
        if self._example is None or self.model.classes is not None:
            return
        level, x, output = self._example
        with self._in_words(len(x)):
            said = self.model(*in_network_coordinates(self.model, x, level))
        said = said[:, : x.shape[1]].double()
        difference = float((said - output[:, : x.shape[1]]).norm() / output[:, : x.shape[1]].norm())
        if difference > DISAGREEMENT:
            warnings.warn(
                f"the model's answers differ by {difference:.0%} from those of the loop at the same"
                " states (another prompt, guidance scale, dropout?): its forward stream is that of"
                " another field",
                stacklevel=4,
            )

    def _known(self, shape: tuple[int, ...]) -> Law:
        """The data's law; without data one of no directions around zero."""
        return self._law or Law(
            np.zeros(shape), np.zeros(shape), np.empty(0), np.empty((0, int(np.prod(shape))))
        )

    def _images(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        return ids if self.data is None else ids % len(self.data)

    # What a loop's steps go through, in order.

    def _open(self, x: Tensor) -> None:
        """Begin a batch with its first state; one that is not finished is left out."""
        shape = tuple(x.shape[1:])
        if len(shape) != len(self.model.shape):
            raise InputError(
                f"the loop's states are {shape}, the model's {self.model.shape}: packed latents are"
                " not supported"
            )
        if self.data is not None and shape != self.data.shape:
            raise InputError(
                f"the loop's states are {shape}, but {self.data.name} holds {self.data.shape}: give"
                " data alike"
            )
        ids = np.arange(self.first + self.n, self.first + self.n + len(x))
        # An unpaired chain has no x_0 of its own; nothing that is kept of it asks for one.
        x0 = torch.full(x.shape, torch.nan, dtype=torch.float64, device=self._device(x))
        subjects = Subjects(slice(0, len(x)), self._images(ids), x0, self._known(shape))
        self._batch = Batch(
            subjects, None if self._levels is None else self._of_chain(self._levels, subjects)
        )

    def _note_autocast(self, x: Tensor) -> None:
        kind = x.device.type
        self._autocast = (
            (kind, torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else None
        )

    def _of_chain(self, levels: tuple[Level, ...], subjects: Subjects) -> Collector:
        kept = kept_steps(len(levels) - 1)
        rows = len(subjects.images)
        return self._collector("chain", kept, [levels[i] for i in kept], rows, subjects.law)

    def _collector(
        self, stream: str, kept: Sequence[int], levels: Sequence[Level], samples: int, law: Law
    ) -> Collector:
        first = self.first + (self.n if stream == "chain" else 0)
        layout = Layout(stream, len(kept), samples, law, False, self.seed, first=first, keep=KEEP)
        return Collector(layout, kept, levels)

    def _take(self, seen: Seen) -> None:
        """Add the next step of the batch under way."""
        batch = self._under_way()
        self._check_size(seen.x)
        if self._example is None:
            self._example = Seen(
                seen.level, *(t.detach().to(self._device(t), torch.float64) for t in seen[1:])
            )
        index = batch.count
        batch.count += 1
        if batch.collector is None or self._levels is None:
            # Copies: the loop may write into its states, and its network into its outputs.
            batch.held.append(Seen(seen.level, *(t.detach().clone() for t in seen[1:])))
            return
        if index >= len(self._levels) - 1 or self._levels[index] != seen.level:
            raise InputError(
                f"step {index} of this batch is at timestep {seen.level.timestep:g}, unlike the"
                " batch before it: observe loops of other levels separately"
            )
        if index in batch.collector.row:
            batch.collector.update(self._step(index, seen), batch.subjects)

    def _check_size(self, x: Tensor) -> None:
        """Raise InputError unless these are as many states as the batch under way has."""
        size = len(self._under_way().subjects.images)
        if len(x) != size:
            raise InputError(
                f"a batch of {size} states went on with {len(x)}: observe whole batches"
            )

    def _complete(self, x: Tensor) -> None:
        """End the batch under way at state x, and keep it."""
        batch = self._under_way()
        if self._levels is None:
            self._levels = (*(seen.level for seen in batch.held), self.model.schedule.clean)
        if batch.count < len(self._levels) - 1:
            warnings.warn(
                f"a batch stopped after {batch.count} of {len(self._levels) - 1} steps: left out",
                stacklevel=5,
            )
            self._batch = None
            return
        collector = batch.collector or self._of_chain(self._levels, batch.subjects)
        for index, seen in enumerate(batch.held):
            if index in collector.row:
                collector.update(self._step(index, seen), batch.subjects)
        end = x.detach().to(self._device(x), torch.float64, copy=True)
        collector.update(Step(len(self._levels) - 1, self._levels[-1], end, None), batch.subjects)
        if self._chain is None:
            self._chain = collector
        else:
            self._chain.merge(collector)
        if batch.added:
            # of the start first, of the end nothing
            power = len(end) * np.array([*batch.added, 0.0])
            self._added = power if self._added is None else self._added + power
        self.n += len(end)
        self._largest = max(self._largest, len(end))
        self._batch = None

    def _note_added(self, power: float) -> None:
        """Note what the step that was just taken added to its state."""
        self._under_way().added.append(power)

    def _under_way(self) -> Batch:
        if self._batch is None:
            raise InputError("no batch is under way")
        return self._batch

    def _step(self, index: int, seen: Seen) -> Step:
        x = seen.x.detach().to(self._device(seen.x), torch.float64, copy=True)
        return Step(index, seen.level, x, self._read(seen, x))

    def _read(self, seen: Seen, x: Tensor) -> Prediction:
        """The prediction at a state, as float64 x."""
        output = seen.output.detach().to(x.device, copy=True)
        if output.shape[2:] != x.shape[2:] or output.shape[1] not in (x.shape[1], 2 * x.shape[1]):
            raise InputError(
                f"the network returned shape {tuple(output.shape)} for states {tuple(x.shape)}"
            )
        x, level = in_network_coordinates(self.model, x, seen.level)
        try:
            return self.model.read(output, x, level)
        except InputError as error:
            raise InputError(
                f"{error} at timestep {level.timestep:g} (α={level.alpha:.4g})"
            ) from error

    @staticmethod
    def _device(x: Tensor) -> torch.device:
        """Where statistics are made: x's device, or the CPU where that has no float64."""
        return torch.device("cpu") if x.device.type == "mps" else x.device

    # What the two kinds of loop differ in.

    @abstractmethod
    def _install(self) -> None: ...

    @abstractmethod
    def _remove(self) -> None: ...

    @abstractmethod
    def _close(self) -> None:
        """The loop has ended without an error."""

    @abstractmethod
    def _end_frame(self, x: Tensor | None) -> None:
        """The user says that a frame ends, with these states."""

    @abstractmethod
    def _begin_marked(self) -> None:
        """The user says that a batch begins."""

    def _forget(self) -> None:
        """Drop the batch under way."""
        self._batch = None

    @abstractmethod
    def _sampler_name(self) -> str: ...

    @abstractmethod
    def _clip(self) -> Clipping: ...


def frame_of(sequences: Sequences, index: int) -> Data:
    """Frame `index` of all sequences as data."""
    values = sequences.frame(np.arange(len(sequences)), index)
    return Data(values, f"{sequences.name}, frame {index}", value_range=None)


def true_context(
    model: Denoiser, sequences: Sequences, images: NDArray[np.int64], frame: int, seed: int
) -> Context:
    """The true frames before frame `frame` of a roll-out, for a model with a context."""
    count, device = model.context or 0, model.device
    frames = np.stack([sequences.frame(images, frame + k) for k in range(count)], axis=1)
    extra = {
        name: torch.from_numpy(values).to(device)
        for name, values in sequences.extra(images, frame, frame + count).items()
    }
    purpose = f"context of frame {frame + count}"
    draws = Draws(seed, purpose, images.tolist(), frames.shape[1:], device)
    return Context(torch.from_numpy(frames).to(device).double(), frame + count, extra, draws)


def _unexpected(error: Exception) -> InputError:
    return InputError(
        f"observing failed where it should not ({type(error).__name__}: {reason(error)}): please"
        " report this with the loop that was watched"
    )


def compiled(net: torch.nn.Module) -> bool:
    return hasattr(net, "_orig_mod") or getattr(net, "_compiled_call_impl", None) is not None
