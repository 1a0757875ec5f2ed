"""The subcommands: each runs one public function. Heavy imports wait until a command runs."""

import argparse
import os
import shlex
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from exposure_bias.cli import arguments, threads
from exposure_bias.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    import xarray as xr

    from exposure_bias.recording import Recording

Options = argparse.Namespace


def record(options: Options) -> None:
    """`eb-analyze record`."""
    from exposure_bias.cli import output
    from exposure_bias.running.recorder import record

    options.checkpoint = options.out
    recording = record(_model(options), checkpoint=options.out, **_recording_options(options))
    if not options.quiet:
        output.message(f"wrote {options.out}: {recording!r}")
    output.say_recorded(options, recording)


def spectrum(options: Options) -> None:
    """`eb-analyze spectrum`."""
    from exposure_bias.cli import output
    from exposure_bias.diagnostics.spectra import spectrum

    options.spectra = options.basis
    spectra = spectrum(_recording(options), options.basis)
    output.show(options, spectra)


def variance_gap(options: Options) -> None:
    """`eb-analyze variance-gap`."""
    from exposure_bias.cli import output
    from exposure_bias.diagnostics import variance_gap

    gaps = variance_gap.variance_gap(_recording(options))
    output.show(options, gaps)


def published_delta(options: Options) -> None:
    """`eb-analyze published-delta`."""
    from exposure_bias.cli import output
    from exposure_bias.diagnostics import published_delta

    recording = _paired(options, "delta subtracts x_0 from its own chain", "use data, or rollouts")
    deltas = published_delta.published_delta(recording)
    output.show(options, deltas)


def epsilon_norm(options: Options) -> None:
    """`eb-analyze epsilon-norm`."""
    from exposure_bias.cli import output
    from exposure_bias.diagnostics import epsilon_norm

    norms = epsilon_norm.epsilon_norm(_recording(options), options.relative_to)
    output.show(options, norms)


def state_error(options: Options) -> None:
    """`eb-analyze state-error`."""
    from exposure_bias.cli import output
    from exposure_bias.diagnostics import state_error

    recording = _paired(options, "the state error compares x_hat_t with its own x_t", "use data")
    states = state_error.state_error(recording)
    output.show(options, states)


def chain_errors(options: Options) -> None:
    """`eb-analyze chain-errors`."""
    from exposure_bias.cli import output
    from exposure_bias.diagnostics.normality import normality
    from exposure_bias.experiments.chain_errors import load_errors
    from exposure_bias.experiments.kinds.chain_errors import pixel_table
    from exposure_bias.results import tables

    errors = load_errors(options.saved) if options.saved else _errors(options)
    tests = normality(errors, options.per_test, options.alpha)
    pixels = output.pixels(errors["error"].shape[2:], options.pixel)
    beside = [*tables(tests), pixel_table(errors, tests, pixels)]
    output.show(options, errors, beside=[replace(t, main=False) for t in beside], pixels=pixels)


def normality(options: Options) -> None:
    """`eb-analyze normality`: are chain errors Gaussian and white, and is the sampler perfect?"""
    from exposure_bias.cli import output
    from exposure_bias.diagnostics.isotropy import isotropy
    from exposure_bias.diagnostics.normality import normality, power, rejection_table
    from exposure_bias.experiments.chain_errors import load_errors
    from exposure_bias.results import tables

    errors = load_errors(options.saved) if options.saved else _errors(options)
    sizes = [n for n in options.per_test if n <= errors.sizes["sample"]] or options.per_test[:1]
    tests = [normality(errors, n, options.alpha) for n in sizes]
    shape = isotropy(errors)
    title = "assumption of input perturbation, Gaussian (Shapiro-Wilk rejection rates)"
    output.show(
        options,
        shape,
        before=[rejection_table(tests, "gaussian", title), *tables(power(sizes, options.alpha))],
        sentence=tests[0].attrs["answer"],
        errors=errors,
    )


def rollouts(options: Options) -> None:
    """`eb-analyze rollouts`."""
    from exposure_bias.cli import output

    results = _experiment(options, "rollouts", replicates=options.replicates)
    output.show(options, results)


def telescope(options: Options) -> None:
    """`eb-analyze telescope`."""
    from exposure_bias.cli import output

    results = _experiment(options, "telescope", targets=options.targets)
    output.show(options, results)


