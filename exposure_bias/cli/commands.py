"""The subcommands: each runs one public function. Heavy imports wait until a command runs.

A command returns what it made, recordings and results, of which a page is made. What an interrupted
run goes on from lies in the sub-folder `work` of -o."""

import argparse
import hashlib
import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exposure_bias.cli import arguments, threads
from exposure_bias.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

    from exposure_bias.recording import Recording

Options = argparse.Namespace
Run = Callable[[Options], Sequence[Any]]
WORK, UNFINISHED = "work", "unfinished.nc"


def analysis(function: str, *given: str, paired: str = "") -> Run:
    """Return the command over a function of a recording.

    function: "module:name" within `exposure_bias.diagnostics`. given: options that it takes.
    paired: why it needs chains that start on their own images, where it does.
    """

    def run(options: Options) -> Sequence[Any]:
        from exposure_bias.cli import output

        if paired and options.start == "noise" and not options.saved:
            raise InputError(f"{paired}, but --start noise pairs nothing: use --start data")
        recording = _recording(options)
        module, _, name = function.partition(":")
        analyse = getattr(import_module(f"exposure_bias.diagnostics.{module}"), name)
        result = analyse(recording, *(getattr(options, one) for one in given))
        output.show(options, result)
        return [result] if options.saved else [result, recording]

    return run


def experiment(make: "Callable[[Options], xr.Dataset]", *kinds: str) -> Run:
    """Return the command that reads the result of an earlier run of these kinds, or makes one."""

    def run(options: Options) -> Sequence[Any]:
        from exposure_bias.cli import output
        from exposure_bias.results import load_result

        saved = _saved(options, *kinds) if hasattr(options, "saved") else None
        result = load_result(saved, *kinds) if saved else make(options)
        output.show(options, result)
        return [result]

    return run


def record(options: Options) -> Sequence[Any]:
    """`eb-analyze record`."""
    from exposure_bias.cli import output
    from exposure_bias.running.recorder import record

    recording = record(_model(options), checkpoint=options.out, **_recording_options(options))
    if not options.quiet:
        output.message(f"wrote {options.out}: {recording!r}")
    output.say_recorded(options, recording)
    return [recording]


def chain_errors(options: Options) -> Sequence[Any]:
    """`eb-analyze error-hist`."""
    from exposure_bias.cli import output
    from exposure_bias.diagnostics.normality import normality
    from exposure_bias.experiments.kinds.chain_errors import pixel_table
    from exposure_bias.results import tables

    errors = _errors(options)
    tests = normality(errors, options.per_test, options.alpha)
    pixels = output.pixels(errors["error"].shape[2:], options.pixel)
    beside = [*tables(tests), pixel_table(errors, tests, pixels)]
    output.show(options, errors, beside=[replace(t, main=False) for t in beside], pixels=pixels)
    return [errors]


def normality(options: Options) -> Sequence[Any]:
    """`eb-analyze normality`: are chain errors Gaussian and white, and is the sampler perfect?"""
    from exposure_bias.cli import output
    from exposure_bias.diagnostics.isotropy import isotropy
    from exposure_bias.diagnostics.normality import normality, power, rejection_table
    from exposure_bias.results import tables

    errors = _errors(options)
    sizes = [n for n in options.per_test if n <= errors.sizes["sample"]] or options.per_test[:1]
    tests = [normality(errors, n, options.alpha) for n in sizes]
    shape = isotropy(errors)
    title = "assumption of input perturbation, Gaussian (Shapiro-Wilk rejection rates)"
    output.show(
        options,
        shape,
        before=[rejection_table(tests, "gaussian", title), *tables(power(sizes, options.alpha))],
        further=[tests[0]],
        sentence=tests[0].attrs["answer"],
        errors=errors,
    )
    return [tests[0], shape]


def chain_length_fid(options: Options) -> Sequence[Any]:
    """`eb-analyze chain-length-fid`."""
    from exposure_bias.cli import output
    from exposure_bias.experiments.chain_length_fid import load_curve, speed_up
    from exposure_bias.results import tables
    from exposure_bias.results.storage import saved_file

    kind = "chain_length_fid"
    baseline = load_curve(saved_file(options.baseline, kind)) if options.baseline else None
    saved = _saved(options, kind)
    curve = load_curve(saved) if saved else _curve(options)
    along = "iteration" if "iteration" in curve.dims else "length"
    reached = None if baseline is None else speed_up(curve, baseline, along)
    output.show(options, curve, beside=[] if reached is None else tables(reached))
    return [curve]


