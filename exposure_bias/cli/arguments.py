"""The options of the command line, each declared once as a row, and which commands have them.

A row says how an option is spelt, what argparse is told of it, whether it is about a new run (it
then means nothing where the result of an earlier run is read), and for which options of other
commands it is meant: `error-hist --steps 50` is answered with --lengths."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

Rows = tuple["Option", ...]
FORMATS = ("text", "csv", "latex", "markdown", "json")


@dataclass(frozen=True)
class Option:
    """An option or a positional argument.

    spellings: "--steps", or the name of a positional argument. settings: what argparse's
    `add_argument` takes. of_run: whether it is about a new run. meant_by: spellings of other
    commands for which this one is meant.
    """

    spellings: tuple[str, ...]
    settings: dict[str, Any]
    of_run: bool = False
    meant_by: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The spelling that messages use."""
        return self.spellings[0]

    @property
    def dest(self) -> str:
        """The attribute of the parsed options."""
        long = next((s for s in self.spellings if s.startswith("--")), self.name)
        return str(self.settings.get("dest", long.lstrip("-").replace("-", "_")))

    @property
    def default(self) -> Any:
        """Its value where it is not given."""
        flag = self.settings.get("action") == "store_true"
        return self.settings.get("default", False if flag else None)

    @property
    def repeatable(self) -> bool:
        """Whether it may be given several times."""
        return self.settings.get("action") == "append" or not self.takes_value

    @property
    def takes_value(self) -> bool:
        """Whether a value follows it."""
        return self.settings.get("action", "store") in ("store", "append")

    def __call__(self, **settings: Any) -> "Option":
        """Return the same option with other settings."""
        return replace(self, settings=self.settings | settings)


def option(*spellings: str, meant_by: Sequence[str] = (), **settings: Any) -> Option:
    """Declare an option that concerns new runs and old results alike."""
    return Option(spellings, settings, False, tuple(meant_by))


def of_run(*spellings: str, meant_by: Sequence[str] = (), **settings: Any) -> Option:
    """Declare an option of a new run."""
    return Option(spellings, settings, True, tuple(meant_by))


def add(parser: argparse.ArgumentParser, rows: Rows) -> None:
    """Add rows to a command's parser; those of a new run are a group of its help."""
    run = parser.add_argument_group("options of a new run")
    for row in rows:
        positional = not row.name.startswith("-")
        group = run if row.of_run and not positional else parser
        group.add_argument(*row.spellings, **row.settings)


def saved(help: str, metavar: str = "FILE") -> Option:
    """Declare what an earlier run wrote, to be read in place of a new run."""
    return option("saved", nargs="?", metavar=metavar, help=help)


def _batch_size(text: str) -> int | str:
    return text if text == "auto" else int(text)


def _gamma(text: str) -> float | tuple[float, ...]:
    numbers = tuple(float(part) for part in text.split(","))
    return numbers[0] if len(numbers) == 1 else numbers


