"""`Run`: everything that defines a run, as one typed value.

It is the only description of it. No torch here.

Two runs are one if their `Run`s are equal; what differs is named field by field. A run is stored as
JSON (`to_json`, `from_json`), compared (`refuse_differences`) and told to people (`describe`) from
here alone."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from math import ceil
from typing import Any

import numpy as np

from exposure_bias.clipping import UNCLIPPED, Clipping, Convention
from exposure_bias.errors import InputError
from exposure_bias.samplers import Stage, Transition, named
from exposure_bias.schedules import PARAMETERISATIONS, PREDICTION_TYPES, Level

# A guided field is no denoiser of q, so that what its chain shows is not exposure bias alone.
GUIDED_GAP = "guidance + bias"
UNKNOWN_GUIDANCE = math.nan
PROBE_FLOOR = 1e-3
MOST_LEVELS = 100_000
# What α and σ of a level may be where they are not 0; score_sde's ve reaches 1e3.
SMALLEST, LARGEST = 1e-12, 1e12


class Start(StrEnum):
    """Where chains begin.

    On noised data at the first level, on pure noise, or on data at a level of the grid."""

    DATA = "data"
    NOISE = "noise"
    LEVEL = "level"


class Stream(StrEnum):
    """What can be recorded."""

    FORWARD = "forward"
    CHAIN = "chain"
    TEACHER = "teacher"


class Spacing(StrEnum):
    """How a grid's levels were chosen.

    By a schedule's spacing, as a list of levels, by the sampler itself, or by somebody else's
    loop."""

    LINSPACE = "linspace"
    LEADING = "leading"
    TRAILING = "trailing"
    KARRAS = "karras"
    GIVEN = "given"
    SAMPLER = "sampler"
    OBSERVED = "observed"


@dataclass(frozen=True)
class Probe:
    """What a model says to one fixed noise.

    It tells apart models that hash alike (`denoisers.probe`).

    tolerance: how far values may be off, relative to their root mean square.
    """

    values: tuple[float, ...]
    tolerance: float

    def agrees(self, other: "Probe") -> bool:
        """Whether two models gave the same answer."""
        if len(self.values) != len(other.values):
            return False
        a, b = np.array(self.values), np.array(other.values)
        size = max(np.sqrt(np.mean(v**2)) for v in (a, b))
        # Answers smaller than the floor are round-off themselves.
        allowed = max(self.tolerance, other.tolerance) * max(size, PROBE_FLOOR)
        return bool(np.sqrt(np.mean((a - b) ** 2)) <= allowed)


@dataclass(frozen=True)
class ModelId:
    """Which model.

    weights: its hash. guidance: NaN where a loop was guided by an unknown scale. computed: in
    another precision or manner than its own, "" if not. conditions: a hash of the embeddings of its
    prompts, "" without."""

    name: str
    weights: str
    prediction_type: str
    classes: int | None = None
    guidance: float | None = None
    source: str = ""
    computed: str = ""
    conditions: str = ""

    @property
    def guided(self) -> bool:
        """Whether its field is another than a denoiser's of q.

        ε̂ = ε_∅ + w (ε_c − ε_∅) is the conditional denoiser at w = 1 and the unconditional one at w
        = 0."""
        return self.guidance not in (None, 0, 1)

    @property
    def guidance_in_words(self) -> str:
        scale = self.guidance
        return "of unknown scale" if scale is not None and math.isnan(scale) else f"{scale}"


@dataclass(frozen=True)
class DataId:
    """Which data: none of them for a loop that was observed without.

    note: what a reader must know."""

    name: str = ""
    split: str | None = None
    hash: str | None = None
    images: int = 0
    note: str = ""
    labels: str | None = None

    def __str__(self) -> str:
        return " ".join(filter(None, (self.name, self.split)))


@dataclass(frozen=True)
class Run:
    """What defines a run.

    kind: of what it makes, "recording", "rollouts", …. levels: of the whole chain, noisiest first.
    transitions: a stranger's sampler's linear steps, where it has some; ours are known by name.
    prior: the standard deviation of a start from noise. refine: how many steps stand in place of
    each. options: what only this kind of run has, as JSON values."""

    model: ModelId
    data: DataId
    schedule: str
    parameterisation: str
    levels: tuple[Level, ...]
    sampler: str
    kind: str = "recording"
    exact_teacher: bool = False
    prior: float = 1.0
    spacing: Spacing = Spacing.LINSPACE
    refine: int = 1
    start: Start = Start.DATA
    clip: Clipping = UNCLIPPED
    seed: int = 0
    streams: tuple[Stream, ...] = ()
    spectra: tuple[str, ...] = ()
    probe: Probe | None = None
    transitions: tuple[Transition, ...] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """The number of steps T′."""
        return len(self.levels) - 1

    @property
    def paired(self) -> bool:
        """Whether each chain was started on its own x_0.

        The two can then be compared one by one."""
        return self.start is not Start.NOISE

    @property
    def linear_steps(self) -> tuple[Transition, ...] | None:
        """The sampler's linear steps, for the Gaussian reference; None where it has none."""
        if self.transitions is not None:
            return self.transitions
        sampler = named(self.sampler)
        if sampler is None:
            return None
        try:
            return sampler.transition(self.levels)
        except (ArithmeticError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"the levels of this run are not those of a chain of {self.sampler}: their noise"
                " does not fall from each to the next, so that there is no reference"
            ) from error

    @property
    def no_reference(self) -> str:
        """Why there is no reference to take a difference with, or ""."""
        if self.model.guided:
            scale = self.model.guidance_in_words
            return (
                f"guidance {scale} aims at another distribution than the data's: there is no excess"
            )
        return ""

    def describe(self) -> dict[str, str]:
        """What was measured, in words: attributes for a dataset."""
        steps = (
            f"{ceil(self.steps / self.refine)}, each in {self.refine}"
            if self.refine > 1
            else f"{self.steps}"
        )
        said = {
            "model": self.model.name,
            "data": str(self.data),
            "sampler": self.sampler,
            "steps": steps,
            "timestep_spacing": self.spacing.value,
            "start": (
                self.start.value
                if self.start is not Start.LEVEL
                else f"{self.levels[0].timestep:g}"
            ),
            "clip": str(self.clip),
            "seed": str(self.seed),
        }
        if self.model.guidance is not None:
            said["guidance"] = self.model.guidance_in_words
        if self.model.guided:
            said["gap"] = GUIDED_GAP
        if self.model.computed:
            said["computed"] = self.model.computed
        return said | ({"note": self.data.note} if self.data.note else {})

    def differences(self, other: "Run") -> list[str]:
        """The fields in which two runs differ, each with both values; none if they are one run.

        A probe is compared up to its tolerance, and only where both runs have one: loops that were
        observed have none."""
        found = []
        for name in (f.name for f in fields(self) if f.name not in ("probe", "transitions")):
            one, two = getattr(self, name), getattr(other, name)
            if not _same(one, two):
                found += _told(name, one, two)
        if not found and self.probe and other.probe and not self.probe.agrees(other.probe):
            a, b = _short(self.probe.values), _short(other.probe.values)
            found.append(
                "different models that bear one name, because they answer one fixed noise"
                f" differently ({a} against {b}): give the same function and call="
            )
        return found

    def refuse_differences(self, other: "Run", what: str) -> None:
        """Raise InputError naming the fields in which two runs differ, if there are any."""
        found = self.differences(other)
        if found:
            raise InputError(f"{what}: they differ in {'; '.join(found)}")

    @property
    def digest(self) -> str:
        """16 hexadecimal digits of a SHA-256 over everything but the probe.

        A name for files of this run."""
        known = self.to_json()
        known.pop("probe")
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """The run as JSON values."""
        known = asdict(self)
        known["levels"] = [list(level) for level in self.levels]
        known["guidance_unknown"] = self.model.guidance is not None and math.isnan(
            self.model.guidance
        )
        if known["guidance_unknown"]:
            known["model"]["guidance"] = None
        result: dict[str, Any] = json.loads(json.dumps(known, ensure_ascii=False))
        return result

    @classmethod
    def from_json(cls, given: Any) -> "Run":
        """The run of JSON values.

        Raises InputError, naming the field, for what `to_json` does not write.
        """
        return _read(given)