def train(options: Options) -> Sequence[Any]:
    """`eb-analyze train`: a run for each objective and seed."""
    from exposure_bias.adapters import load_model
    from exposure_bias.cli import output
    from exposure_bias.data import bundled
    from exposure_bias.running.parallel import world
    from exposure_bias.training.objectives import DEFAULT_STRENGTH, PERTURBED
    from exposure_bias.training.trainer import train

    if options.fine_tune:
        _refuse_beside(options, "--fine-tune", *NEW_NETWORK)
    if options.data in bundled.DATA:
        _refuse_beside(options, f"--data {options.data}", *OWN_DATA)
    for setting, of in (("gamma", PERTURBED), ("strength", DEFAULT_STRENGTH)):
        if getattr(options, setting) is not None and not {*options.objective} & {*of}:
            name = {"gamma": "--gamma", "strength": "--lambda"}[setting]
            raise InputError(
                f"{name} is for {' and '.join(of)}, none of which is trained: leave it out"
            )
    runs = [(objective, seed) for objective in options.objective for seed in options.seed]
    net = load_model(options.fine_tune) if options.fine_tune else options.net
    folders = []
    data = options.data if options.data in bundled.DATA else _read(options, options.data)
    for objective, seed in runs:
        out = run_folder(options, objective, seed)
        alone = len(options.objective) == 1
        train(
            data,
            net=net,
            out=out,
            objective=objective,
            seed=seed,
            gamma=options.gamma if alone or objective in PERTURBED else None,
            strength=options.strength if alone or objective in DEFAULT_STRENGTH else None,
            resume=options.resume and (len(runs) == 1 or (out / "last").exists()),
            **{name: getattr(options, name) for name in arguments.TRAINING},
        )
        folders.append(out)
        _say_what_is_kept(out, options)
    if world()[0] == 0:
        output.say_trained(options, folders)
    return []


def run_folder(options: Options, objective: str, seed: int) -> Path:
    """Where a training run goes.

    -o itself, or a folder in it named after what differs between several runs."""
    parts = [objective] * (len(options.objective) > 1) + [f"seed{seed}"] * (len(options.seed) > 1)
    return Path(options.out) / "-".join(parts)


def _say_what_is_kept(out: "Path", options: Options) -> None:
    """Raise InputError where no checkpoint of a training run could be written."""
    from exposure_bias.cli import output
    from exposure_bias.training.checkpoints import last_iteration
    from exposure_bias.training.trainer import ema_in_words

    last, total = last_iteration(out), options.iterations
    if last is None:
        raise InputError(f"no checkpoint could be written to {out}: nothing of this run is kept")
    if last < total:
        output.message(
            f"{out} keeps iteration {last} of {total}: the checkpoints after it could not be"
            " written; --resume goes on from there"
        )
        return
    if not options.quiet:
        output.message(f"wrote {out}: give it as --model, or to compare")
        output.message(ema_in_words(options.ema, total))


def _comparison(options: Options) -> "xr.Dataset":
    from exposure_bias.experiments.compare import compare
    from exposure_bias.running.parallel import local

    return compare(
        options.models,
        _images(options),
        start=_start(options.start),
        lengths=options.lengths,
        device=local(options.device),
        speed=_speed(options),
        folder=work(options),
        **_chain(options),
    )


