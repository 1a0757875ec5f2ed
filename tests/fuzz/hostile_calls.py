"""Calls and command lines that mean nothing, strangers' texts, odd clocks, and two at once."""

import inspect
import json
import os
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import forgeries
import numpy as np
import torch
import worlds
from trials import Silent, Trial, command, plain

import exposure_bias as eb

Generator = np.random.Generator
NAN = float("nan")
ODD: tuple[Any, ...] = (
    *(None, True, -1, 0, 1.5, NAN, float("inf"), 10**18, -(10**18), 1j, 10**400),
    *("", "x", "\0", "a\x1b[31m", "5", "nan", b"x", [], [[]], {}, {"a": 1}, (1, 2, 3), range(3)),
    *(object(), np.zeros(0), np.zeros((0, 1, 4, 4)), np.array(NAN), np.array(["a"]), print),
    *(torch.zeros(2), torch.zeros(2, device="meta"), torch.zeros(2).to_sparse(), Path("nowhere")),
    *([NAN], [object()], ["x", "x"], [1, 1], [10**18], [-1], "linear", float),
)


def _calls() -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    """Public functions by name, with honest arguments, which take little time."""
    model, data = worlds.model(), worlds.images(32)
    brief: dict[str, Any] = {"model": model, "data": data, "n": 32}
    schedules = {
        name: (getattr(eb.schedules, name), given)
        for name, given in {
            "linear": {"steps": 10, "beta_start": 1e-4, "beta_end": 0.02},
            "cosine": {"steps": 10, "offset": 0.008, "max_beta": 0.999},
            "edm": {"sigma_min": 0.002, "sigma_max": 80.0},
            "flow": {"scale": 1.0},
            "ve": {"sigma_min": 0.01, "sigma_max": 50.0},
            "vp": {"beta_min": 0.1, "beta_max": 20.0, "t_min": 1e-3},
            "sub_vp": {"beta_min": 0.1, "beta_max": 20.0, "t_min": 1e-3},
            "from_alphas_cumprod": {"alphas_cumprod": [0.9, 0.5], "name": "mine", "timestep": None},
        }.items()
    }
    errors = eb.chain_errors(model, data, (3,), n=32)
    recorded = eb.record(model, data, steps=2)
    denoiser = {
        "net": lambda x, t: x,
        "schedule": eb.schedules.linear(10),
        "prediction_type": "epsilon",
        "shape": worlds.SHAPE,
        "call": None,
        "learned_variance": False,
        "name": "mine",
        "classes": None,
        "guidance": None,
        "device": None,
    }

    def used(**given: Any) -> Any:
        """A denoiser, and what it says: some of its arguments are first used there."""
        made = eb.Denoiser(**given)
        return eb.record(made, data, steps=2, n=16, streams=("chain",))

    return {
        "record": (eb.record, {**brief, "steps": 2, "checkpoint": None}),
        "rollouts": (eb.rollouts, {**brief, "steps": 2}),
        "telescope": (eb.telescope, {**brief, "steps": 2}),
        "chain_errors": (eb.chain_errors, {**brief, "lengths": (2,)}),
        "chain_length_fid": (
            eb.chain_length_fid,
            {**brief, "lengths": (2,), "features": "pixel"},
        ),
        "error_budget": (eb.error_budget, {**brief, "steps": 2, "restarts": []}),
        "compare": (eb.compare, {"models": [model, model], "data": data, "n": 32, "steps": 2}),
        "diagnose": (eb.diagnose, {**brief, "steps": 2}),
        "train": (
            eb.train,
            {"data": worlds.pixels(16), "net": worlds.NETWORK, "iterations": 1, "batch_size": 2},
        ),
        "load_data": (eb.load_data, {"source": worlds.pixels(8)}),
        "Denoiser": (used, denoiser),
        "Monitor": (eb.Monitor, {"data": data, "every": 2}),
        "adapt": (lambda model: eb.adapt(model), {"model": model}),
        "load_model": (eb.load_model, {"name_or_path": "digits"}),
        "load": (eb.load, {"path": "nowhere.nc"}),
        "merge": (eb.merge, {"recordings": [recorded]}),
        "spectrum": (eb.spectrum, {"recording": recorded, "basis": "dct"}),
        "variance_gap": (eb.variance_gap, {"recording": recorded}),
        "epsilon_norm": (eb.epsilon_norm, {"recording": recorded}),
        "normality": (eb.normality, {"errors": errors, "n": 16, "alpha": 0.05}),
        "isotropy": (eb.isotropy, {"errors": errors}),
        "shapiro": (eb.shapiro, {"x": np.random.default_rng(0).normal(size=(20, 2))}),
        "report": (
            lambda results, path: eb.report(results, path=path),
            {"results": recorded, "path": "page.html"},
        ),
        "epsilon_scaled": (eb.remedies.epsilon_scaled, {"model": model, "scale": 1.01}),
        "ip_equivalent": (eb.remedies.ip_equivalent, {"model": model, "gamma": 0.1}),
        "time_shifted": (eb.remedies.time_shifted, {"model": model, "window": 3, "cutoff": 100}),
        "GaussianOracle": (
            eb.oracles.GaussianOracle,
            {"mean": np.zeros(worlds.SHAPE), "covariance": 0.1, "schedule": eb.schedules.flow()},
        ),
        **schedules,
    }