def refuse_unlike(one: Mapping[str, Any], other: Mapping[str, Any], what: str) -> None:
    """Raise InputError naming the entries in which two settings differ, if there are any."""
    if one != other:
        raise InputError(f"{what}: they differ in {'; '.join(_told('settings', one, other))}")


def _same(one: Any, two: Any) -> bool:
    if isinstance(one, ModelId):
        return repr(one) == repr(two)  # NaN is NaN here
    return bool(one == two)


def _told(name: str, one: Any, two: Any) -> list[str]:
    """What of a field differs: of a model or data, which of its parts."""
    if isinstance(one, ModelId | DataId):
        a, b = asdict(one), asdict(two)
        return [
            f"{name} {k}: {_short(a[k])} against {_short(b[k])}"
            for k in a
            if repr(a[k]) != repr(b[k])
        ]
    if isinstance(one, Mapping):
        keys = [k for k in one.keys() | two.keys() if one.get(k) != two.get(k)]
        return [f"{k}: {_short(one.get(k))} against {_short(two.get(k))}" for k in sorted(keys)]
    if name == "levels" and len(one) != len(two):
        return [f"steps: {len(one) - 1} against {len(two) - 1}"]
    return [f"{name}: {_short(one)} against {_short(two)}"]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "…"


class _Reader:
    """Fields of a JSON object, each checked; what is wrong is named."""

    def __init__(self, given: Any, where: str, known: Sequence[str]) -> None:
        if not isinstance(given, dict):
            raise InputError(f"{where} is no JSON object")
        unknown = sorted(str(k) for k in given if k not in known)
        if unknown:
            raise InputError(f"{where} has unknown fields {', '.join(unknown)[:80]}")
        self.given, self.where = given, where

    def _wrong(self, name: str, allowed: str) -> InputError:
        return InputError(
            f"{self.where}'s {name} is {_short(repr(self.given.get(name)))}, allowed is {allowed}"
        )

    def text(self, name: str, default: str | None = None, among: Sequence[str] = ()) -> str:
        value = self.given.get(name, default)
        if not isinstance(value, str) or len(value) > 10_000 or (among and value not in among):
            raise self._wrong(name, f"one of {', '.join(among)}" if among else "a text")
        return value

    def optional_text(self, name: str) -> str | None:
        return None if self.given.get(name) is None else self.text(name)

    def whole(self, name: str, least: int = 0, default: int | None = None) -> int:
        value = self.given.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise self._wrong(name, f"a whole number of at least {least}")
        return value

    def optional_whole(self, name: str, least: int) -> int | None:
        return None if self.given.get(name) is None else self.whole(name, least)

    def number(self, name: str, default: float | None = None) -> float:
        value = self.given.get(name, default)
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
        ):
            raise self._wrong(name, "a finite number")
        return float(value)

    def truth(self, name: str) -> bool:
        value = self.given.get(name)
        if not isinstance(value, bool):
            raise self._wrong(name, "true or false")
        return value

    def items(self, name: str, most: int = MOST_LEVELS) -> list[Any]:
        value = self.given.get(name, [])
        if not isinstance(value, list) or len(value) > most:
            raise self._wrong(name, f"a list of at most {most}")
        return value

    def choices(self, name: str, allowed: type[StrEnum]) -> tuple[Any, ...]:
        names = [e.value for e in allowed]
        if any(item not in names for item in self.items(name, 100)):
            raise self._wrong(name, f"some of {', '.join(names)}")
        return tuple(allowed(item) for item in self.items(name, 100))