def models(options: Options) -> Sequence[Any]:
    """`eb-analyze models`."""
    from exposure_bias.adapters import FAMILIES, adm
    from exposure_bias.cli import output
    from exposure_bias.data import bundled
    from exposure_bias.results import Column
    from exposure_bias.results.tables import listed

    bundled_models = [*bundled.models(), *bundled.sequence_models()]
    rows = [
        {"family": family, "command_line": command_line, "python": python}
        for family, (python, command_line) in FAMILIES.items()
    ]
    shown = (
        Column("family", "family"),
        Column(
            "at the command line",
            "command_line",
            write=lambda row: row["command_line"] or "in Python only",
        ),
    )
    found = [
        listed("families", rows, shown, main=True),
        listed("bundled", [{"model": name} for name in bundled_models]),
        listed("presets", [{"preset": name} for name in adm.PRESETS]),
    ]
    counts = f"{len(bundled_models)} bundled models, {len(adm.PRESETS)} presets"
    sentence = f"{counts}, {len(rows)} families can be loaded (counts: no interval)."
    more = [
        f"Bundled models: {', '.join(bundled_models)}.",
        f"Presets: {', '.join(adm.PRESETS)}.",
        "In Python, import exposure_bias as eb, and eb.",
        *(f"  {row['python']}  # {row['family']}" for row in rows),
    ]
    keys: dict[str, Any] = {
        "bundled": bundled_models,
        "presets": list(adm.PRESETS),
        "families": rows,
    }
    output.say(options, sentence, found, more, also=keys)
    return []


# What is asked of data of one's own: bundled data have a split, a range and a size.
OWN_DATA = ("held_out", "any_range", "limit_data")
# What a network brings along when it is fine-tuned.
NEW_NETWORK = ("net", "schedule", "prediction_type", "learned_variance")


def _refuse_beside(options: Options, given: str, *names: str) -> None:
    """Raise InputError where options were given that another one decides."""
    rows = [row for row in options.command.options if row.dest in names]
    beside = [row.name for row in rows if changed(options, row.dest)]
    if beside:
        raise InputError(f"{given} decides that already: leave out {', '.join(beside)}, or {given}")


def _saved(options: Options, *kinds: str) -> Path | None:
    """The file of an earlier run that was given, or that lies in the folder that was given."""
    from exposure_bias.results.storage import saved_file

    return saved_file(options.saved, *kinds) if options.saved else None


def work(options: Options, name: str = "") -> str | None:
    """Where a run keeps what it goes on from; None without -o."""
    return str(Path(options.out, WORK, name)) if options.out else None


def _rollouts(options: Options) -> "xr.Dataset":
    from exposure_bias.experiments.rollouts import rollouts

    return rollouts(
        *(_model(options), _images(options)), replicates=options.replicates, **_from_starts(options)
    )


def _telescope(options: Options) -> "xr.Dataset":
    from exposure_bias.experiments.telescope import telescope

    return telescope(
        *(_model(options), _images(options)), targets=options.targets, **_from_starts(options)
    )


def _from_starts(options: Options) -> dict[str, Any]:
    """What runs of chains from several starts take."""
    own = {"starts": options.starts, "refine": options.refine}
    return _chain(options) | own | {"checkpoint": work(options, UNFINISHED)}


def _errors(options: Options) -> "xr.Dataset":
    """Chain errors: those of an earlier run, or new ones."""
    from exposure_bias.cli import output
    from exposure_bias.diagnostics.normality import check_test
    from exposure_bias.experiments.chain_errors import DEFAULT_SAMPLES, chain_errors, load_errors

    if saved := _saved(options, "chain_errors"):
        return load_errors(saved)
    model, data = _model(options), _images(options)
    # What the run itself does not need is looked at before it, too.
    output.pixels(model.shape, getattr(options, "pixel", None))
    sizes = options.per_test if isinstance(options.per_test, list) else [options.per_test]
    check_test(min(sizes), options.alpha, max(min(options.n or DEFAULT_SAMPLES, len(data)), 1))
    names = ("n", "sampler", "mode", "clip", "seed", "batch_size")
    return chain_errors(
        *(model, data, options.lengths),
        checkpoint=work(options, UNFINISHED),
        **{name: getattr(options, name) for name in names},
    )


