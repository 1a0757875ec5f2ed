"""The options of each subcommand, by its name, and those that several of them share."""

import argparse

Parser = argparse.ArgumentParser


def _saved(parser: Parser, words: str, metavar: str = "FILE") -> None:
    """What an earlier run wrote, to be read in place of a new run."""
    parser.add_argument("saved", nargs="?", metavar=metavar, help=words)


def _running(parser: Parser) -> None:
    parser.add_argument(
        "--model",
        default="digits",
        help=(
            "bundled name, diffusers folder, org/name[@revision] of the hub, or ADM checkpoint"
            " (default: digits)"
        ),
    )
    parser.add_argument(
        "--preset", help="what an ADM checkpoint is, for example adm-cifar10; `models` lists them"
    )
    parser.add_argument(
        "--remedy",
        action="append",
        default=[],
        metavar="R",
        help=(
            "es:SCALE, es:linear:K,B[,STEPS], es:fit[:KIND], ip:GAMMA, ts:WINDOW,CUTOFF, tsr:K,S"
            " or cn:TAU; may be repeated"
        ),
    )
    _data(parser)


def _reading(parser: Parser) -> None:
    """How data are read."""
    parser.add_argument(
        "--any-range",
        action="store_true",
        help="accept float data beyond [-1, 1]: latents, vectors, synthetic data",
    )
    parser.add_argument(
        "--limit-data",
        metavar="SIZE",
        help="what a file of data may take once decoded, as 8GB (default: 1 GiB)",
    )


def _data(parser: Parser) -> None:
    parser.add_argument(
        "--data",
        help=(
            "bundled name, folder, .npy, .npz or .zip (default: digits, or the bundled model's own)"
        ),
    )
    _reading(parser)
    parser.add_argument(
        "--split", choices=("train", "test"), help="of bundled data (default: test)"
    )
    _chains(parser)


def _chains(parser: Parser) -> None:
    """How chains are drawn, and by how much of the machine."""
    parser.add_argument("-n", type=int, help="number of samples")
    parser.add_argument(
        "--sampler",
        default="ddpm",
        help=(
            "ddpm[:VARIANCE], ddim[:ETA], euler, heun, or a diffusers scheduler's class "
            "name[:OPTION=VALUE,...], or module:Class of yours (default: ddpm)"
        ),
    )
    parser.add_argument("--clip", action="store_true", help="clip x0 predictions to [-1, 1]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--batch-size",
        type=_batch_size,
        default=256,
        help="a number, or auto: 256 on a CPU, 1024 elsewhere (default: 256)",
    )
    parser.add_argument("--device", default="cpu", help="torch device (default: cpu)")
    parser.add_argument(
        "--precision",
        choices=("float32", "bfloat16", "float16"),
        help="the network's (default: its own)",
    )
    parser.add_argument("--compile", action="store_true", help="use torch.compile")
    parser.add_argument("--channels-last", action="store_true", help="the network's memory layout")


def _batch_size(text: str) -> int | str:
    return text if text == "auto" else int(text)


def _samplers(parser: Parser) -> None:
    parser.add_argument(
        "--samplers", nargs="+", metavar="SAMPLER", help="several samplers in place of --sampler"
    )


def _spacing(parser: Parser) -> None:
    parser.add_argument(
        "--timestep-spacing",
        "--grid",
        dest="timestep_spacing",
        default="linspace",
        help="linspace, leading, trailing or karras (default: linspace)",
    )


def _steps(parser: Parser, default: int = 100) -> None:
    parser.add_argument(
        "--steps", type=int, default=default, help=f"chain length (default: {default})"
    )
    _spacing(parser)


def _start(parser: Parser) -> None:
    parser.add_argument(
        "--start", default="data", help="data, noise, or a timestep of the grid (default: data)"
    )


def _recording(parser: Parser) -> None:
    """What a new recording takes beside model, data and sampler."""
    _steps(parser)
    _start(parser)
    parser.add_argument("--streams", default="forward,chain", help="of forward, chain, teacher")
    parser.add_argument(
        "--memory",
        type=int,
        default=96,
        metavar="MIB",
        help="for moments by pixel, which says at how many levels large states are recorded",
    )
    parser.add_argument(
        "--statistic",
        action="append",
        default=[],
        metavar="MODULE:NAME",
        help="an accumulator of yours to record as well; may be repeated; imports MODULE",
    )