def _read(given: Any) -> Run:
    reader = _Reader(given, "the run", [*(f.name for f in fields(Run)), "guidance_unknown"])
    unknown = "guidance_unknown" in given and reader.truth("guidance_unknown")
    options = given.get("options", {})
    if not isinstance(options, dict):
        raise InputError("the run's options are no JSON object")
    return Run(
        model=_read_model(given.get("model"), unknown),
        data=_read_data(given.get("data")),
        schedule=reader.text("schedule"),
        parameterisation=reader.text("parameterisation", among=PARAMETERISATIONS),
        levels=_read_levels(reader),
        sampler=reader.text("sampler"),
        kind=reader.text("kind", "recording"),
        exact_teacher=reader.truth("exact_teacher"),
        prior=reader.number("prior", 1.0),
        spacing=Spacing(reader.text("spacing", among=[s.value for s in Spacing])),
        refine=reader.whole("refine", 1, 1),
        start=Start(reader.text("start", among=[s.value for s in Start])),
        clip=_read_clip(given.get("clip")),
        seed=reader.whole("seed", -(2**63)),
        streams=reader.choices("streams", Stream),
        spectra=tuple(str(s) for s in reader.items("spectra", 100)),
        probe=_read_probe(given.get("probe")),
        transitions=_read_transitions(given.get("transitions")),
        options=options,
    )