def _curve(options: Options) -> "xr.Dataset":
    from exposure_bias.experiments.chain_length_fid import LENGTHS, by_iteration, checkpoints
    from exposure_bias.experiments.chain_length_fid import chain_length_fid as curve

    same = (
        "features",
        "n",
        "start",
        "timestep_spacing",
        "clip",
        "real",
        "reference",
        "weights",
        "seed",
        "batch_size",
        "limit",
    )
    settings: dict[str, Any] = {name: getattr(options, name) for name in same}
    settings["checkpoint"] = work(options, "cells")
    if options.samplers:
        _refuse_beside(options, "--samplers", "sampler")
    settings["sampler"] = options.samplers or options.sampler
    if options.real is not None:
        settings["real"] = _read(options, options.real)
    if options.no_quantise:
        settings["quantise"] = False
    lengths = options.lengths or LENGTHS
    if options.checkpoints:
        _refuse_beside(options, "--checkpoints", "model", "against")
        found = checkpoints(options.checkpoints)
        models = [_remedied(options, _loaded(options, path)) for path in found.values()]
        several = curve(models, _raw_images(options, None), lengths, **settings)
        return by_iteration(several, list(found))
    model = _model(options)
    models = [model, *(_remedied(options, _loaded(options, name)) for name in options.against)]
    return curve(models if options.against else model, _images(options), lengths, **settings)


def _network_error(options: Options) -> "xr.Dataset":
    from exposure_bias.experiments.network_error import network_error

    if changed(options, "sampler"):
        raise InputError(
            "network-error asks the network at true states and walks towards its own limit: leave"
            " out --sampler"
        )
    if options.no_exposure:
        _refuse_beside(options, "--no-exposure", "cuts", "restarts")
    names = ("n", "levels", "restarts", "clip", "seed", "batch_size")
    return network_error(
        _model(options),
        _images(options),
        costs=not options.no_costs,
        cuts=() if options.no_exposure else options.cuts,
        folder=work(options),
        **{name: getattr(options, name) for name in names},
    )


def _levels(options: Options) -> "xr.Dataset":
    from exposure_bias.experiments.levels import level_curve, optimise_levels
    from exposure_bias.strangers import imported, is_name

    named = is_name(options.objective)
    objective = imported(options.objective, "objective") if named else options.objective
    names = ("sampler", "clip", "seed", "batch_size")
    settings: dict[str, Any] = {name: getattr(options, name) for name in names}
    settings |= {"objective": objective, "folder": work(options)}
    settings |= {} if options.n is None else {"n": options.n}
    model, data = _model(options), _images(options)
    if len(options.calls) > 1:
        if options.no_certificate:
            raise InputError(
                "several numbers of calls are compared by their certificates: leave out"
                " --no-certificate, or give one number of --calls"
            )
        return level_curve(model, data, calls=options.calls, **settings)
    certify = not options.no_certificate
    return optimise_levels(model, data, calls=options.calls[0], certify=certify, **settings)


def _budget(options: Options) -> "xr.Dataset":
    from exposure_bias.experiments.budget import error_budget
    from exposure_bias.experiments.solvers import solver_curve

    settings: dict[str, Any] = _chain(options)
    settings |= {"margin": options.margin, "start": options.start, "folder": work(options)}
    sampler, steps = settings.pop("sampler"), settings.pop("steps")
    if options.samplers:
        _refuse_beside(options, "--samplers", "sampler")
    samplers = options.samplers or [sampler]
    if len(samplers) == len(steps) == 1:
        settings["restarts"] = options.restarts
        return error_budget(
            _model(options), _images(options), sampler=samplers[0], steps=steps[0], **settings
        )
    if options.restarts:
        raise InputError(
            "restarts belong to one chain: leave out --restarts, or give one sampler and one"
            " --steps"
        )
    return solver_curve(_model(options), _images(options), samplers, steps, **settings)


def _drift(options: Options) -> "xr.Dataset":
    from exposure_bias.data import bundled
    from exposure_bias.data.sequences import Sequences
    from exposure_bias.experiments.compare_drift import compare_drift
    from exposure_bias.experiments.drift import drift_budget

    source = options.data or options.model
    if options.data is None and options.model not in bundled.SEQUENCES:
        raise InputError(f"of which sequences {options.model} is a model, nobody said: give --data")
    sequences = Sequences(source, options.chunk, limit=options.limit_data)
    names = ("frames", "start", "free_limit", "stationary")
    settings = _chain(options) | {name: getattr(options, name) for name in names}
    model = _model(options)
    if options.against:
        entries = {"as it is": model} | dict(_against(options, model, t) for t in options.against)
        return compare_drift(entries, sequences, folder=work(options), **settings)
    return drift_budget(model, sequences, checkpoint=work(options, UNFINISHED), **settings)


