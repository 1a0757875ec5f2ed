"""The subcommands: each runs one public function. Heavy imports wait until a command runs."""

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from exposure_bias.cli import arguments
from exposure_bias.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

    from exposure_bias.recording import Recording

Options = argparse.Namespace
# What `diagnose` says in words, above its tables.
SENTENCES = ("verdict", "levels", "frequencies", "refinement", "calibration", "remedy", "left_out")


def record(options: Options) -> None:
    """`eb-analyze record`."""
    from exposure_bias.cli import output
    from exposure_bias.parallel import record_shared

    options.checkpoint = options.out
    recording = record_shared(_model(options), out=options.out, **_recording_options(options))
    if recording is not None:
        output.message(f"wrote {options.out}: {recording!r}")


def spectrum(options: Options) -> None:
    """`eb-analyze spectrum`."""
    from exposure_bias.cli import output
    from exposure_bias.diagnostics.spectra import spectrum

    options.spectra = options.basis
    spectra = spectrum(_recording(options), options.basis)
    output.show(options, "spectrum", spectra, output.spectrum_tables(spectra))


def gap(options: Options) -> None:
    """`eb-analyze gap`."""
    from exposure_bias.cli import output
    from exposure_bias.diagnostics.variance_gap import variance_gap

    gaps = variance_gap(_recording(options))
    output.show(options, "gap", gaps, output.gap_tables(gaps))


def delta(options: Options) -> None:
    """`eb-analyze delta`."""
    from exposure_bias.cli import output
    from exposure_bias.diagnostics.published_delta import published_delta

    if options.start == "noise" and not options.saved:
        raise InputError(
            "delta subtracts x_0 from its own chain, but --start noise pairs nothing: use data, or rollout"
        )
    deltas = published_delta(_recording(options))
    output.show(options, "delta", deltas, output.delta_tables(deltas))


def norms(options: Options) -> None:
    """`eb-analyze norms`."""
    from exposure_bias.cli import output
    from exposure_bias.diagnostics.epsilon_norm import epsilon_norm

    norms = epsilon_norm(_recording(options), options.relative_to)
    output.show(options, "norms", norms, output.norm_tables(norms))


def error_hist(options: Options) -> None:
    """`eb-analyze error-hist`: chain errors, or with --of state the state error."""
    from exposure_bias.cli import output

    if options.of == "state":
        from exposure_bias.diagnostics.state_error import state_error

        if options.start == "noise" and not options.saved:
            raise InputError(
                "the state error compares x_hat_t with its own x_t, but --start noise pairs nothing: use data"
            )
        states = state_error(_recording(options))
        output.show(options, "state-error", states, output.state_tables(states))
        return
    from exposure_bias.diagnostics.normality import normality
    from exposure_bias.experiments.chain_errors import load_errors

    errors = load_errors(options.saved) if options.saved else _errors(options)
    tests = normality(errors, options.per_test, options.alpha)
    pixels = output.pixels(errors["error"].shape[2:], options.pixel)
    output.show(options, "errors", errors, output.error_tables(errors, tests, pixels), pixels)


def normality(options: Options) -> None:
    """`eb-analyze normality`: are chain errors Gaussian and white, and is the sampler perfect?"""
    from exposure_bias.cli import output
    from exposure_bias.diagnostics.isotropy import isotropy
    from exposure_bias.diagnostics.normality import normality, power
    from exposure_bias.experiments.chain_errors import load_errors

    errors = load_errors(options.saved) if options.saved else _errors(options)
    sizes = [n for n in options.per_test if n <= errors.sizes["sample"]] or options.per_test[:1]
    tests = [normality(errors, n, options.alpha) for n in sizes]
    shape = isotropy(errors)
    tables = output.normality_tables(shape, tests, power(sizes, options.alpha))
    output.show(options, "normality", shape, tables, errors)


def rollout(options: Options) -> None:
    """`eb-analyze rollout`."""
    from exposure_bias.cli import output

    results = _experiment(options, "rollout", replicates=options.replicates)
    output.show(options, "rollout", results, output.rollout_tables(results))


def telescope(options: Options) -> None:
    """`eb-analyze telescope`."""
    from exposure_bias.cli import output

    results = _experiment(options, "telescope", targets=options.targets)
    output.show(options, "telescope", results, output.telescope_tables(results))


def chain_fid(options: Options) -> None:
    """`eb-analyze chain-fid`."""
    from exposure_bias.cli import output
    from exposure_bias.experiments.chain_length_fid import describe, load_curve

    baseline = load_curve(options.baseline) if options.baseline else None
    curve = load_curve(options.saved) if options.saved else _curve(options)
    output.show(options, "chain-fid", curve, output.curve_tables(curve, baseline))
    for line in describe(curve):
        output.message(line)


def diagnose(options: Options) -> None:
    """`eb-analyze diagnose`: the answer in words, from a model or from one recording."""
    from exposure_bias.cli import output

    result = _diagnosis(options)
    verdict = {k: result.attrs.pop(k) for k in SENTENCES if k in result.attrs}
    if not options.json:
        print("\n".join(f"{name}: {text}" for name, text in verdict.items()), end="\n\n")
    result.attrs |= verdict if options.json or options.out else {}
    output.show(options, "diagnosis", result, output.diagnosis_tables(result))