def calls(rng: Generator, count: int) -> Iterator[Trial]:
    """Public functions with one argument that is odd: InputError, or a result."""
    known = _calls()
    names = list(known)
    for i in range(count):
        name = names[i % len(names)]
        function, honest = known[name]
        parameters = [
            p.name
            for p in inspect.signature(function).parameters.values()
            if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
        ] or list(honest)
        which = parameters[int(rng.integers(len(parameters)))]
        number = int(rng.integers(len(ODD)))
        value = ODD[number]

        def run(
            folder: Path,
            function: Any = function,
            honest: Any = honest,
            which: str = which,
            value: Any = value,
        ) -> object:
            said = function(**dict(honest) | {which: value})
            if isinstance(value, float) and np.isnan(value):
                raise Silent(f"{which}=nan passes")
            return said

        yield Trial("calls", f"{name}({which}={value!r:.30})", run)


def modules(rng: Generator, count: int) -> Iterator[Trial]:
    """Networks whose answers, or whose weights, are of an odd kind."""
    del rng
    nets: dict[str, Callable[[torch.Tensor, torch.Tensor], Any]] = {
        "sparse": lambda x, t: x.to_sparse(),
        "sparse csr": lambda x, t: x.flatten(1).to_sparse_csr(),
        "meta": lambda x, t: x.to("meta"),
        "complex": lambda x, t: x.to(torch.complex64),
        "whole": lambda x, t: x.long(),
        "truth": lambda x, t: x > 0,
        "quantised": lambda x, t: torch.quantize_per_tensor(x.float(), 0.1, 0, torch.qint8),
        "nested": lambda x, t: torch.nested.nested_tensor([x[0], x[0]]),
        "NaN": lambda x, t: x * NAN,
        "infinity": lambda x, t: x + float("inf"),
        "huge": lambda x, t: torch.full_like(x, 3e38),
        "None": lambda x, t: None,
        "a list": lambda x, t: [x],
        "numpy": lambda x, t: x.numpy(),
        "a number": lambda x, t: 1.0,
        "fewer": lambda x, t: x[:1],
        "more": lambda x, t: torch.cat([x, x]),
        "more channels": lambda x, t: torch.cat([x, x], 1),
        "of another size": lambda x, t: x[..., :2],
        "none of it": lambda x, t: x[:0],
        "needing gradients": lambda x, t: x.requires_grad_() * 2,
        "an expanded one": lambda x, t: x[:1].expand(len(x), -1, -1, -1),
        "its input": lambda x, t: x.mul_(0.5),
        "half": lambda x, t: x.half(),
        "a subclass": lambda x, t: torch.nn.Parameter(x),
        "a mapping": lambda x, t: {"sample": None},
        "fails": lambda x, t: 1 / 0,
        "fails in torch": lambda x, t: x @ torch.zeros(3, 5),
        "leaves": lambda x, t: (_ for _ in ()).throw(SystemExit(3)),
    }
    for what, net in nets.items():

        def run(folder: Path, net: Any = net, what: str = what) -> object:
            model = eb.Denoiser(
                net, schedule=eb.schedules.linear(10), prediction_type="epsilon", shape=worlds.SHAPE
            )
            try:
                return eb.record(model, worlds.images(16), steps=2, n=16)
            except (ZeroDivisionError, RuntimeError, SystemExit) as error:
                return _own_error(error)

        yield Trial("modules", f"returns {what}", run)
    kinds: dict[str, Callable[[Any], Any]] = {
        "on meta": lambda net: net.to("meta"),
        "in half": lambda net: net.half(),
        "in bfloat16": lambda net: net.bfloat16(),
        "in complex": lambda net: net.to(torch.complex64),
        "partly on meta": _partly_on_meta,
        "with NaN": _with_nan,
        "empty": lambda net: torch.nn.Identity(),
        "pruned": _pruned,
    }
    for what, change in kinds.items():

        def adapted(folder: Path, change: Any = change, what: str = what) -> object:
            from diffusers import DDPMScheduler, UNet2DModel

            net = UNet2DModel(sample_size=4, in_channels=1, out_channels=1, **worlds.NETWORK)
            try:
                model = eb.adapt(change(net.eval()), DDPMScheduler())
                said = eb.record(model, worlds.images(16), steps=2, n=16, streams=("chain",))
            except (TypeError, RuntimeError) as error:
                return _own_error(error)
            if what == "with NaN":
                raise Silent("a network of NaN")
            return said

        yield Trial("modules", f"a UNet {what}", adapted)
    del count