READING: Rows = (
    of_run(
        "--any-range",
        action="store_true",
        help="accept float data beyond [-1, 1]: latents, vectors, synthetic data",
    ),
    of_run(
        "--limit-data",
        metavar="SIZE",
        help="what a file of data may take once decoded, as 8GB (default: 1 GiB)",
    ),
)
# How chains are drawn, and by how much of the machine.
DRAWING: Rows = (
    of_run(
        "-n", meant_by=("--n", "--samples", "--num-samples"), type=int, help="number of samples"
    ),
    of_run(
        "--sampler",
        meant_by=("--scheduler",),
        default="ddpm",
        help=(
            "ddpm[:VARIANCE], ddim[:ETA], euler, heun, or a diffusers scheduler's class "
            "name[:OPTION=VALUE,...], or module:Class of yours (default: ddpm)"
        ),
    ),
    of_run("--clip", action="store_true", help="clip x0 predictions to [-1, 1]"),
    of_run("--seed", type=int, default=0),
    of_run(
        "--batch-size",
        type=_batch_size,
        default=256,
        help="a number, or auto: 256 on a CPU, 1024 elsewhere (default: 256)",
    ),
    of_run("--device", default="cpu", help="torch device (default: cpu)"),
    of_run(
        "--precision",
        choices=("float32", "bfloat16", "float16"),
        help="the network's (default: its own)",
    ),
    of_run("--compile", action="store_true", help="use torch.compile"),
    of_run("--channels-last", action="store_true", help="the network's memory layout"),
)
DATA: Rows = (
    of_run(
        "--data",
        help="bundled name, folder, .npy, .npz or .zip (default: digits, or the model's own)",
    ),
    *READING,
    of_run("--split", choices=("train", "test"), help="of bundled data (default: test)"),
    *DRAWING,
)
REMEDY = of_run(
    "--remedy",
    action="append",
    default=[],
    metavar="R",
    help=(
        "es:SCALE, es:linear:K,B[,STEPS], es:fit[:KIND], ip:GAMMA, ts:WINDOW,CUTOFF, tsr:K,S"
        " or cn:TAU; may be repeated"
    ),
)
MODEL: Rows = (
    of_run(
        "--model",
        default="digits",
        help=(
            "bundled name, diffusers folder, org/name[@revision] of the hub, or ADM checkpoint"
            " (default: digits)"
        ),
    ),
    of_run(
        "--preset", help="what an ADM checkpoint is, for example adm-cifar10; `models` lists them"
    ),
    of_run(
        "--prompts",
        meant_by=("--prompt",),
        metavar="FILE",
        help=(
            "of a text-conditional model: .txt, one a line, for all images or one for each; .csv"
            " or .jsonl with columns file_name and text"
        ),
    ),
    of_run("--negative-prompt", metavar="TEXT", help="what guidance leads away from"),
    of_run(
        "--guidance",
        meant_by=("--guidance-scale", "--cfg"),
        type=float,
        metavar="W",
        help="classifier-free guidance, as guidance_scale of diffusers (default: none)",
    ),
    REMEDY,
    *DATA,
)
SAMPLERS = of_run(
    "--samplers", nargs="+", metavar="SAMPLER", help="several samplers in place of --sampler"
)
SPACING = of_run(
    "--timestep-spacing",
    "--grid",
    dest="timestep_spacing",
    default="linspace",
    help="linspace, leading, trailing or karras (default: linspace)",
)
LENGTHS = of_run("--lengths", meant_by=("--steps", "--num-inference-steps"), type=int, nargs="+")
START = of_run(
    "--start", default="data", help="data, noise, or a timestep of the grid (default: data)"
)
STARTS = of_run(
    "--starts",
    meant_by=("--start", "--restarts"),
    type=float,
    nargs="+",
    help="timesteps (default: five along the chain)",
)


def steps(default: int = 100) -> Rows:
    """Declare a chain's length and where its steps lie."""
    length = of_run(
        "--steps",
        meant_by=("--lengths", "--num-inference-steps", "--iterations"),
        type=int,
        default=default,
        help=f"chain length (default: {default})",
    )
    return length, SPACING


# What a new recording takes beside model, data and sampler.
CHAIN: Rows = (
    *steps(),
    START,
    of_run("--streams", default="forward,chain", help="of forward, chain, teacher"),
    of_run(
        "--memory",
        type=int,
        default=96,
        metavar="MIB",
        help="for moments by pixel, which says at how many levels large states are recorded",
    ),
    of_run(
        "--statistic",
        action="append",
        default=[],
        metavar="MODULE:NAME",
        help="an accumulator of yours to record as well; may be repeated; imports MODULE",
    ),
)
# How a command says what it found.
SAYING: Rows = (
    option("--format", choices=FORMATS, default="text", help="of what is printed (default: text)"),
    option(
        "--json",
        dest="format",
        action="store_const",
        const="json",
        help="the same as --format json",
    ),
    option("--wide", action="store_true", help="every column and every table"),
    option("--explain", action="store_true", help="also say what is shown means"),
    option(
        "-q", "--quiet", action="store_true", help="the answer and its table alone, no messages"
    ),
    option(
        "-v",
        "--verbose",
        action="store_true",
        help="report each stage; show the traceback if a saved result cannot be read",
    ),
    option("--config", metavar="FILE", help="a TOML file of these options, by the same names"),
)
OUT = option("-o", "--out", metavar="DIR", help="write CSV, PNG, PDF and the dataset here")
PRINTING: Rows = (*SAYING, OUT)