def train(options: Options) -> None:
    """`eb-analyze train`: a run for each objective and seed."""
    from exposure_bias.adapters import load_model
    from exposure_bias.cli import output
    from exposure_bias.training.objectives import DEFAULT_STRENGTH, PERTURBED
    from exposure_bias.training.trainer import train

    runs = [(objective, seed) for objective in options.objective for seed in options.seed]
    net = load_model(options.fine_tune) if options.fine_tune else options.net
    for objective, seed in runs:
        out = output.run_folder(options, objective, seed)
        options.checkpoint = str(out / "last")
        alone = len(options.objective) == 1
        train(
            options.data, net=net, out=out, objective=objective, seed=seed,
            gamma=options.gamma if alone or objective in PERTURBED else None,
            strength=options.strength if alone or objective in DEFAULT_STRENGTH else None,
            resume=options.resume and (len(runs) == 1 or (out / "last").exists()),
            **{name: getattr(options, name) for name in arguments.TRAINING},
        )  # fmt: skip
        output.message(f"wrote {out}: give it as --model, or to compare")


def compare(options: Options) -> None:
    """`eb-analyze compare`."""
    from exposure_bias.cli import output
    from exposure_bias.experiments.compare import compare

    settings = {k: v for k, v in _recording_options(options).items() if k not in ("streams", "spectra")}
    compared = compare(options.models, lengths=options.lengths, device=options.device, **settings)
    output.show(options, "compare", compared, output.compare_tables(compared))


def models(options: Options) -> None:
    """`eb-analyze models`."""
    import json

    from exposure_bias.adapters import FAMILIES, adm, bundled_models

    if options.json:
        rows = [{"family": k, "python": v[0], "command_line": v[1]} for k, v in FAMILIES.items()]
        print(json.dumps({"bundled": bundled_models(), "presets": list(adm.PRESETS), "families": rows}))
        return
    print("bundled models:", ", ".join(bundled_models()))
    print("presets:", ", ".join(adm.PRESETS), "\n")
    for family, (python, command_line) in {"": ("in Python, eb.", "at the command line"), **FAMILIES}.items():
        print(f"{family:<30}{command_line:<30}{python}")


def _experiment(options: Options, kind: str, **extra: Any) -> "xr.Dataset":
    """The dataset that was given, or that of a new run; with -o a run that was killed goes on."""
    if options.saved:
        from exposure_bias.files import read_dataset

        return read_dataset(options.saved, kind)
    from exposure_bias.cli import output
    from exposure_bias.experiments.rollouts import rollouts
    from exposure_bias.experiments.telescope import telescope

    options.checkpoint = output.unfinished(options)
    run: Any = {"rollout": rollouts, "telescope": telescope}[kind]
    return run(
        _model(options), _images(options), starts=options.starts, steps=options.steps,
        refine=options.refine, grid=options.grid, n=options.n, sampler=options.sampler, clip=options.clip,
        seed=options.seed, batch_size=options.batch_size, checkpoint=options.checkpoint, **extra,
    )  # fmt: skip


def _errors(options: Options) -> "xr.Dataset":
    from exposure_bias.cli import output
    from exposure_bias.diagnostics.normality import check_test
    from exposure_bias.experiments.chain_errors import DEFAULT_SAMPLES, chain_errors

    model, data = _model(options), _images(options)
    # What the run itself does not need is looked at before it, too.
    output.pixels(model.shape, getattr(options, "pixel", None))
    sizes = options.per_test if isinstance(options.per_test, list) else [options.per_test]
    check_test(min(sizes), options.alpha, max(min(options.n or DEFAULT_SAMPLES, len(data)), 1))
    options.checkpoint = output.unfinished(options)
    return chain_errors(
        model, data, options.lengths, n=options.n, sampler=options.sampler,
        mode=options.mode, clip=options.clip, seed=options.seed, batch_size=options.batch_size,
        checkpoint=options.checkpoint,
    )  # fmt: skip


def _curve(options: Options) -> "xr.Dataset":
    from exposure_bias.experiments.chain_length_fid import LENGTHS, chain_length_fid, fid_by_iteration

    options.checkpoint = f"{options.out}/cells" if options.out else None
    same = (
        "features", "n", "start", "grid", "clip", "real", "reference", "weights", "seed", "batch_size", "checkpoint",
        "device",
    )  # fmt: skip
    settings: dict[str, Any] = {name: getattr(options, name) for name in same}
    settings["sampler"] = options.samplers or options.sampler
    settings["quantise"] = False if options.no_quantise else None
    data = _images(options)
    if options.checkpoints:
        return fid_by_iteration(options.checkpoints, data, options.lengths or (100,), **settings)
    model = [options.model, *options.against] if options.against else options.model
    return chain_length_fid(model, data, options.lengths or LENGTHS, **settings)