def network_error(options: Options) -> None:
    """`eb-analyze network-error`."""
    from exposure_bias.cli import output
    from exposure_bias.results import load_result

    saved = options.saved
    result = load_result(saved, "network_error") if saved else _network_error(options)
    output.show(options, result)


def levels(options: Options) -> None:
    """`eb-analyze levels`: of one number of calls, or of several beside fixed rules."""
    from exposure_bias.cli import output
    from exposure_bias.results import load_result

    saved, kinds = options.saved, ("optimise_levels", "level_curve")
    output.show(options, load_result(saved, *kinds) if saved else _levels(options))


def chain_length_fid(options: Options) -> None:
    """`eb-analyze chain-length-fid`."""
    from exposure_bias.cli import output
    from exposure_bias.experiments.chain_length_fid import load_curve, speed_up
    from exposure_bias.results import tables

    baseline = load_curve(options.baseline) if options.baseline else None
    curve = load_curve(options.saved) if options.saved else _curve(options)
    along = "iteration" if "iteration" in curve.dims else "length"
    reached = None if baseline is None else speed_up(curve, baseline, along)
    output.show(options, curve, beside=[] if reached is None else tables(reached))


def budget(options: Options) -> None:
    """`eb-analyze budget`: of one chain, or of several samplers and chain lengths side by side."""
    from exposure_bias.cli import output
    from exposure_bias.results import load_result

    kinds = ("error_budget", "solver_curve")
    output.show(options, load_result(options.saved, *kinds) if options.saved else _budget(options))


DRIFTS = ("drift_budget", "drift", "compare_drift")


def drift(options: Options) -> None:
    """`eb-analyze drift`: of a model that draws frames from the frames before."""
    from exposure_bias.cli import output
    from exposure_bias.results import load_result

    saved = options.saved
    result = load_result(saved, *DRIFTS) if saved else _drift(options)
    output.show(options, result)


def diagnose(options: Options) -> None:
    """`eb-analyze diagnose`: the answer in words, from a model or from one recording."""
    from exposure_bias.cli import output

    result = _diagnosis(options)
    output.show(options, result)


def train(options: Options) -> None:
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
        out = output.run_folder(options, objective, seed)
        options.checkpoint = str(out / "last")
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


def compare(options: Options) -> None:
    """`eb-analyze compare`."""
    from exposure_bias.cli import output
    from exposure_bias.experiments.compare import compare
    from exposure_bias.running.parallel import local

    compared = compare(
        options.models,
        _images(options),
        start=_start(options.start),
        lengths=options.lengths,
        device=local(options.device),
        speed=_speed(options),
        folder=options.out and f"{options.out}/runs",
        **_chain(options),
    )
    output.show(options, compared)


def models(options: Options) -> None:
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


# What is asked of data of one's own: bundled data have a split, a range and a size.
OWN_DATA = ("held_out", "any_range", "limit_data")
# What a network brings along when it is fine-tuned.
NEW_NETWORK = ("net", "schedule", "prediction_type", "learned_variance")


def _refuse_beside(options: Options, given: str, *names: str) -> None:
    """Raise InputError where options were given that another one decides."""
    beside = [
        f"--{name.replace('_', '-')}"
        for name in names
        if getattr(options, name) != options.defaults[name]
    ]
    if beside:
        raise InputError(f"{given} decides that already: leave out {', '.join(beside)}, or {given}")


def _experiment(options: Options, kind: str, **extra: Any) -> "xr.Dataset":
    """The dataset that was given, or that of a new run; with -o a run that was killed goes on."""
    if options.saved:
        from exposure_bias.results import load_result

        return load_result(options.saved, kind)
    from exposure_bias.cli import output
    from exposure_bias.experiments.rollouts import rollouts
    from exposure_bias.experiments.telescope import telescope

    options.checkpoint = options.unfinished = output.unfinished(options)
    run: Any = {"rollouts": rollouts, "telescope": telescope}[kind]
    return run(
        _model(options),
        _images(options),
        starts=options.starts,
        refine=options.refine,
        checkpoint=options.checkpoint,
        **_chain(options),
        **extra,
    )