def to_file(default: str, kind: str = "") -> Option:
    """Declare the one file that a command writes."""
    words = f"{kind}or a folder for it (default: {default})"
    return OUT(default=default, metavar="FILE", help=words)


RECORD: Rows = (
    *MODEL,
    *CHAIN,
    of_run("--spectra", help="kept beside the DCT spectra: of hann, fft, luma (default: none)"),
    to_file("recording.nc"),
    *SAYING,
)
ANALYSIS: Rows = (
    saved("what `record` wrote, or its folder; without it, record first", "RECORDING"),
    *MODEL,
    *CHAIN,
    *PRINTING,
)
SPECTRUM: Rows = (
    *ANALYSIS,
    option(
        "--basis",
        dest="spectra",
        default="dct",
        help="dct, hann (windowed FFT), fft (raw), or luma (luminance and chroma; default: dct)",
    ),
)
EPSILON_NORM: Rows = (
    *ANALYSIS,
    option(
        "--relative-to",
        choices=("gaussian", "none"),
        default="gaussian",
        help="the scaling schedules are fitted to ratio / Gaussian reference, or to the raw ratio",
    ),
)
STRIP: Rows = (
    saved("what `record` wrote, or its folder; without it, record first", "RECORDING"),
    *MODEL,
    *CHAIN,
    option(
        "--samples", meant_by=("--rows",), type=int, default=3, help="rows of three (default: 3)"
    ),
    option("--levels", type=int, default=7, help="columns (default: 7)"),
    to_file("strip.png", ".png, .pdf or .svg; "),
    *SAYING,
)
REPORT: Rows = (
    option("files", nargs="+", metavar="FILE", help="recordings and results, or folders of them"),
    to_file("report.html"),
    *SAYING,
)
MODELS: Rows = SAYING
# What chain errors take.
_ERRORS: Rows = (
    *MODEL,
    LENGTHS(default=[100, 300, 600, 900], help="chain lengths (default: 100 300 600 900)"),
    of_run("--mode", default="chain", help="chain, or single: x0 predicted at once"),
    option("--alpha", type=float, default=0.05, help="level of a normality test (default: 0.05)"),
)
_PER_TEST = option(
    "--per-test", type=int, default=50, help="values in a normality test (default: 50)"
)
ERROR_HIST: Rows = (
    saved("chain-errors.nc of an earlier -o, or its folder; without it, run"),
    *_ERRORS,
    option("--pixel", action="append", metavar="P", help="flat index or c,y,x; may be repeated"),
    _PER_TEST,
    *PRINTING,
)
NORMALITY: Rows = (
    saved("chain-errors.nc of an earlier `error-hist -o`, or its folder; without it, run"),
    *_ERRORS,
    _PER_TEST(nargs="+", default=[50, 100, 500], help="values in a test (default: 50 100 500)"),
    *PRINTING,
)
COMPARE: Rows = (
    option(
        "models",
        nargs="+",
        metavar="MODEL",
        help='as --model elsewhere, or with remedies: "digits + es:1.005"',
    ),
    *DATA,
    *steps(),
    START,
    LENGTHS(nargs="*", default=[100, 300], help="of chain errors (default: 100 300)"),
    *PRINTING,
)


def _experiment(file: str) -> Rows:
    return (
        saved(f"{file}.nc of an earlier -o, or its folder; without it, run"),
        *MODEL,
        *steps(),
        of_run(
            "--refine",
            type=int,
            default=1,
            metavar="K",
            help="K steps in place of each (default: 1)",
        ),
        STARTS,
        *PRINTING,
    )