def _against(options: Options, model: Any, text: str) -> tuple[str, tuple[Any, dict[str, Any]]]:
    """An entry of a comparison of drift: "steps=8 + remedy=cn:0.1"."""
    from exposure_bias.remedies import remedied

    own: dict[str, Any] = {}
    for part in text.split(" + "):
        what, _, value = (word.strip() for word in part.partition("="))
        what = what.replace("-", "_")
        if what == "remedy":
            model = remedied(model, value)
        elif what in ("sampler", "start", "timestep_spacing") and value:
            own[what] = value
        elif what == "steps" and value.isdigit():
            own[what] = int(value)
        else:
            raise InputError(
                f"--against {part.strip()!r:.60} changes nothing that is known: allowed are"
                " steps=NUMBER, sampler=, start=, timestep-spacing= and remedy="
            )
    return text, (model, own)


def diagnose(options: Options) -> Sequence[Any]:
    """`eb-analyze diagnose`: of a model, of a recording without the network, or one made before."""
    from exposure_bias.cli import output
    from exposure_bias.experiments.diagnose import diagnose
    from exposure_bias.recording import RECORDING, Recording, load
    from exposure_bias.results.storage import saved_file

    if not reads(options):
        result, recording = _diagnosis(options)
        output.show(options, result)
        return [result, recording]
    found = load(saved_file(options.saved, "diagnose", RECORDING))
    result = diagnose(found) if isinstance(found, Recording) else found
    output.show(options, result)
    return [result]


def _diagnosis(options: Options) -> "tuple[xr.Dataset, Recording]":
    """The diagnosis of a model, and the recording that it was made from."""
    from exposure_bias.experiments.diagnose import diagnosed, plan
    from exposure_bias.experiments.kinds.budgets import DIAGNOSE
    from exposure_bias.results.kind import of_kind

    name = options.saved or options.model
    model = _remedied(options, _loaded(options, name))
    images = None
    if options.images is not None:
        images = _opened(options, name, _read(options, options.images))[1]
    data = _images(options, name)
    setup = plan(model, data, options.margin, start=options.start, **_chain(options))
    names = ("margin", "restarts", "starts", "batch_size", "quick")
    result, recording = diagnosed(
        setup,
        images=images,
        folder=work(options),
        **{name: getattr(options, name) for name in names},
    )
    return of_kind(result, DIAGNOSE), recording


def _recording(options: Options) -> "Recording":
    """The recording that was given, or a new one."""
    from exposure_bias.recording import RECORDING, load_recording

    if saved := _saved(options, RECORDING):
        return load_recording(saved)
    from exposure_bias.running.recorder import record

    # Beside a picture a recording would be a surprise.
    kept = None if options.command.to_file else work(options, f"{RECORDING}.nc")
    return record(_model(options), checkpoint=kept, **_recording_options(options))


def _chain(options: Options) -> dict[str, Any]:
    """What every run of chains takes."""
    names = ("sampler", "steps", "n", "timestep_spacing", "clip", "seed", "batch_size")
    return {name: getattr(options, name) for name in names}


def _recording_options(options: Options) -> dict[str, Any]:
    from exposure_bias.strangers import imported

    return _chain(options) | {
        "data": _images(options),
        "start": _start(options.start),
        "streams": options.streams.split(","),
        "spectra": options.spectra.split(",") if getattr(options, "spectra", None) else (),
        "statistics": [imported(text, "statistic") for text in options.statistic],
        "memory": options.memory * 2**20,
    }


def _images(options: Options, model: str | None = None) -> Any:
    """The data as the model takes them: latents of a latent model, with the prompts' numbers."""
    name = getattr(options, "model", None) if model is None else model
    if not hasattr(options, "prompts"):
        return _raw_images(options, name)
    return _opened(options, name)[1]


def _raw_images(options: Options, model: Any) -> Any:
    """The data given, or those that a bundled model was trained on."""
    from exposure_bias.data import bundled

    if options.data is not None:
        return _read(options, options.data, options.split)
    return _read(options, bundled.data_of(model or ""), options.split)