def _diagnosis(options: Options) -> "xr.Dataset":
    """Of a recording without the network, or of a model."""
    if str(options.saved or "").endswith(".nc"):
        from exposure_bias.diagnostics.diagnosis import diagnosis
        from exposure_bias.recording import load

        return diagnosis(load(options.saved))
    from exposure_bias.data import load_data
    from exposure_bias.experiments.diagnose import diagnose

    options.model = options.saved or options.model
    options.checkpoint = options.out
    images = load_data(options.images) if options.images else None
    return diagnose(
        _model(options), _images(options), sampler=options.sampler, steps=options.steps,
        n=options.n, refinements=options.refinements, starts=options.starts, images=images, start=options.start,
        grid=options.grid, clip=options.clip, seed=options.seed, batch_size=options.batch_size, folder=options.out,
    )  # fmt: skip


def _recording(options: Options) -> "Recording":
    """The recording that was given, or a new one."""
    if options.saved:
        from exposure_bias.recording import load

        return load(options.saved)
    options.checkpoint = f"{options.out}/recording.nc" if options.out else None
    return _record(options, options.checkpoint)


def _record(options: Options, checkpoint: str | None) -> "Recording":
    from exposure_bias.recorder import record

    options.checkpoint = checkpoint
    return record(_model(options), checkpoint=checkpoint, **_recording_options(options))


def _recording_options(options: Options) -> dict[str, Any]:
    start = options.start if options.start in ("data", "noise") else _number(options.start)
    return {
        "data": _images(options), "sampler": options.sampler, "steps": options.steps,
        "n": options.n, "start": start, "grid": options.grid, "clip": options.clip,
        "streams": options.streams.split(","), "seed": options.seed, "batch_size": options.batch_size,
        "spectra": options.spectra.split(",") if options.spectra else (),
    }  # fmt: skip


def _images(options: Options) -> Any:
    """The data given, or those that a bundled model was trained on."""
    from exposure_bias.data import load_data

    own = "patches" if str(getattr(options, "model", "")).startswith("patches") else "digits"
    return load_data(options.data or own, options.split)


def _model(options: Options) -> Any:
    from exposure_bias.adapters import load_model
    from exposure_bias.parallel import local

    model = load_model(options.model, options.preset)
    try:
        model.net.to(local(options.device))
    except (RuntimeError, AssertionError) as error:  # torch raises either for a device that is not there
        raise InputError(f"cannot use device {options.device!r}: {str(error).splitlines()[0]}") from error
    for remedy in options.remedy:
        from exposure_bias.remedies import remedied

        fit = remedy == "es:fit" or remedy.startswith("es:fit:")
        model = _fitted(options, model, remedy) if fit else remedied(model, remedy)
    return model


def _fitted(options: Options, model: Any, remedy: str) -> Any:
    """The model with the epsilon scaling that a recording of it suggests."""
    from exposure_bias.cli import output
    from exposure_bias.experiments.fit import fitted_scaling
    from exposure_bias.recorder import record

    if not hasattr(options, "start"):
        raise InputError("es:fit needs a chain to fit to: fit with `record` or `norms`, and give its es:SCALE here")
    chain = _recording_options(options) | {"streams": ("forward", "chain"), "spectra": ()}
    kind = remedy.removeprefix("es:fit").lstrip(":") or "uniform"
    scaled, words = fitted_scaling(model, record(model, **chain), kind)
    output.message(words)
    return scaled


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"unknown start {text!r}: allowed are data, noise, or a timestep of the grid") from None


COMMANDS: dict[str, tuple[Callable[[Options], None], Callable[[argparse.ArgumentParser], None], str]] = {
    "diagnose": (diagnose, arguments.diagnose, "is there exposure bias: where, how much, and what would fix it"),
    "record": (record, arguments.record, "run a model on data and keep the statistics of its streams"),
    "error-hist": (error_hist, arguments.error_hist, "distribution of chain errors e_t, with normality tests"),
    "normality": (normality, arguments.normality, "are chain errors Gaussian and white, and is the sampler perfect?"),
    "spectrum": (spectrum, arguments.spectrum, "power spectra of the chain against the forward stream"),
    "gap": (gap, arguments.reading, "variance of the chain against the data's: gap, mean shift, eigen-directions"),
    "delta": (delta, arguments.reading, "the published variance error, beside what it is without a model error"),
    "norms": (norms, arguments.norms, "norm of the noise prediction in both streams, and the scaling it suggests"),
    "rollout": (rollout, arguments.rollout, "chains from true states: errors, spread against skill, ranks"),
    "telescope": (telescope, arguments.telescope, "where along the chain its gap arises, block by block"),
    "chain-fid": (chain_fid, arguments.chain_fid, "quality of samples (FID and others) against chain length"),
    "compare": (compare, arguments.compare, "several models or remedies on the same images, noise and levels"),
    "train": (train, arguments.train, "train a DDPM, or a baseline against exposure bias, on images"),
    "models": (models, arguments.models, "list the models that can be loaded, and how"),
}