ROLLOUTS: Rows = (
    *_experiment("rollouts"),
    of_run("--replicates", type=int, default=2, help="chains from each start (default: 2)"),
)
TELESCOPE: Rows = (
    *_experiment("telescope"),
    of_run(
        "--targets",
        type=float,
        nargs="+",
        help="timesteps (default: the starts, and the clean end)",
    ),
)
NETWORK_ERROR: Rows = (
    saved("network-error.nc of an earlier -o, or its folder; without it, run"),
    *MODEL,
    of_run(
        "--levels",
        meant_by=("--steps",),
        type=int,
        default=20,
        help="noise levels that are asked (default: 20)",
    ),
    of_run(
        "--cuts",
        meant_by=("--starts",),
        type=float,
        nargs="+",
        help="sigma/alpha where strict exposure is measured (default: two)",
    ),
    of_run("--restarts", type=int, help="samples that walk chains for it (default: at most 1024)"),
    of_run("--no-exposure", action="store_true", help="leave strict exposure and its chains out"),
    of_run(
        "--no-costs", action="store_true", help="test only: take no gradients, predict no costs"
    ),
    *PRINTING,
)
LEVELS: Rows = (
    saved("optimise-levels.nc or level-curve.nc of an earlier -o, or its folder; without it, run"),
    *MODEL,
    of_run(
        "--calls",
        meant_by=("--steps", "--lengths"),
        type=int,
        nargs="+",
        default=[10],
        help="network calls of a chain; several are compared with fixed rules (default: 10)",
    ),
    of_run(
        "--objective",
        default="gap",
        help=(
            "what is to be right: gap (variance), hf (high frequencies), or module:NAME of yours"
            " (default: gap)"
        ),
    ),
    of_run(
        "--no-certificate",
        action="store_true",
        help="predict only: walk no chains on the other images",
    ),
    *PRINTING,
)
CHAIN_FID: Rows = (
    saved("chain-length-fid.nc of an earlier -o, or its folder; without it, run"),
    *MODEL,
    of_run(
        "--against", nargs="+", default=[], metavar="MODEL", help="more models, on the same noise"
    ),
    SAMPLERS,
    LENGTHS(help="chain lengths, up to T (default: 10 20 50 100 300)"),
    of_run(
        "--features",
        default="classifier",
        help=(
            "inception (FID), classifier (of digits, clothes, 32×32 photographs; default),"
            " random-conv, pixel, or module:function"
        ),
    ),
    of_run("--weights", metavar="FILE", help="Inception's pt_inception-2015-12-05-6726825d.pth"),
    of_run(
        "--reference",
        metavar="NPZ",
        help="statistics mu and sigma, as guided-diffusion writes them",
    ),
    of_run(
        "--real", help="other real images for the noise floor (default: the other split, or halves)"
    ),
    of_run(
        "--limit",
        action="store_true",
        help="split each point into solver's and network's part: about 150 more calls a sample",
    ),
    START(default="noise", help="noise, or data for the reconstruction curve (default: noise)"),
    SPACING,
    of_run(
        "--no-quantise", action="store_true", help="do not cut images to 8 bits before features"
    ),
    of_run("--checkpoints", metavar="DIR", help="a folder of checkpoints instead of --model"),
    option(
        "--baseline",
        metavar="FILE",
        help="chain-length-fid.nc whose best value is to be reached, or its folder",
    ),
    *PRINTING,
)
_BUDGET: Rows = (
    of_run(
        "--margin",
        type=float,
        default=0.05,
        help="the score error of the variance that matters (default: 0.05)",
    ),
    of_run(
        "--restarts",
        type=float,
        nargs="*",
        metavar="T",
        help="timesteps (default: three near the clean end; or none)",
    ),
    START(choices=("data", "noise"), help="of the chains (default: data)"),
)
BUDGET: Rows = (
    saved("error-budget.nc or solver-curve.nc of an earlier -o, or its folder; without it, run"),
    *MODEL,
    SAMPLERS,
    steps()[0](nargs="+", default=[50], help="chain lengths (default: 50)"),
    SPACING,
    *_BUDGET,
    *PRINTING,
)
DIAGNOSE: Rows = (
    saved(
        "a recording or diagnose.nc (or the folder of one), read without the network; or a model",
        "FILE|MODEL",
    ),
    *MODEL,
    *steps(50),
    *_BUDGET,
    STARTS(help="rollouts' timesteps (default: five along the chain)"),
    of_run(
        "--quick",
        action="store_true",
        help="leave out the advice, for which other samplers are tried",
    ),
    of_run("--images", help="what the exact denoiser knows (default: bundled data's train split)"),
    *PRINTING,
)
DRIFT: Rows = (
    saved("drift-budget.nc or drift.nc of an earlier -o, or its folder; without it, run"),
    of_run(
        "--model",
        default="lorenz96",
        help="bundled name or module:NAME of a Denoiser(…, context=p) (default: lorenz96)",
    ),
    REMEDY(help="as elsewhere; may be repeated"),
    of_run(
        "--data",
        help=(
            "sequences: bundled name, folder of clips, .npy or .npz (N, K, *shape), whose other"
            " arrays are streams beside the frames (default: the bundled model's own)"
        ),
    ),
    of_run("--chunk", type=int, default=1, help="frames that are drawn at once (default: 1)"),
    READING[1],
    of_run(
        "--frames",
        meant_by=("--lengths",),
        type=int,
        help="how many are drawn (default: all of the sequences')",
    ),
    START(
        choices=("noise", "one call"),
        default="noise",
        help="noise, or what one more call makes of it (default: noise)",
    ),
    of_run(
        "--against",
        action="append",
        default=[],
        metavar="WHAT=VALUE",
        help=(
            "compare with this change: steps, sampler, start, timestep-spacing or remedy, several"
            " joined by ' + '; may be repeated"
        ),
    ),
    of_run(
        "--free-limit",
        action="store_true",
        help="also draw the limit of small steps free-running, which splits the feedback: about"
        " twice the time",
    ),
    of_run(
        "--stationary",
        action="store_true",
        help="the data's law is the same at every frame: pool it",
    ),
    *DRAWING,
    *steps(50),
    *PRINTING,
)
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
TRAIN: Rows = (
    OUT(required=True, help="checkpoints, log and samples go here"),
    option("--data", default="digits", help="bundled name, folder, .npz or .zip (default: digits)"),
    *READING,
    option(
        "--objective",
        nargs="+",
        default=["ddpm"],
        help="of ddpm, ip, ddpm-y, gp, wd, hybrid; several: a run for each",
    ),
    option(
        "--gamma",
        type=_gamma,
        help="of ip and ddpm-y: a number, or LOW,HIGH by level (default: 0.1)",
    ),
    option(
        "--lambda", dest="strength", type=float, help="of gp (default: 1e-5) and wd (default: 1e-6)"
    ),
    option(
        "--net",
        default="unet-small",
        help="unet-tiny, unet-small, unet-ddpm or a JSON file of UNet2DModel options",
    ),
    option(
        "--fine-tune",
        meant_by=("--model",),
        metavar="MODEL",
        help="start from this model instead of --net",
    ),
    option("--schedule", default="linear", help="linear or cosine (default: linear)"),
    option(
        "--prediction-type",
        default="epsilon",
        help="epsilon, sample or v_prediction (default: epsilon)",
    ),
    option(
        "--learned-variance",
        action="store_true",
        help="ip: the network learns its variance too, as in DDPM-IP (hybrid: always)",
    ),
    option("--seed", type=int, nargs="+", default=[0], help="several: a run for each"),
    option("--iterations", meant_by=("--steps",), type=int, default=10_000),
    option("--batch-size", type=int, default=128, help="of all processes together (default: 128)"),
    option("--learning-rate", meant_by=("--lr",), type=float, default=1e-3),
    option("--warmup", type=int, default=500),
    option("--weight-decay", type=float, default=0.0, help="AdamW's own, decoupled (default: 0)"),
    option("--max-gradient-norm", type=float, default=1.0),
    option(
        "--ema", type=float, default=0.999, help="decay of the averaged weights (default: 0.999)"
    ),
    option("--flips", action="store_true", help="mirror half of the images"),
    option(
        "--held-out",
        type=float,
        default=0.1,
        help="share kept from training (default: 0.1; bundled data have a split)",
    ),
    option(
        "--precision",
        default="auto",
        help="auto, fp32 or bf16 (default: auto, bf16 where a GPU has it)",
    ),
    option("--channels-last", action="store_true"),
    option("--compile", action="store_true", help="use torch.compile"),
    option("--device", default="cpu", help="torch device (default: cpu)"),
    option("--log-every", type=int, default=100, metavar="K"),
    option("--evaluate-every", type=int, default=500, metavar="K"),
    option("--checkpoint-every", type=int, default=1000, metavar="K"),
    option(
        "--sample-every",
        type=int,
        metavar="K",
        help="sample grids (default: with checkpoints; 0: none)",
    ),
    option(
        "--on-write-error",
        default="stop",
        help="stop or go-on when a checkpoint cannot be written (default: stop)",
    ),
    option("--resume", action="store_true", help="go on from the last checkpoint in DIR"),
    *SAYING,
)