def _read_model(given: Any, guidance_unknown: bool) -> ModelId:
    reader = _Reader(given, "the run's model", [f.name for f in fields(ModelId)])
    guidance = None if given.get("guidance") is None else reader.number("guidance")
    return ModelId(
        reader.text("name"),
        reader.text("weights"),
        reader.text("prediction_type", among=PREDICTION_TYPES),
        reader.optional_whole("classes", 1),
        UNKNOWN_GUIDANCE if guidance_unknown else guidance,
        reader.text("source", ""),
        reader.text("computed", ""),
        reader.text("conditions", ""),
    )


def _read_data(given: Any) -> DataId:
    reader = _Reader(given, "the run's data", [f.name for f in fields(DataId)])
    return DataId(
        reader.text("name", ""),
        reader.optional_text("split"),
        reader.optional_text("hash"),
        reader.whole("images", 0),
        reader.text("note", ""),
        reader.optional_text("labels"),
    )


def _read_levels(reader: _Reader) -> tuple[Level, ...]:
    levels = []
    for item in reader.items("levels"):
        numbers = item if isinstance(item, list) else []
        finite = all(
            isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)
            for v in numbers
        )
        if len(numbers) != 3 or not finite or numbers[1] < 0 or numbers[2] < 0:
            raise InputError(
                f"the run's level {_short(item)} is none: allowed is [timestep, alpha ≥ 0, sigma"
                " ≥ 0]"
            )
        if any(v and not SMALLEST <= v <= LARGEST for v in numbers[1:]):
            raise InputError(
                f"the run's level {_short(item)} is none: alpha and sigma are 0, or from"
                f" {SMALLEST:g} to {LARGEST:g}"
            )
        levels.append(Level(*map(float, numbers)))
    if len(levels) < 2:
        raise InputError("the run has fewer than 2 levels")
    return tuple(levels)


def _read_clip(given: Any) -> Clipping:
    reader = _Reader(given, "the run's clip", ["convention", "bound"])
    convention = Convention(reader.text("convention", among=[c.value for c in Convention]))
    return Clipping(convention, reader.number("bound", 1.0))


def _read_probe(given: Any) -> Probe | None:
    if given is None:
        return None
    reader = _Reader(given, "the run's probe", ["values", "tolerance"])
    values = reader.items("values", 100)
    if not all(isinstance(v, int | float) and math.isfinite(v) for v in values):
        raise InputError("the run's probe has values that are no finite numbers")
    return Probe(tuple(float(v) for v in values), reader.number("tolerance"))


def _read_transitions(given: Any) -> tuple[Transition, ...] | None:
    if given is None:
        return None
    try:
        return tuple(_read_transition(item) for item in given)
    except (TypeError, ValueError, IndexError, KeyError) as error:
        raise InputError("the run's transitions are not those of a sampler") from error


def _read_transition(given: Any) -> Transition:
    stages, state, predictions, noise = given
    read = tuple(
        Stage(Level(*map(float, lv)), float(a), tuple(map(float, b))) for lv, a, b in stages
    )
    return Transition(read, float(state), tuple(map(float, predictions)), float(noise))