def _saying(parser: Parser) -> None:
    """How a command says what it found."""
    add = parser.add_argument
    add(
        "--format",
        choices=("text", "csv", "latex", "markdown", "json"),
        default="text",
        help="of what is printed (default: text)",
    )
    add(
        "--json",
        dest="format",
        action="store_const",
        const="json",
        help="the same as --format json",
    )
    add("--wide", action="store_true", help="every column and every table")
    add("--explain", action="store_true", help="also say what is shown means")
    volume = parser.add_mutually_exclusive_group()
    volume.add_argument(
        "-q", "--quiet", action="store_true", help="the answer and its table alone, no messages"
    )
    volume.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        help="also say what every part of the run does, and of a result that cannot be used where",
    )
    add("--config", metavar="FILE", help="a TOML file of these options, by the same names")


def _printing(parser: Parser) -> None:
    _saying(parser)
    parser.add_argument(
        "-o", "--out", metavar="DIR", help="write CSV, PNG, PDF and the dataset here"
    )


def record(parser: Parser) -> None:
    _running(parser)
    _recording(parser)
    parser.add_argument(
        "--spectra", help="kept beside the DCT spectra: of hann, fft, luma (default: none)"
    )
    parser.add_argument(
        "-o", "--out", default="recording.nc", metavar="FILE", help="default: recording.nc"
    )
    _saying(parser)


# Options that `train` takes under the same name.
TRAINING = (
    "schedule",
    "prediction_type",
    "learned_variance",
    "device",
    "compile",
    "checkpoint_every",
    "sample_every",
    "on_write_error",
    "iterations",
    "batch_size",
    "learning_rate",
    "warmup",
    "weight_decay",
    "max_gradient_norm",
    "ema",
    "flips",
    "held_out",
    "precision",
    "channels_last",
    "log_every",
    "evaluate_every",
)


def _gamma(text: str) -> float | tuple[float, ...]:
    numbers = tuple(float(part) for part in text.split(","))
    return numbers[0] if len(numbers) == 1 else numbers


def train(parser: Parser) -> None:
    add = parser.add_argument
    add("-o", "--out", required=True, metavar="DIR", help="checkpoints, log and samples go here")
    add("--data", default="digits", help="bundled name, folder, .npz or .zip (default: digits)")
    _reading(parser)
    add(
        "--objective",
        nargs="+",
        default=["ddpm"],
        help="of ddpm, ip, ddpm-y, gp, wd, hybrid; several: a run for each",
    )
    add(
        "--gamma",
        type=_gamma,
        help="of ip and ddpm-y: a number, or LOW,HIGH by level (default: 0.1)",
    )
    add(
        "--lambda", dest="strength", type=float, help="of gp (default: 1e-5) and wd (default: 1e-6)"
    )
    add(
        "--net",
        default="unet-small",
        help="unet-tiny, unet-small, unet-ddpm or a JSON file of UNet2DModel options",
    )
    add("--fine-tune", metavar="MODEL", help="start from this model instead of --net")
    add("--schedule", default="linear", help="linear or cosine (default: linear)")
    add(
        "--prediction-type",
        default="epsilon",
        help="epsilon, sample or v_prediction (default: epsilon)",
    )
    add(
        "--learned-variance",
        action="store_true",
        help="ip: the network learns its variance too, as in DDPM-IP (hybrid: always)",
    )
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
        "--held-out",
        type=float,
        default=0.1,
        help="share kept from training (default: 0.1; bundled data have a split)",
    )
    add(
        "--precision",
        default="auto",
        help="auto, fp32 or bf16 (default: auto, bf16 where a GPU has it)",
    )
    add("--channels-last", action="store_true")
    add("--compile", action="store_true", help="use torch.compile")
    add("--device", default="cpu", help="torch device (default: cpu)")
    add("--log-every", type=int, default=100, metavar="K")
    add("--evaluate-every", type=int, default=500, metavar="K")
    add("--checkpoint-every", type=int, default=1000, metavar="K")
    add(
        "--sample-every",
        type=int,
        metavar="K",
        help="sample grids (default: with checkpoints; 0: none)",
    )
    add(
        "--on-write-error",
        default="stop",
        help="stop or go-on when a checkpoint cannot be written (default: stop)",
    )
    add("--resume", action="store_true", help="go on from the last checkpoint in DIR")
    _saying(parser)


def spectrum(parser: Parser) -> None:
    reading(parser)
    parser.add_argument(
        "--basis",
        default="dct",
        help="dct, hann (windowed FFT), fft (raw), or luma (luminance and chroma; default: dct)",
    )


def reading(parser: Parser) -> None:
    _saved(parser, "what `record` wrote; without it, record first", "RECORDING")
    _running(parser)
    _recording(parser)
    _printing(parser)


def report(parser: Parser) -> None:
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="recordings and results, or folders of them"
    )
    parser.add_argument(
        "-o", "--out", default="report.html", metavar="FILE", help="default: report.html"
    )
    _saying(parser)