def _digest(name: Any) -> str:
    """What tells the models apart whose prompts are kept."""
    place = os.path.abspath(name) if os.path.exists(name) else str(name)
    return hashlib.sha256(os.fsencode(place)).hexdigest()[:16]


def _opened(options: Options, name: Any, images: Any = None) -> "tuple[Any, Any]":
    """A model by name and data, the images given by default, made to fit each other, once each."""
    from exposure_bias.adapters.opening import open_pair
    from exposure_bias.data.prompts import read_prompts
    from exposure_bias.files import cache
    from exposure_bias.running.parallel import local

    made = options.__dict__.setdefault("opened", {})
    key = (str(name), images is None)
    if key not in made:
        data = _raw_images(options, name) if images is None else images
        told = options.prompts is not None
        made[key] = open_pair(
            name,
            data,
            preset=options.preset,
            prompts=read_prompts(options.prompts, data) if told else None,
            negative_prompt=options.negative_prompt,
            guidance_scale=options.guidance,
            encoded=cache.folder() / f"prompts-{_digest(name)}.safetensors" if told else None,
            device=local(options.device),
        )
    return made[key]


def _read(options: Options, source: str, split: str | None = None) -> Any:
    """Data as the options of reading say."""
    from exposure_bias.data import UNIT_RANGE, load_data

    bounds = None if options.any_range else UNIT_RANGE
    return load_data(source, split, value_range=bounds, limit=options.limit_data)


def _model(options: Options) -> Any:
    return _remedied(options, _loaded(options, options.model))


def _loaded(options: Options, name: Any) -> Any:
    """A model by name, on the device."""
    from exposure_bias.adapters import load_model
    from exposure_bias.running.parallel import local
    from exposure_bias.running.setup import placed

    alone = not hasattr(options, "prompts") or getattr(options, "checkpoints", None)
    preset = getattr(options, "preset", None)
    model = load_model(name, preset) if alone else _opened(options, name)[0]
    model = placed(model, local(options.device), _speed(options))
    if options.own_process:
        threads.choose(model, options.quiet)
    return model


def _speed(options: Options) -> Any:
    """How networks are to be computed."""
    from exposure_bias.denoisers import Speed

    return Speed(options.precision, options.compile, options.channels_last)


def _remedied(options: Options, model: Any) -> Any:
    """The model with the remedies that were asked for, one after another."""
    from exposure_bias.remedies import remedied

    for remedy in options.remedy:
        fit = remedy == "es:fit" or remedy.startswith("es:fit:")
        model = _fitted(options, model, remedy) if fit else remedied(model, remedy)
    return model


def _fitted(options: Options, model: Any, remedy: str) -> Any:
    """The model with the epsilon scaling that a recording of it suggests."""
    from exposure_bias.cli import output
    from exposure_bias.experiments.fit import fitted_scaling
    from exposure_bias.running.recorder import record

    if not hasattr(options, "streams"):
        raise InputError(
            "es:fit needs a recording to fit to: fit with `record` or `epsilon-norm`, and give its"
            " es:SCALE here"
        )
    chain = _recording_options(options) | {
        "streams": ("forward", "chain"),
        "spectra": (),
        "statistics": (),
    }
    kind = remedy.removeprefix("es:fit").lstrip(":") or "uniform"
    scaled, words = fitted_scaling(model, record(model, **chain), kind)
    output.message(words)
    return scaled


def _start(text: str) -> str | float:
    if text in ("data", "noise"):
        return text
    try:
        return float(text)
    except ValueError:
        raise InputError(
            f"unknown start {text!r}: allowed are data, noise, or a timestep of the grid"
        ) from None


def report(options: Options) -> Sequence[Any]:
    """`eb-analyze report`: one HTML page of recordings and results."""
    from exposure_bias import files
    from exposure_bias.cli import output
    from exposure_bias.reporting import in_folder, page, sources

    found: list[Any] = []
    for name in options.files:
        inside = in_folder(name) if os.path.isdir(name) else [name]
        if not inside:
            raise InputError(f"{name} holds no result: give a folder that a command's -o wrote")
        found += inside
    made = page(sources(found))
    files.write_bytes(options.out, made.content)
    if not options.quiet:
        size = len(made.content) / 1e6
        output.message(f"wrote {options.out}: {len(found)} results in {size:.1f} MB")
    output.say(options, made.answer)
    return []