def _own_error(error: BaseException) -> str:
    """A network's own error may be seen as it is; one of ours on its answer may not."""
    frames = [f.filename for f in traceback.extract_tb(error.__traceback__)]
    if "exposure_bias" in frames[-1]:
        raise error
    return "its own error"


def _partly_on_meta(net: Any) -> Any:
    net.conv_out.to("meta")
    return net


def _with_nan(net: Any) -> Any:
    with torch.no_grad():
        net.conv_out.weight.fill_(NAN)
    return net


def _pruned(net: Any) -> Any:
    net.conv_out.weight = None
    return net


def environments(rng: Generator, count: int, honest: Path) -> Iterator[Trial]:
    """Variables of the environment that other programs set, or that nobody meant."""
    numbers = ("", "0", "-1", "2", "x", "1.5", "nan", "1e9", "9" * 5000, " 1 ", "٣")
    names = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_PORT", "EXPOSURE_BIAS_PATIENCE")
    sets = [{name: value} for name in names for value in numbers]
    sets += [{"WORLD_SIZE": "2", "RANK": value} for value in numbers]
    sets += [{"WORLD_SIZE": value, "RANK": "0"} for value in numbers]
    sets += [{"OMP_NUM_THREADS": value} for value in ("x", "0", "-1", "2,3", "9" * 30)]
    sets += [{"EXPOSURE_BIAS_CACHE": v} for v in ("/dev/null", "/proc/x", "x" * 5000)]
    sets += [{"COLUMNS": v} for v in ("0", "1", "-5", "x", "9" * 30)]
    sets += [{"HOME": v} for v in ("", "/nowhere", "/dev/null")]
    order = rng.permutation(len(sets))
    for number in order[:count]:
        given = sets[int(number)]

        def run(folder: Path, given: dict[str, str] = given) -> object:
            os.environ.update(given)
            data = worlds.saved_images(folder)
            line = ("--steps", "2", "-n", "16", "--data", str(data), "--model")
            return [
                command(folder, "variance-gap", str(honest / "honest.nc")),
                command(folder, "record", *line, str(honest / "pipeline"), "-o", "new.nc"),
            ]

        said = ", ".join(f"{k}={v[:20]}" for k, v in given.items())
        yield Trial("environments", said, run)


HOSTILE = (
    "\x1b[2J\x1b[31mred",
    "\x1b]0;title\x07",
    "\x1b]52;c;cm0gLXJm\x07",
    "\x07\x08\x7f",
    "\x9b31m",
    "a\u202eb\u2066c",
    "\u200b\u200d\ufeff",
    "a\nb\r\nc\rd",
    "\u2028\u2029",
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    "{{ 7 * 7 }}{% include 'x' %}",
    "%s %n {0} {model}",
    "\\input{/etc/passwd}$x_1$ & \\\\",
    "=cmd|'/c calc'!A1",
    "x" * 9_000,
    "\U000e0041\U000e0042",
)