def strip(parser: Parser) -> None:
    _saved(parser, "what `record` wrote; without it, record first", "RECORDING")
    _running(parser)
    _recording(parser)
    parser.add_argument("--samples", type=int, default=3, help="rows of three (default: 3)")
    parser.add_argument("--levels", type=int, default=7, help="columns (default: 7)")
    parser.add_argument(
        "-o", "--out", default="strip.png", metavar="FILE", help=".png or .pdf (default: strip.png)"
    )
    _saying(parser)


def epsilon_norm(parser: Parser) -> None:
    reading(parser)
    parser.add_argument(
        "--relative-to",
        choices=("gaussian", "none"),
        default="gaussian",
        help=(
            "what the scaling schedules are fitted to: ratio / Gaussian reference, or the raw ratio"
        ),
    )


def _errors(parser: Parser) -> None:
    """What chain errors take."""
    _running(parser)
    parser.add_argument(
        "--lengths", type=int, nargs="+", default=[100, 300, 600, 900], help="chain lengths"
    )
    parser.add_argument("--mode", default="chain", help="chain, or single: x0 predicted at once")


def chain_errors(parser: Parser) -> None:
    _saved(parser, "errors.nc of an earlier -o; without it, run")
    _errors(parser)
    parser.add_argument(
        "--pixel", action="append", metavar="P", help="flat index or c,y,x; may be repeated"
    )
    parser.add_argument(
        "--per-test", type=int, default=50, help="values in a normality test (default: 50)"
    )
    parser.add_argument(
        "--alpha", type=float, default=0.05, help="level of a normality test (default: 0.05)"
    )
    _printing(parser)


def compare(parser: Parser) -> None:
    parser.add_argument(
        "models",
        nargs="+",
        metavar="MODEL",
        help='as --model elsewhere, or with remedies: "digits + es:1.005"',
    )
    _data(parser)
    _steps(parser)
    _start(parser)
    parser.add_argument(
        "--lengths",
        type=int,
        nargs="*",
        default=[100, 300],
        help="of chain errors (default: 100 300)",
    )
    _printing(parser)


def models(parser: Parser) -> None:
    _saying(parser)


def normality(parser: Parser) -> None:
    _saved(parser, "errors.nc of an earlier `error-hist -o`")
    _errors(parser)
    parser.add_argument(
        "--per-test",
        type=int,
        nargs="+",
        default=[50, 100, 500],
        help="values in a test (default: 50 100 500)",
    )
    parser.add_argument("--alpha", type=float, default=0.05, help="level of a test (default: 0.05)")
    _printing(parser)


def _experiment(parser: Parser, kind: str) -> None:
    _saved(parser, f"{kind}.nc of an earlier -o; without it, run")
    _running(parser)
    _steps(parser)
    parser.add_argument(
        "--refine", type=int, default=1, metavar="K", help="K steps in place of each (default: 1)"
    )
    parser.add_argument(
        "--starts", type=float, nargs="+", help="timesteps (default: five along the chain)"
    )
    _printing(parser)


def rollouts(parser: Parser) -> None:
    _experiment(parser, "rollout")
    parser.add_argument(
        "--replicates", type=int, default=2, help="chains from each start (default: 2)"
    )


def telescope(parser: Parser) -> None:
    _experiment(parser, "telescope")
    parser.add_argument(
        "--targets",
        type=float,
        nargs="+",
        help="timesteps (default: the starts, and the clean end)",
    )


def network_error(parser: Parser) -> None:
    _saved(parser, "network-error.nc of an earlier -o: read, not run")
    _running(parser)
    parser.add_argument(
        "--levels", type=int, default=20, help="noise levels that are asked (default: 20)"
    )
    parser.add_argument(
        "--cuts",
        type=float,
        nargs="+",
        help="sigma/alpha where strict exposure is measured (default: two)",
    )
    parser.add_argument(
        "--restarts", type=int, help="samples that walk chains for it (default: at most 1024)"
    )
    parser.add_argument(
        "--no-exposure", action="store_true", help="leave strict exposure and its chains out"
    )
    parser.add_argument(
        "--no-costs", action="store_true", help="test only: take no gradients, predict no costs"
    )
    _printing(parser)


def levels(parser: Parser) -> None:
    _saved(parser, "optimise-levels.nc or level-curve.nc of an earlier -o: read, not run")
    _running(parser)
    parser.add_argument(
        "--calls",
        type=int,
        nargs="+",
        default=[10],
        help="network calls of a chain; several are compared with fixed rules (default: 10)",
    )
    parser.add_argument(
        "--objective",
        default="gap",
        help="what is to be right: gap (variance), hf (high frequencies), or module:NAME of yours",
    )
    parser.add_argument(
        "--no-certificate",
        action="store_true",
        help="predict only: walk no chains on the other images",
    )
    _printing(parser)