def strip(options: Options) -> Sequence[Any]:
    """`eb-analyze strip`: x_t, x̂_t and x̂_0 of a few samples in one grid."""
    import io

    from exposure_bias import files, plots
    from exposure_bias.cli import output

    kind = options.out.rpartition(".")[2].lower()
    if kind not in ("png", "pdf", "svg"):
        raise InputError(f"a strip is a picture: -o NAME.png, .pdf or .svg, got {options.out}")
    recording = _recording(options)
    figure = plots.strip(recording, samples=options.samples, levels=options.levels)
    buffer = io.BytesIO()
    plots.save(figure, buffer, format=kind)
    files.write_bytes(options.out, buffer.getvalue())
    if not options.quiet:
        output.message(f"wrote {options.out}: {options.samples} of {recording.n} samples")
    output.say(options, output.recorded(recording))
    return []


def place_of(options: Options) -> str:
    """Where a command writes: of one that writes one file, into the folder that -o names.

    A name without an ending is that of a folder, as it is for all other commands."""
    out = str(options.out)
    if not options.command.to_file or not out:
        return out
    name = next(row.default for row in options.command.options if row.dest == "out")
    if os.path.splitext(out)[1] == os.path.splitext(name)[1]:
        return out
    of_a_folder = os.path.isdir(out) or not (os.path.splitext(out)[1] or os.path.exists(out))
    return os.path.join(out, name) if of_a_folder else out


def reads(options: Options) -> bool:
    """Whether the result of an earlier run is given."""
    saved = getattr(options, "saved", None)
    if saved is None or not options.command.or_model:
        return saved is not None
    from exposure_bias.results.storage import saved_files

    return str(saved).endswith(".nc") or bool(saved_files(saved))


def changed(options: Options, name: str) -> bool:
    """Whether an option has another value than it has by itself."""
    row = next(row for row in options.command.options if row.dest == name)
    return bool(getattr(options, name) != row.default)


def kept(options: Options) -> Path | None:
    """Where an interrupted run has kept what it goes on from; None where it has nothing."""
    command = getattr(options, "command", None)
    if command is None or not getattr(options, "out", None):
        return None
    if command.run is train:
        pairs = ((o, s) for o in options.objective for s in options.seed)
        places = [run_folder(options, *pair) / "last" for pair in pairs]
    else:
        places = [Path(options.out) if command.to_file else Path(options.out, WORK)]
    return next((p for p in reversed(places) if p.is_file() or any(p.glob("*"))), None)


def finish(options: Options, made: Sequence[Any]) -> None:
    """Remove what an interrupted run would go on from, and list what there is.

    Everything is written by then, the page too.
    """
    if not getattr(options, "out", None) or options.command.to_file:
        return
    with suppress(OSError):  # of another process, or there is none
        os.remove(Path(options.out, WORK, UNFINISHED))
    with suppress(OSError):  # something else is kept there, or there is no such folder
        os.rmdir(Path(options.out, WORK))
    if made:
        from exposure_bias.cli import output

        output.write_contents(options.out)


def report_of(options: Options, made: Sequence[Any], arguments: Sequence[str]) -> None:
    """`report.html` of what a command has just written, and of what lies beside it."""
    if not getattr(options, "out", None) or options.command.to_file or not made:
        return
    from exposure_bias.cli import output
    from exposure_bias.reporting import report_folder

    path = report_folder(options.out, [shlex.join(["eb-analyze", *arguments])], made)
    if not options.quiet:
        output.message(f"wrote {path}")


@dataclass(frozen=True)
class Command:
    """A subcommand.

    aliases: its other names. to_file: whether -o names one file, not a folder of results. network:
    whether it may run one. shared: whether several processes can share it. or_model: whether it
    takes a model in the place of an earlier result.
    """

    name: str
    run: Run
    options: arguments.Rows
    summary: str
    aliases: tuple[str, ...] = ()
    to_file: bool = False
    network: bool = True
    shared: bool = True
    or_model: bool = False