def strangers_texts(rng: Generator, count: int, honest: Path) -> Iterator[Trial]:
    """Texts of a recording or a result that a terminal, or a page, might obey."""
    content = (honest / "honest.nc").read_bytes()
    result = (honest / "gap" / "variance-gap.nc").read_bytes()
    places = [
        *(("run", "model", name) for name in ("name", "weights", "source", "computed")),
        *(("run", "data", name) for name in ("name", "split", "note", "hash", "labels")),
        *(("run", name) for name in ("schedule", "sampler", "kind")),
        *(("made", name) for name in ("time", "python", "device", "torch", "more")),
    ]
    attributes = ("model", "data", "sampler", "steps", "note", "answer", "clip", "more", "n")
    pairs = [(place, text) for place in places for text in HOSTILE]
    pairs += [(("attribute", name), text) for name in attributes for text in HOSTILE]
    for number in rng.permutation(len(pairs))[:count]:
        place, text = pairs[int(number)]

        def run(folder: Path, place: Any = place, text: str = text) -> object:
            if place[0] == "attribute":
                change = _attribute(place[1], text)
                (folder / "x.nc").write_bytes(forgeries.changed(result, change)())
            else:
                (folder / "x.nc").write_bytes(forgeries.changed(content, _told(place, text))())
            said = []
            for kind in ("text", "json", "csv", "latex"):
                said.append(_shown(folder, "variance-gap", "x.nc", "--format", kind))
            said.append(_shown(folder, "report", "x.nc", "-o", "page.html"))
            page = folder / "page.html"
            if page.exists():
                written = page.read_text()
                if not plain(written) or "<script>alert" in written or "<img src=x" in written:
                    raise Silent("the page holds the text as it came")
                if "\\input{/etc" in said[3]:
                    raise Silent("LaTeX holds the text as it came")
            return said

        yield Trial("strangers' texts", f"{'/'.join(place)} {text[:20]!a}", run)


def _shown(folder: Path, *line: str) -> str:
    """What a command says, whether it refuses or not."""
    try:
        return command(folder, *line)
    except ValueError as error:
        if not plain(str(error)):
            raise Silent(f"unprintable refusal {str(error)[:200]!a}") from error
        return str(error)


def _told(place: tuple[str, ...], text: str) -> forgeries.Change:
    def change(file: Any) -> None:
        known = json.loads(file.attrs["provenance"])
        inner = known
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = text
        file.attrs["provenance"] = json.dumps(known)

    return change


def _attribute(name: str, text: str) -> forgeries.Change:
    return lambda file: file.attrs.__setitem__(name, text)


def clocks(rng: Generator, count: int, honest: Path) -> Iterator[Trial]:
    """Clocks that stand still, jump, or run backwards while a run computes."""
    year = 3.2e7
    given: dict[str, Callable[[float], float]] = {
        "stands still": lambda now: 1000.0,
        "stands at 0": lambda now: 0.0,
        "runs backwards": lambda now: 1e6 - now,
        "is in 1969": lambda now: -1000.0 + now,
        "is in the year 30,000": lambda now: 9e11 + now,
        "is infinite": lambda now: 1e300,
    }
    for i in range(count - len(given)):
        jumps = rng.choice([0.0, 3.5, 61.0, -61.0, year, -year, 1e12], 5)

        def jumped(now: float, jumps: Any = jumps, seen: list[int] = []) -> float:  # noqa: B006
            seen.append(1)
            return float(now + jumps[: min(len(seen) // 3, 5)].sum())

        given[f"jumps {i}: {', '.join(f'{j:g}' for j in jumps)}"] = jumped
    lines = {
        "record": ("record", "-o", "out.nc"),
        "diagnose": ("diagnose", "-o", "out"),
        "train": ("train", "-o", "out"),
        "chain-length-fid": ("chain-length-fid", "-o", "out"),
    }
    for number, (what, clock) in enumerate(given.items()):
        name = list(lines)[number % len(lines)]

        def run(folder: Path, clock: Any = clock, name: str = name) -> object:
            data = worlds.saved_images(folder)
            now = time.monotonic
            for function in ("monotonic", "perf_counter", "time", "process_time"):
                setattr(time, function, lambda: clock(now()))
            line = [*lines[name], "--data", str(data)]
            if name == "train":
                net = folder / "net.json"
                net.write_text(json.dumps(worlds.NETWORK))
                line += ["--net", str(net), "--iterations", "4", "--batch-size", "2"]
                line += ["--sample-every", "0", "--log-every", "1", "--checkpoint-every", "2"]
            else:
                line += ["--model", str(honest / "pipeline"), "--batch-size", "8", "-n", "32"]
                line += ["--lengths", "2"] if name == "chain-length-fid" else ["--steps", "2"]
                line += ["--features", "pixel"] if name == "chain-length-fid" else []
            return command(folder, *line)

        yield Trial("clocks", f"{name}: {what}", run)