def chain_length_fid(parser: Parser) -> None:
    _saved(parser, "chain-fid.nc of an earlier -o: read, not run")
    _running(parser)
    parser.add_argument(
        "--against", nargs="+", default=[], metavar="MODEL", help="more models, on the same noise"
    )
    _samplers(parser)
    parser.add_argument(
        "--lengths", type=int, nargs="+", help="chain lengths, up to T (default: 10 20 50 100 300)"
    )
    parser.add_argument(
        "--features",
        default="classifier",
        help=(
            "inception (FID), classifier (of digits, clothes, 32×32 photographs; default),"
            " random-conv, pixel, or module:function"
        ),
    )
    parser.add_argument(
        "--weights", metavar="FILE", help="Inception's pt_inception-2015-12-05-6726825d.pth"
    )
    parser.add_argument(
        "--reference",
        metavar="NPZ",
        help="statistics mu and sigma, as guided-diffusion writes them",
    )
    parser.add_argument(
        "--real", help="other real images for the noise floor (default: the other split, or halves)"
    )
    parser.add_argument(
        "--limit",
        action="store_true",
        help="split each point into solver's and network's part: about 150 more calls a sample",
    )
    parser.add_argument(
        "--start",
        default="noise",
        help="noise, or data for the reconstruction curve (default: noise)",
    )
    _spacing(parser)
    parser.add_argument(
        "--no-quantise", action="store_true", help="do not cut images to 8 bits before features"
    )
    parser.add_argument(
        "--checkpoints", metavar="DIR", help="a folder of checkpoints instead of --model"
    )
    parser.add_argument(
        "--baseline", metavar="FILE", help="chain-fid.nc whose best value is to be reached"
    )
    _printing(parser)


def _budget(parser: Parser) -> None:
    parser.add_argument(
        "--margin",
        type=float,
        default=0.05,
        help="the score error of the variance that matters (default: 0.05)",
    )
    parser.add_argument(
        "--restarts",
        type=float,
        nargs="*",
        metavar="T",
        help="timesteps (default: three near the clean end; or none)",
    )
    parser.add_argument(
        "--start", choices=("data", "noise"), default="data", help="of the chains (default: data)"
    )


def drift(parser: Parser) -> None:
    _saved(parser, "drift-budget.nc or drift.nc of an earlier -o: read, not run")
    add = parser.add_argument
    add(
        "--model",
        default="lorenz96",
        help="bundled name or module:NAME of a Denoiser(…, context=p) (default: lorenz96)",
    )
    add("--remedy", action="append", default=[], metavar="R", help="as elsewhere; may be repeated")
    add(
        "--data",
        help=(
            "sequences: bundled name, folder of clips, .npy or .npz (N, K, *shape), whose other"
            " arrays are streams beside the frames (default: the bundled model's own)"
        ),
    )
    add("--chunk", type=int, default=1, help="frames that are drawn at once (default: 1)")
    add(
        "--limit-data",
        metavar="SIZE",
        help="what a file of data may take once decoded, as 8GB (default: 1 GiB)",
    )
    add("--frames", type=int, help="how many are drawn (default: all of the sequences')")
    add(
        "--start",
        choices=("noise", "one call"),
        default="noise",
        help="noise, or what one more call makes of it (default: noise)",
    )
    add(
        "--against",
        action="append",
        default=[],
        metavar="WHAT=VALUE",
        help=(
            "compare with this change: steps, sampler, start, timestep-spacing or remedy, several"
            " joined by ' + '; may be repeated"
        ),
    )
    add(
        "--free-limit",
        action="store_true",
        help="also draw the limit of small steps free-running, which splits the feedback: about"
        " twice the time",
    )
    add(
        "--stationary",
        action="store_true",
        help="the data's law is the same at every frame: pool it",
    )
    _chains(parser)
    _steps(parser, 50)
    _printing(parser)


def budget(parser: Parser) -> None:
    _saved(parser, "budget.nc of an earlier -o; without it, run")
    _running(parser)
    _samplers(parser)
    parser.add_argument(
        "--steps", type=int, nargs="+", default=[50], help="chain lengths (default: 50)"
    )
    _spacing(parser)
    _budget(parser)
    _printing(parser)


def diagnose(parser: Parser) -> None:
    _saved(parser, "a recording (.nc), read without the network, or a model", "RECORDING|MODEL")
    _running(parser)
    _steps(parser, 50)
    _budget(parser)
    parser.add_argument(
        "--starts",
        type=float,
        nargs="+",
        help="rollouts' timesteps (default: five along the chain)",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="leave out the advice, for which other samplers are tried",
    )
    parser.add_argument(
        "--images", help="what the exact denoiser knows (default: bundled data's train split)"
    )
    _printing(parser)
