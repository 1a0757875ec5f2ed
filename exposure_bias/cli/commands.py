"""The subcommands: each adds its options and runs one public function. Heavy imports wait until a command runs."""

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from exposure_bias.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

    from exposure_bias.recording import Recording

Options = argparse.Namespace
Parser = argparse.ArgumentParser


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
    pixels = output.pixels(errors, options.pixel)
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

    curve = load_curve(options.saved) if options.saved else _curve(options)
    baseline = load_curve(options.baseline) if options.baseline else None
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
        alone = len(options.objective) == 1
        train(
            options.data, net=net, out=out, objective=objective, seed=seed,
            gamma=options.gamma if alone or objective in PERTURBED else None,
            strength=options.strength if alone or objective in DEFAULT_STRENGTH else None,
            resume=options.resume and (len(runs) == 1 or (out / "last").exists()),
            **{name: getattr(options, name) for name in TRAINING},
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
    from exposure_bias.data import load_data
    from exposure_bias.experiments.rollouts import rollouts
    from exposure_bias.experiments.telescope import telescope

    options.checkpoint = f"{options.out}/{kind}-checkpoint.nc" if options.out else None
    run: Any = {"rollout": rollouts, "telescope": telescope}[kind]
    return run(
        _model(options), load_data(options.data, options.split), starts=options.starts, steps=options.steps,
        refine=options.refine, grid=options.grid, n=options.n, sampler=options.sampler, clip=options.clip,
        seed=options.seed, batch_size=options.batch_size, checkpoint=options.checkpoint, **extra,
    )  # fmt: skip


def _errors(options: Options) -> "xr.Dataset":
    from exposure_bias.data import load_data
    from exposure_bias.experiments.chain_errors import chain_errors

    return chain_errors(
        _model(options), load_data(options.data, options.split), options.lengths, n=options.n, sampler=options.sampler,
        mode=options.mode, clip=options.clip, seed=options.seed, batch_size=options.batch_size,
    )  # fmt: skip


def _curve(options: Options) -> "xr.Dataset":
    from exposure_bias.data import load_data
    from exposure_bias.experiments.chain_length_fid import LENGTHS, chain_length_fid, fid_by_iteration

    options.checkpoint = f"{options.out}/cells" if options.out else None
    same = (
        "features",
        "n",
        "start",
        "grid",
        "clip",
        "real",
        "reference",
        "weights",
        "seed",
        "batch_size",
        "checkpoint",
    )
    settings: dict[str, Any] = {name: getattr(options, name) for name in (*same, "device")}
    settings["sampler"] = options.samplers or options.sampler
    settings["quantise"] = False if options.no_quantise else None
    data = load_data(options.data, options.split)
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
        _model(options), load_data(options.data, options.split), sampler=options.sampler, steps=options.steps,
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
    from exposure_bias.data import load_data

    start = options.start if options.start in ("data", "noise") else _number(options.start)
    return {
        "data": load_data(options.data, options.split), "sampler": options.sampler, "steps": options.steps,
        "n": options.n, "start": start, "grid": options.grid, "clip": options.clip,
        "streams": options.streams.split(","), "seed": options.seed, "batch_size": options.batch_size,
        "spectra": options.spectra.split(",") if options.spectra else (),
    }  # fmt: skip


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


def _running(parser: Parser) -> None:
    parser.add_argument(
        "--model", default="digits", help="bundled name, diffusers folder or ADM checkpoint (default: digits)"
    )
    parser.add_argument("--preset", help="what an ADM checkpoint is, for example adm-cifar10; `models` lists them")
    parser.add_argument(
        "--remedy", action="append", default=[], metavar="R",
        help="es:SCALE, es:linear:K,B[,STEPS], es:fit[:KIND], ip:GAMMA or ts:WINDOW,CUTOFF; may be repeated",
    )  # fmt: skip
    _data(parser)


def _data(parser: Parser) -> None:
    parser.add_argument("--data", default="digits", help="bundled name, folder, .npz or .zip (default: digits)")
    parser.add_argument("--split", choices=("train", "test"), help="of bundled data (default: test)")
    parser.add_argument("-n", type=int, help="number of samples")
    parser.add_argument(
        "--sampler", default="ddpm", help="ddpm[:VARIANCE], ddim[:ETA], euler, heun, or a diffusers scheduler's class "
        "name[:OPTION=VALUE,...] (default: ddpm)",
    )  # fmt: skip
    parser.add_argument("--clip", action="store_true", help="clip x0 predictions to [-1, 1]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--device", default="cpu", help="torch device (default: cpu)")


def _chain(parser: Parser) -> None:
    parser.add_argument("--steps", type=int, default=100, help="chain length (default: 100)")
    parser.add_argument("--grid", default="linspace", help="linspace, leading, trailing or karras")
    parser.add_argument("--start", default="data", help="data, noise, or a timestep of the grid (default: data)")
    parser.add_argument("--streams", default="forward,chain", help="of forward, chain, teacher")
    parser.set_defaults(spectra="")


def _printing(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="print the tables as JSON")
    parser.add_argument("-o", "--out", metavar="DIR", help="write CSV, PNG, PDF and the dataset here")


def _record_options(parser: Parser) -> None:
    _running(parser)
    _chain(parser)
    parser.add_argument("--spectra", help="kept beside the DCT spectra: of hann, fft, luma (default: none)")
    parser.add_argument("-o", "--out", default="recording.nc", metavar="FILE", help="default: recording.nc")


# Options that `train` takes under the same name.
TRAINING = (
    "schedule", "prediction_type", "device", "compile", "checkpoint_every", "sample_every", "on_write_error",
    "iterations", "batch_size", "learning_rate", "warmup", "weight_decay", "max_gradient_norm", "ema", "flips",
    "held_out", "precision", "channels_last", "log_every", "evaluate_every",
)  # fmt: skip


def _gamma(text: str) -> float | tuple[float, ...]:
    numbers = tuple(float(part) for part in text.split(","))
    return numbers[0] if len(numbers) == 1 else numbers


def _train_options(parser: Parser) -> None:
    add = parser.add_argument
    add("-o", "--out", required=True, metavar="DIR", help="checkpoints, log and samples go here")
    add("--data", default="digits", help="bundled name, folder, .npz or .zip (default: digits)")
    add("--objective", nargs="+", default=["ddpm"], help="of ddpm, ip, ddpm-y, gp, wd, hybrid; several: a run for each")
    add("--gamma", type=_gamma, help="of ip and ddpm-y: a number, or LOW,HIGH by level (default: 0.1)")
    add("--lambda", dest="strength", type=float, help="of gp (default: 1e-5) and wd (default: 1e-6)")
    add("--net", default="unet-small", help="unet-tiny, unet-small, unet-ddpm or a JSON file of UNet2DModel options")
    add("--fine-tune", metavar="MODEL", help="start from this model instead of --net")
    add("--schedule", default="linear", help="linear or cosine (default: linear)")
    add("--prediction-type", default="epsilon", help="epsilon, sample or v_prediction (default: epsilon)")
    add("--seed", type=int, nargs="+", default=[0], help="several: a run for each")
    add("--iterations", type=int, default=10_000)
    add("--batch-size", type=int, default=128, help="of all processes together (default: 128)")
    add("--learning-rate", type=float, default=1e-3)
    add("--warmup", type=int, default=500)
    add("--weight-decay", type=float, default=0.0, help="AdamW's own, decoupled (default: 0)")
    add("--max-gradient-norm", type=float, default=1.0)
    add("--ema", type=float, default=0.999, help="decay of the averaged weights (default: 0.999)")
    add("--flips", action="store_true", help="mirror half of the images")
    add(
        "--held-out", type=float, default=0.1, help="share kept from training (default: 0.1; bundled data have a split)"
    )
    add("--precision", default="auto", help="auto, fp32 or bf16 (default: auto, bf16 where a GPU has it)")
    add("--channels-last", action="store_true")
    add("--compile", action="store_true", help="use torch.compile")
    add("--device", default="cpu", help="torch device (default: cpu)")
    add("--log-every", type=int, default=100, metavar="K")
    add("--evaluate-every", type=int, default=500, metavar="K")
    add("--checkpoint-every", type=int, default=1000, metavar="K")
    add("--sample-every", type=int, metavar="K", help="sample grids (default: with checkpoints; 0: none)")
    add("--on-write-error", default="stop", help="stop or go-on when a checkpoint cannot be written (default: stop)")
    add("--resume", action="store_true", help="go on from the last checkpoint in DIR")


def _spectrum_options(parser: Parser) -> None:
    _reading_options(parser)
    parser.add_argument(
        "--basis", default="dct",
        help="dct, hann (windowed FFT), fft (raw), or luma (luminance and chroma; default: dct)",
    )  # fmt: skip


def _reading_options(parser: Parser) -> None:
    parser.add_argument("saved", nargs="?", metavar="RECORDING", help="what `record` wrote; without it, record first")
    _running(parser)
    _chain(parser)
    _printing(parser)


def _norm_options(parser: Parser) -> None:
    _reading_options(parser)
    parser.add_argument(
        "--relative-to", choices=("gaussian", "none"), default="gaussian",
        help="what the scaling schedules are fitted to: ratio / Gaussian reference, or the raw ratio",
    )  # fmt: skip


def _error_options(parser: Parser) -> None:
    parser.add_argument(
        "saved", nargs="?", metavar="FILE", help="errors.nc of an earlier -o; with --of state a recording"
    )
    _running(parser)
    _chain(parser)
    parser.add_argument("--of", choices=("chain", "state"), default="chain", help="x0 - x0_hat, or x_hat_t - x_t")
    parser.add_argument("--lengths", type=int, nargs="+", default=[100, 300, 600, 900], help="chain lengths")
    parser.add_argument("--mode", default="chain", help="chain, or single: x0 predicted at once")
    parser.add_argument("--pixel", action="append", metavar="P", help="flat index or c,y,x; may be repeated")
    parser.add_argument("--per-test", type=int, default=50, help="values in a normality test (default: 50)")
    parser.add_argument("--alpha", type=float, default=0.05, help="level of a normality test (default: 0.05)")
    _printing(parser)


def _compare_options(parser: Parser) -> None:
    parser.add_argument(
        "models", nargs="+", metavar="MODEL", help='as --model elsewhere, or with remedies: "digits + es:1.005"'
    )
    _data(parser)
    _chain(parser)
    parser.add_argument("--lengths", type=int, nargs="*", default=[100, 300], help="of chain errors (default: 100 300)")
    _printing(parser)


def _models_options(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="print the list as JSON")


def _normality_options(parser: Parser) -> None:
    parser.add_argument("saved", nargs="?", metavar="FILE", help="errors.nc of an earlier `error-hist -o`")
    _running(parser)
    parser.add_argument("--lengths", type=int, nargs="+", default=[100, 300, 600, 900], help="chain lengths")
    parser.add_argument("--mode", default="chain", help="chain, or single: x0 predicted at once")
    parser.add_argument(
        "--per-test", type=int, nargs="+", default=[50, 100, 500], help="values in a test (default: 50 100 500)"
    )
    parser.add_argument("--alpha", type=float, default=0.05, help="level of a test (default: 0.05)")
    _printing(parser)


def _experiment_options(parser: Parser, kind: str) -> None:
    parser.add_argument("saved", nargs="?", metavar="FILE", help=f"{kind}.nc of an earlier -o; without it, run")
    _running(parser)
    parser.add_argument("--steps", type=int, default=100, help="chain length (default: 100)")
    parser.add_argument("--refine", type=int, default=1, metavar="K", help="K steps in place of each (default: 1)")
    parser.add_argument("--grid", default="linspace", help="linspace, leading, trailing or karras")
    parser.add_argument("--starts", type=float, nargs="+", help="timesteps (default: five along the chain)")
    _printing(parser)


def _rollout_options(parser: Parser) -> None:
    _experiment_options(parser, "rollout")
    parser.add_argument("--replicates", type=int, default=2, help="chains from each start (default: 2)")


def _telescope_options(parser: Parser) -> None:
    _experiment_options(parser, "telescope")
    parser.add_argument("--targets", type=float, nargs="+", help="timesteps (default: the starts, and the clean end)")


def _curve_options(parser: Parser) -> None:
    parser.add_argument("saved", nargs="?", metavar="FILE", help="chain-fid.nc of an earlier -o: read, not run")
    _running(parser)
    parser.add_argument("--against", nargs="+", default=[], metavar="MODEL", help="more models, on the same noise")
    parser.add_argument("--samplers", nargs="+", metavar="SAMPLER", help="several samplers in place of --sampler")
    parser.add_argument("--lengths", type=int, nargs="+", help="chain lengths, up to T (default: 10 20 50 100 300)")
    parser.add_argument(
        "--features", default="classifier",
        help="inception (FID), classifier (digits; default), random-conv, pixel, or module:function",
    )  # fmt: skip
    parser.add_argument("--weights", metavar="FILE", help="Inception's pt_inception-2015-12-05-6726825d.pth")
    parser.add_argument("--reference", metavar="NPZ", help="statistics mu and sigma, as guided-diffusion writes them")
    parser.add_argument("--real", help="other real images for the noise floor (default: the other split, or halves)")
    parser.add_argument("--start", default="noise", help="noise, or data for the reconstruction curve (default: noise)")
    parser.add_argument("--grid", default="linspace", help="linspace, leading, trailing or karras")
    parser.add_argument("--no-quantise", action="store_true", help="do not cut images to 8 bits before features")
    parser.add_argument("--checkpoints", metavar="DIR", help="a folder of checkpoints instead of --model")
    parser.add_argument("--baseline", metavar="FILE", help="chain-fid.nc whose best value is to be reached")
    _printing(parser)


def _diagnose_options(parser: Parser) -> None:
    parser.add_argument(
        "saved", nargs="?", metavar="RECORDING|MODEL", help="a recording (.nc), read without the network, or a model"
    )
    _running(parser)
    parser.add_argument("--steps", type=int, default=50, help="chain length (default: 50)")
    parser.add_argument("--refinements", type=int, nargs="*", default=[2, 4], help="cut steps by these (default: 2 4)")
    parser.add_argument("--starts", type=float, nargs="+", help="rollouts' timesteps (default: five along the chain)")
    parser.add_argument("--images", help="what the exact denoiser knows (default: bundled data's train split)")
    parser.add_argument("--start", choices=("data", "noise"), default="data", help="of the chains (default: data)")
    parser.add_argument("--grid", default="linspace", help="linspace, leading, trailing or karras")
    _printing(parser)


SENTENCES = ("verdict", "levels", "frequencies", "refinement", "calibration", "remedy")
COMMANDS: dict[str, tuple[Callable[[Options], None], Callable[[Parser], None], str]] = {
    "diagnose": (diagnose, _diagnose_options, "is there exposure bias: where, how much, and what would fix it"),
    "record": (record, _record_options, "run a model on data and keep the statistics of its streams"),
    "error-hist": (error_hist, _error_options, "distribution of chain errors e_t, with normality tests"),
    "spectrum": (spectrum, _spectrum_options, "power spectra of the chain against the forward stream"),
    "gap": (gap, _reading_options, "variance of the chain against the data's: gap, mean shift, eigen-directions"),
    "delta": (delta, _reading_options, "the published variance error, beside what it is without a model error"),
    "norms": (
        norms,
        _norm_options,
        "norm of the noise prediction in both streams, and the epsilon scaling it suggests",
    ),
    "normality": (normality, _normality_options, "are chain errors Gaussian and white, and is the sampler perfect?"),
    "chain-fid": (chain_fid, _curve_options, "quality of samples (FID and others) against chain length"),
    "models": (models, _models_options, "list the models that can be loaded, and how"),
    "rollout": (rollout, _rollout_options, "chains from true states: errors, spread against skill, ranks"),
    "telescope": (telescope, _telescope_options, "where along the chain its gap arises, block by block"),
    "compare": (compare, _compare_options, "several models or remedies on the same images, noise and levels"),
    "train": (train, _train_options, "train a DDPM, or a baseline against exposure bias, on images"),
}