def _errors(options: Options) -> "xr.Dataset":
    from exposure_bias.cli import output
    from exposure_bias.diagnostics.normality import check_test
    from exposure_bias.experiments.chain_errors import DEFAULT_SAMPLES, chain_errors

    model, data = _model(options), _images(options)
    # What the run itself does not need is looked at before it, too.
    output.pixels(model.shape, getattr(options, "pixel", None))
    sizes = options.per_test if isinstance(options.per_test, list) else [options.per_test]
    check_test(min(sizes), options.alpha, max(min(options.n or DEFAULT_SAMPLES, len(data)), 1))
    options.checkpoint = options.unfinished = output.unfinished(options)
    return chain_errors(
        model,
        data,
        options.lengths,
        n=options.n,
        sampler=options.sampler,
        mode=options.mode,
        clip=options.clip,
        seed=options.seed,
        batch_size=options.batch_size,
        checkpoint=options.checkpoint,
    )


def _curve(options: Options) -> "xr.Dataset":
    from exposure_bias.experiments.chain_length_fid import LENGTHS, by_iteration, checkpoints
    from exposure_bias.experiments.chain_length_fid import chain_length_fid as curve

    options.checkpoint = f"{options.out}/cells" if options.out else None
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
        "checkpoint",
        "limit",
    )
    settings: dict[str, Any] = {name: getattr(options, name) for name in same}
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
        several = curve(models, _images(options), lengths, **settings)
        return by_iteration(several, list(found))
    model = _model(options)
    models = [model, *(_remedied(options, _loaded(options, name)) for name in options.against)]
    return curve(models if options.against else model, _images(options), lengths, **settings)


def _network_error(options: Options) -> "xr.Dataset":
    from exposure_bias.experiments.network_error import network_error

    if options.sampler != options.defaults["sampler"]:
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
        folder=options.out,
        **{name: getattr(options, name) for name in names},
    )


def _levels(options: Options) -> "xr.Dataset":
    from exposure_bias.experiments.levels import level_curve, optimise_levels
    from exposure_bias.strangers import imported, is_name

    named = is_name(options.objective)
    objective = imported(options.objective, "objective") if named else options.objective
    options.checkpoint = options.out
    names = ("sampler", "clip", "seed", "batch_size")
    settings: dict[str, Any] = {name: getattr(options, name) for name in names}
    settings |= {"objective": objective, "folder": options.out}
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

    options.checkpoint = options.out
    settings: dict[str, Any] = _chain(options)
    settings |= {"margin": options.margin, "start": options.start, "folder": options.out}
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
    from exposure_bias.cli import output
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
        options.checkpoint = options.out and f"{options.out}/runs"
        return compare_drift(entries, sequences, folder=options.checkpoint, **settings)
    options.checkpoint = options.unfinished = output.unfinished(options)
    return drift_budget(model, sequences, checkpoint=options.checkpoint, **settings)


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


def _diagnosis(options: Options) -> "xr.Dataset":
    """Of a recording without the network, or of a model."""
    from exposure_bias.experiments.diagnose import diagnose

    if str(options.saved or "").endswith(".nc"):
        from exposure_bias.recording import load

        return diagnose(load(options.saved))
    options.model = options.saved or options.model
    options.checkpoint = options.out
    images = _read(options, options.images) if options.images is not None else None
    return diagnose(
        _model(options),
        _images(options),
        margin=options.margin,
        restarts=options.restarts,
        starts=options.starts,
        images=images,
        start=options.start,
        quick=options.quick,
        folder=options.out,
        **_chain(options),
    )


def _recording(options: Options) -> "Recording":
    """The recording that was given, or a new one."""
    if options.saved:
        from exposure_bias.recording import load

        return load(options.saved)
    from exposure_bias.running.recorder import record

    options.checkpoint = f"{options.out}/recording.nc" if options.out else None
    return record(_model(options), checkpoint=options.checkpoint, **_recording_options(options))


def _paired(options: Options, why: str, cure: str) -> "Recording":
    """The recording; raises InputError where a new one's chains would begin on noise."""
    if options.start == "noise" and not options.saved:
        raise InputError(f"{why}, but --start noise pairs nothing: {cure}")
    return _recording(options)


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


def _images(options: Options) -> Any:
    """The data given, or those that a bundled model was trained on."""
    from exposure_bias.data import bundled

    if options.data is not None:
        return _read(options, options.data, options.split)
    return _read(options, bundled.data_of(getattr(options, "model", "")), options.split)


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

    preset = getattr(options, "preset", None)
    model = placed(load_model(name, preset), local(options.device), _speed(options))
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


def report(options: Options) -> None:
    """`eb-analyze report`: one HTML page of recordings and results."""
    import os

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