def _commands() -> Iterator[Command]:
    """Every subcommand, in the order of the help."""
    yield Command(
        "error-hist",
        chain_errors,
        arguments.ERROR_HIST,
        "distribution of chain errors e_t, with tests",
        ("chain-errors",),
    )
    yield Command(
        "spectrum",
        analysis("spectra:spectrum", "spectra"),
        arguments.SPECTRUM,
        "power spectra of the chain against the forward stream",
    )
    yield Command(
        "diagnose",
        diagnose,
        arguments.DIAGNOSE,
        "whose fault: the network's, the sampler's or the start's",
        or_model=True,
    )
    yield Command(
        "budget",
        experiment(_budget, "error_budget", "solver_curve"),
        arguments.BUDGET,
        "the error budget; of several samplers and lengths a solver curve",
        ("error-budget", "solver-curve"),
    )
    yield Command(
        "drift",
        experiment(_drift, "drift_budget", "drift", "compare_drift"),
        arguments.DRIFT,
        "drift of a model that runs on its own frames, split by what causes it",
        ("drift-budget",),
    )
    yield Command(
        "record",
        record,
        arguments.RECORD,
        "run a model on data and keep the statistics of its streams",
        to_file=True,
    )
    yield Command(
        "normality", normality, arguments.NORMALITY, "are chain errors Gaussian and white?"
    )
    yield Command(
        "state-error",
        analysis(
            "state_error:state_error", paired="the state error compares x_hat_t with its own x_t"
        ),
        arguments.ANALYSIS,
        "x_hat_t against x_t along the chain",
    )
    yield Command(
        "variance-gap",
        analysis("variance_gap:variance_gap"),
        arguments.ANALYSIS,
        "variance of the chain against the data's",
        ("gap",),
    )
    yield Command(
        "published-delta",
        analysis(
            "published_delta:published_delta", paired="delta subtracts x_0 from its own chain"
        ),
        arguments.ANALYSIS,
        "the published variance error, beside its floor",
        ("delta",),
    )
    yield Command(
        "epsilon-norm",
        analysis("epsilon_norm:epsilon_norm", "relative_to"),
        arguments.EPSILON_NORM,
        "norm of the noise prediction in both streams",
        ("norms",),
    )
    yield Command(
        "rollouts",
        experiment(_rollouts, "rollouts"),
        arguments.ROLLOUTS,
        "chains from true states: errors, spread against skill, ranks",
        ("rollout",),
    )
    yield Command(
        "telescope",
        experiment(_telescope, "telescope"),
        arguments.TELESCOPE,
        "where along the chain its gap arises, block by block",
    )
    yield Command(
        "network-error",
        experiment(_network_error, "network_error"),
        arguments.NETWORK_ERROR,
        "is the network wrong on true states, where, and at what cost",
    )
    yield Command(
        "levels",
        experiment(_levels, "optimise_levels", "level_curve"),
        arguments.LEVELS,
        "the noise levels that a chain of few calls should go through",
        ("optimise-levels", "level-curve"),
    )
    yield Command(
        "chain-length-fid",
        chain_length_fid,
        arguments.CHAIN_FID,
        "quality of samples by chain length",
        ("chain-fid",),
    )
    yield Command(
        "compare",
        experiment(_comparison, "compare"),
        arguments.COMPARE,
        "several models or remedies on the same images and noise",
    )
    yield Command(
        "report",
        report,
        arguments.REPORT,
        "recordings and results as one HTML page to look at",
        to_file=True,
        network=False,
        shared=False,
    )
    yield Command(
        "strip",
        strip,
        arguments.STRIP,
        "a few samples along the chain, as one picture",
        to_file=True,
        shared=False,
    )
    yield Command(
        "train",
        train,
        arguments.TRAIN,
        "train a DDPM, or a baseline against exposure bias, on images",
    )
    yield Command(
        "models",
        models,
        arguments.MODELS,
        "list the models that can be loaded, and how",
        network=False,
        shared=False,
    )


COMMANDS = {command.name: command for command in _commands()}
NAMES = {name: c for c in COMMANDS.values() for name in (c.name, *c.aliases)}