def strip(options: Options) -> None:
    """`eb-analyze strip`: x_t, x̂_t and x̂_0 of a few samples in one grid."""
    import io

    from exposure_bias import files, plots
    from exposure_bias.cli import output

    kind = options.out.rpartition(".")[2].lower()
    if kind not in ("png", "pdf", "svg"):
        raise InputError(f"a strip is a picture: -o NAME.png, .pdf or .svg, got {options.out}")
    # A recording beside a picture would be a surprise.
    out, options.out = options.out, None
    recording = _recording(options)
    options.out = out
    figure = plots.strip(recording, samples=options.samples, levels=options.levels)
    buffer = io.BytesIO()
    plots.save(figure, buffer, format=kind)
    files.write_bytes(out, buffer.getvalue())
    if not options.quiet:
        output.message(f"wrote {out}: {options.samples} of {recording.n} samples")
    output.say(options, output.recorded(recording))


# Commands whose -o is one file, not a folder of results.
TO_ONE_FILE = (record, report, strip)


def finish(options: Options) -> None:
    """Remove what an interrupted run would go on from: everything is written, the page too."""
    if checkpoint := getattr(options, "unfinished", None):
        with suppress(FileNotFoundError):  # of another process
            os.remove(checkpoint)


def report_of(options: Options, arguments: Sequence[str]) -> None:
    """`report.html` beside what a command has just written."""
    folder = getattr(options, "out", None)
    if not folder or options.run in (*TO_ONE_FILE, train):
        return
    from exposure_bias.cli import output
    from exposure_bias.reporting import report_folder

    path = report_folder(folder, [shlex.join(["eb-analyze", *arguments])])
    if path is not None and not options.quiet:
        output.message(f"wrote {path}")


class Command(NamedTuple):
    """A subcommand: what runs it, what adds its options, and what it is for."""

    run: Callable[[Options], None]
    add_options: Callable[[argparse.ArgumentParser], None]
    summary: str


COMMANDS = {
    "diagnose": Command(
        diagnose, arguments.diagnose, "whose fault: the network's, the sampler's or the start's"
    ),
    "budget": Command(
        budget, arguments.budget, "the error budget; of several samplers and lengths a solver curve"
    ),
    "drift": Command(
        drift,
        arguments.drift,
        "drift of a model that runs on its own frames, split by what causes it",
    ),
    "record": Command(
        record, arguments.record, "run a model on data and keep the statistics of its streams"
    ),
    "chain-errors": Command(
        chain_errors, arguments.chain_errors, "distribution of chain errors e_t, with tests"
    ),
    "normality": Command(normality, arguments.normality, "are chain errors Gaussian and white?"),
    "state-error": Command(state_error, arguments.reading, "x_hat_t against x_t along the chain"),
    "spectrum": Command(
        spectrum, arguments.spectrum, "power spectra of the chain against the forward stream"
    ),
    "variance-gap": Command(
        variance_gap, arguments.reading, "variance of the chain against the data's"
    ),
    "published-delta": Command(
        published_delta, arguments.reading, "the published variance error, beside its floor"
    ),
    "epsilon-norm": Command(
        epsilon_norm, arguments.epsilon_norm, "norm of the noise prediction in both streams"
    ),
    "rollouts": Command(
        rollouts, arguments.rollouts, "chains from true states: errors, spread against skill, ranks"
    ),
    "telescope": Command(
        telescope, arguments.telescope, "where along the chain its gap arises, block by block"
    ),
    "network-error": Command(
        network_error,
        arguments.network_error,
        "is the network wrong on true states, where, and at what cost",
    ),
    "levels": Command(
        levels, arguments.levels, "the noise levels that a chain of few calls should go through"
    ),
    "chain-length-fid": Command(
        chain_length_fid, arguments.chain_length_fid, "quality of samples by chain length"
    ),
    "compare": Command(
        compare, arguments.compare, "several models or remedies on the same images and noise"
    ),
    "report": Command(
        report, arguments.report, "recordings and results as one HTML page to look at"
    ),
    "strip": Command(strip, arguments.strip, "a few samples along the chain, as one picture"),
    "train": Command(
        train, arguments.train, "train a DDPM, or a baseline against exposure bias, on images"
    ),
    "models": Command(models, arguments.models, "list the models that can be loaded, and how"),
}
# The names that commands had before they got those of their functions.
ALIASES = {
    "gap": "variance-gap",
    "delta": "published-delta",
    "norms": "epsilon-norm",
    "error-hist": "chain-errors",
    "rollout": "rollouts",
    "chain-fid": "chain-length-fid",
}
