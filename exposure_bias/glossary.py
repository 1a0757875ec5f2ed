"""What every number of a result is called, its unit and its meaning.

The one source for attributes of variables, headings, `--explain` and docs/glossary.md. No torch
here.

    python -m exposure_bias.glossary > docs/glossary.md

A name is looked up in its result's own words, then among the common ones. A name such as
`gap_gaussian_se` is `gap` with the endings `_gaussian` and `_se`, each of which has its words."""

from collections.abc import Callable, Iterator
from functools import wraps
from typing import NamedTuple, ParamSpec

import xarray as xr

P = ParamSpec("P")

DATA, SQUARE, SHARE, DECIBEL = "data units", "data units²", "1", "dB"
COUNT, TEXT, VARIES = "count", "text", "1, or dB for hf and bands"


class Term(NamedTuple):
    """A name in words, its unit, and a sentence or two on what it means."""

    words: str
    unit: str
    text: str


# Coordinates, and what several results have in common.
COMMON = {
    "step": Term("step", COUNT, "How many steps the chain has taken; 0 is its start."),
    "timestep": Term(
        "timestep t",
        "model's own time",
        "The label that the network is called with at a noise level: a timestep, σ or t. The clean"
        " end, where no noise is left and no network is called, is stored as −1.",
    ),
    "alpha": Term("signal α", SHARE, "x_t = α x_0 + σ ε: the share of the image in a state."),
    "sigma": Term("noise σ", DATA, "x_t = α x_0 + σ ε: the noise's standard deviation in a state."),
    "length": Term(
        "chain length T′", "steps", "How many steps, each of one network call or more, a chain has."
    ),
    "sample": Term("sample", COUNT, "The number of a sample, which names its noise."),
    "image": Term("image", COUNT, "The number of the image that a sample is made from."),
    "channel": Term("channel", TEXT, "A colour, or a feature of a latent."),
    "x": Term("column", "pixels", "Position along a row of an image, or along a signal."),
    "y": Term("row", "pixels", "Position along a column of an image."),
    "z": Term("frame", COUNT, "Position along the frames of a video or the depth of a volume."),
    "frequency": Term(
        "spatial frequency",
        "cycles per pixel",
        "Radial frequency of a band of modes; ½ is the finest stripe pattern along an axis.",
    ),
    "frequency_modes": Term("modes", COUNT, "How many modes a frequency band has."),
    "band_modes": Term("modes", COUNT, "How many modes a Haar sub-band has."),
    "band": Term("Haar sub-band", TEXT, "LL is the coarse image; LH, HL and HH hold its edges."),
    "direction": Term("direction", COUNT, "A leading eigen-direction of the data, largest first."),
    "start": Term("start", "model's own time", "The level whose true states the chains begin at."),
    "start_timestep": Term("start", "model's own time", "The level that a rollout begins at."),
    "start_alpha": Term("signal α at the start", SHARE, "α of the level of a start."),
    "start_sigma": Term("noise σ at the start", DATA, "σ of the level of a start."),
    "n": Term("values in a test", COUNT, "How many values one normality test takes."),
    "answer": Term(
        "verdict",
        TEXT,
        "A score error with its sign, where the 95 % interval of the network's share excludes 0;"
        " none larger than the margin (below margin); not decided; the limit not reached; or why"
        " not asked.",
    ),
    "hf": Term(
        "high frequencies",
        DECIBEL,
        "Power of the samples at ¼ cycle per pixel and above over the data's, in decibels at the"
        " clean end. Below 0 the samples are too smooth.",
    ),
    "gap": Term(
        "variance gap",
        SHARE,
        "Variance of the chain's states over what noised data have, less 1. Below 0 the samples are"
        " too alike (too narrow); 0 for a perfect chain.",
    ),
    "excess_over_gaussian": Term(
        "excess over the Gaussian reference",
        SHARE,
        "The number less that of a perfect denoiser of Gaussian data with these very steps.",
    ),
    "bounded": Term(
        "prediction bounded",
        "1 or 0",
        "0 where the one-step prediction is worse than the mean image, so that U − S says nothing.",
    ),
    "W_over_U": Term(
        "spread over skill W/U",
        SHARE,
        "Half the squared distance of two chains from one state over the error they share. 1 for a"
        " perfect sampler on any data; below 1 the chains are too sure.",
    ),
    "U_minus_S": Term(
        "mean error that the chain adds U − S",
        SQUARE,
        "What a whole chain adds to the squared error of a single prediction's mean.",
    ),
    "U_minus_S_relative": Term(
        "mean error that the chain adds (U − S)/S",
        SHARE,
        "What a whole chain adds to a single prediction's squared mean error, relative to it; 0 for"
        " a perfect sampler.",
    ),
}

BUDGET = {
    "statistic": Term(
        "statistic",
        TEXT,
        "What is split: gap, the variance gap at the last noisy level; hf, power at ¼ cycle per"
        " pixel and above; a frequency band; mean shift; a restart on true states at a timestep;"
        " and what the last, noise-free step adds.",
    ),
    "curve": Term("statistic by level", TEXT, "The same statistics, at every recorded level."),
    "total": Term("whole gap", VARIES, "The statistic of the chain less that of noised data."),
    "initialisation": Term(
        "the start's share",
        VARIES,
        "What changes where chains begin at pure noise rather than at noised data.",
    ),
    "discretisation": Term(
        "the sampler's share",
        VARIES,
        "What would vanish with ever smaller steps: the chain less its own limit.",
    ),
    "score": Term(
        "the network's share",
        VARIES,
        "What remains in the limit of small steps: the score error.",
    ),
    "order_ratio": Term(
        "order ratio",
        SHARE,
        "How errors fall as the limit's steps are halved: about 4 where the limit is reached.",
    ),
    "limit_error": Term(
        "error of the limit",
        VARIES,
        "By how much the extrapolated limit may be off. It is part of the interval.",
    ),
    "needed_n": Term(
        "images that would decide",
        COUNT,
        "About how many images would decide a verdict that is open; 0 where it is decided.",
    ),
    "margin": Term("margin", VARIES, "The score error that matters."),
    "gaussian": Term(
        "Gaussian reference", SHARE, "The gap of a perfect denoiser of Gaussian data, as context."
    ),
    "oracle": Term(
        "exact denoiser", SHARE, "The gap of the exact denoiser of given images, as context."
    ),
    "es_scale": Term(
        "epsilon scaling that would close the gap",
        SHARE,
        "Dividing every noise prediction by this would, by proportion, close the whole gap.",
    ),
    "es_scale_score": Term(
        "epsilon scaling that would mend the network",
        SHARE,
        "The same for the network's share of the gap alone.",
    ),
    "calls": Term("network calls", COUNT, "How often one chain asks the network."),
    "sampler": Term("sampler", TEXT, "The rule that takes the chain's steps."),
    "steps": Term("steps T′", COUNT, "The chain's length."),
}

ERRORS = {
    "error": Term("chain error e_t", DATA, "x_0 less the x_0 that a chain from x_t arrives at."),
    "x0": Term("image x_0", DATA, "The held-out images themselves."),
    "mean": Term("mean of e_t", DATA, "Mean over samples at a pixel; 0 for a perfect sampler."),
    "std": Term("spread of e_t", DATA, "Standard deviation over samples at a pixel."),
    "std_gaussian": Term(
        "spread of e_t, Gaussian reference", DATA, "What a perfect denoiser of Gaussian data has."
    ),
    "skewness": Term("skewness of e_t", SHARE, "0 for a perfect sampler and for a Gaussian."),
    "kurtosis": Term("excess kurtosis of e_t", SHARE, "0 for a Gaussian."),
    "nu": Term(
        "spread of chain errors ν",
        DATA,
        "The mean over pixels of the standard deviation of e_t, Ning et al.'s ν_t.",
    ),
    "nu_gaussian": Term(
        "spread of chain errors, Gaussian reference",
        DATA,
        "ν of a perfect denoiser of Gaussian data.",
    ),
    "pooled_rmse": Term("size of chain errors", DATA, "Root mean square of e_t over all pixels."),
}

NORMALITY = {
    "statistic": Term("Shapiro–Wilk W", SHARE, "Near 1 for a Gaussian."),
    "pvalue": Term("p-value", SHARE, "Of the Shapiro–Wilk test of one pixel in one block."),
    "W": Term("Shapiro–Wilk W", SHARE, "Near 1 for a Gaussian."),
    "p": Term("p-value", SHARE, "Of the Shapiro–Wilk test of a pixel."),
    "block": Term("block", COUNT, "Disjoint sets of images, which are independent."),
    "block_rate": Term("pixels rejected in a block", SHARE, "Share of a block's regular pixels."),
    "count": Term("pixels", COUNT, "How many pixels are of a class."),
    "rate_of": Term("pixels rejected in a class", SHARE, "Share of a class's pixels."),
    "rate": Term(
        "pixels rejected",
        SHARE,
        "Share of pixels where a Shapiro–Wilk test rejects that e_t is Gaussian; its level if all"
        " are.",
    ),
    "effective_tests": Term(
        "effective number of tests",
        COUNT,
        "How many independent tests the correlated pixels are worth.",
    ),
    "fdr_rate": Term(
        "rejected after Benjamini–Hochberg",
        SHARE,
        "Share of pixels rejected with the false discovery rate held at the test's level.",
    ),
    "null_low": Term(
        "lower end under normality",
        SHARE,
        "Of the 95 % range of the rate for Gaussian errors of the same covariance, simulated.",
    ),
    "null_high": Term("upper end under normality", SHARE, "Of the same range."),
    "pixels": Term(
        "class of pixels",
        TEXT,
        "Regular pixels, and those whose test means nothing: constant images, equal errors (atoms),"
        " predictions at a clip bound.",
    ),
    "pixel": Term("pixel", TEXT, "Channel, row and column."),
}

KINDS: dict[str, dict[str, Term]] = {
    "error_budget": BUDGET,
    "diagnose": BUDGET,
    "variance_gap": {
        "gap_forward": Term(
            "variance gap to the forward stream",
            SHARE,
            "Variance of the chain's states over that of the forward stream's, less 1.",
        ),
        "gap_channel": Term("variance gap by channel", SHARE, "The variance gap of one channel."),
        "gap_direction": Term(
            "variance gap by direction", SHARE, "The gap along an eigen-direction of the data."
        ),
        "gap_pixel": Term("variance gap by pixel", SHARE, "The variance gap of one pixel."),
        "gap_absolute": Term(
            "absolute variance gap", SQUARE, "Variance of the chain less what noised data have."
        ),
        "gap_absolute_pixel": Term(
            "absolute variance gap by pixel", SQUARE, "The same of one pixel."
        ),
        "mean_shift": Term(
            "shift of the mean", SQUARE, "Squared distance per pixel of the chain's mean from α μ."
        ),
        "std_chain": Term("spread of the chain", DATA, "Mean over pixels of the std of x̂_t."),
        "std_reference": Term(
            "spread of noised data", DATA, "Mean over pixels of √(α² σ_i² + σ²), the target."
        ),
        "std_forward": Term(
            "spread of the forward stream", DATA, "Mean over pixels of the std of x_t."
        ),
        "std_gaussian": Term(
            "spread, Gaussian reference", DATA, "That of a perfect denoiser of Gaussian data."
        ),
    },
    "published_delta": {
        "delta": Term(
            "published variance error δ",
            SQUARE,
            "(Mean over pixels of std(x̂_t − α x_0) − σ)², as published. It is not 0 for a perfect"
            " model: its floor stands beside it.",
        ),
        "delta_perfect": Term(
            "δ of a perfect sampler", SQUARE, "The floor: what a perfect ancestral sampler shows."
        ),
        "root": Term(
            "signed root of δ", DATA, "√δ with its sign: above 0 the chain strays from its x_0."
        ),
        "root_perfect": Term(
            "signed root, perfect sampler", DATA, "What a perfect ancestral sampler shows."
        ),
    },
    "epsilon_norm": {
        "norm_forward": Term(
            "noise norm, forward", "‖ε‖₂", "Mean length of the predicted noise at true x_t."
        ),
        "norm_chain": Term(
            "noise norm, chain", "‖ε‖₂", "Mean length of the predicted noise at the chain's x̂_t."
        ),
        "ratio": Term(
            "norm ratio",
            SHARE,
            "Noise norm of the chain over the forward stream's: above 1 the chain's states look"
            " noisier to the network than true ones.",
        ),
        "quantile": Term("quantile", SHARE, "Which quantile over samples."),
        "quantile_forward": Term(
            "quantiles of the norm, forward", "‖ε‖₂", "Over samples, at true x_t."
        ),
        "quantile_chain": Term("quantiles of the norm, chain", "‖ε‖₂", "Over samples, at x̂_t."),
        "call_index": Term("call, from the clean end", COUNT, "T′ − 1 at the first call, 0 last."),
        "scale": Term(
            "epsilon scaling λ", SHARE, "What to divide this call's noise prediction by (ADM-ES)."
        ),
        "scale_uniform": Term("uniform scaling", SHARE, "The b of the fit λ = b."),
        "scale_slope": Term("slope of the scaling", SHARE, "The k of the fit λ_i = k·i + b."),
        "scale_offset": Term("offset of the scaling", SHARE, "The b of the fit λ_i = k·i + b."),
    },
    "state_error": {
        "mean": Term("mean state error", DATA, "Mean over samples of x̂_t − x_t at a pixel."),
        "std": Term("spread of state errors", DATA, "Standard deviation of x̂_t − x_t at a pixel."),
        "rmse": Term("size of state errors", DATA, "Root mean square of x̂_t − x_t at a pixel."),
        "pooled_mean": Term("mean state error", DATA, "Mean of x̂_t − x_t over all pixels."),
        "pooled_std": Term("spread of state errors", DATA, "√ of the mean variance of x̂_t − x_t."),
        "pooled_rmse": Term(
            "size of state errors", DATA, "Root mean square of x̂_t − x_t over all pixels."
        ),
        "scale": Term("spread of a state", DATA, "√(α² σ̄² + σ²): how wide states are anyway."),
        "histogram": Term("histogram of state errors", COUNT, "Samples in each bin; ends open."),
        "histogram_pixel": Term("pixel", COUNT, "Flat index of a pixel that has a histogram."),
        "bin_edges": Term("edges of the bins", DATA, "Of the histogram of x̂_t − x_t."),
    },
    "spectrum": {
        "modes": Term("modes", COUNT, "How many modes a frequency band has."),
        "power_data": Term("data", SQUARE, "Power per mode of the images themselves."),
        "power_chain": Term("chain", SQUARE, "Power per mode of the chain's states."),
        "power_forward": Term("forward", SQUARE, "Power per mode of true x_t."),
        "power_expected": Term("expected", SQUARE, "α² S + σ²: power per mode of noised data."),
        "power_gaussian": Term(
            "Gaussian reference", SQUARE, "Power per mode of a perfect denoiser of Gaussian data."
        ),
        "signal_forward": Term("signal, forward", SQUARE, "(P − σ²)/α² of true x_t."),
        "signal_chain": Term("signal, chain", SQUARE, "(P − σ²)/α² of the chain's states."),
        "ratio": Term(
            "chain over forward", SHARE, "Power of the chain over that of true states; 1 is right."
        ),
        "prediction_ratio": Term(
            "prediction, chain over forward", SHARE, "The same ratio of the predicted x_0."
        ),
        "hf_channel": Term("high frequencies by channel", DECIBEL, "HF of one channel."),
        "haar": Term("Haar sub-bands", DECIBEL, "Power of the chain over the data's, at the end."),
        "haar_ratio": Term("Haar sub-band, chain over forward", SHARE, "Power ratio by level."),
    },
    "chain_errors": ERRORS,
    "normality": NORMALITY,
    "isotropy": {
        "correlation": Term(
            "correlation between pixels",
            SHARE,
            "Mean squared correlation of two pixels' errors, above chance; 0 for white errors.",
        ),
        "autocorrelation": Term(
            "correlation of neighbours", SHARE, "Of errors at neighbouring pixels along an axis."
        ),
        "bias": Term(
            "squared bias",
            SHARE,
            "Squared mean of e_t over its variance; 0 for a perfect sampler.",
        ),
        "skewness": Term("skewness", SHARE, "Pooled over pixels; 0 for a perfect sampler."),
        "whiteness": Term(
            "whiteness", SHARE, "Power of e_t per mode over its mean, by frequency; 1 if white."
        ),
    },
    "power": {
        "rate": Term("rejected", SHARE, "How often a test of n values rejects the alternative."),
        "alternative": Term("what is tested", TEXT, "The law of the simulated values."),
    },
    "rollouts": {
        "S": Term(
            "one-step error S", SQUARE, "Squared error of the x_0 predicted at once: training error"
        ),
        "A": Term("chain error A", SQUARE, "Squared error of the chain's end: generation error."),
        "U": Term("shared error U", SQUARE, "The part of the error that two chains have in common"),
        "W": Term("spread of chains W", SQUARE, "Half the squared distance of two chains."),
        "rank": Term("rank of x_0", COUNT, "How many of the chains x_0 lies above."),
        "ranks": Term("share of pixels", SHARE, "At which x_0 has this rank; uniform if perfect."),
        "ranks_direction": Term(
            "share along directions", SHARE, "The same along the data's eigen-directions."
        ),
        "depth": Term("steps from the start", COUNT, "After how many steps states are compared."),
        "depth_timestep": Term("timestep reached", "model's own time", "After these steps."),
        "state_error": Term(
            "size of state errors", DATA, "RMSE of x̂ − x against the teacher chain."
        ),
    },
    "telescope": {
        "origin": Term("origin", TEXT, "Where chains start: noise, a timestep, t + 1 or t."),
        "block": Term("block of steps", TEXT, "From one start to the next; prior is the start's."),
        "target": Term("target", "model's own time", "The level whose gap is told apart."),
        "R": Term("gap by origin", SHARE, "The variance gap of chains from an origin."),
        "R_spectrum": Term("power gap by origin", SHARE, "Relative, by frequency."),
        "R_high": Term("high frequencies by origin", DECIBEL, "At ¼ cycle per pixel and above."),
        "bracket": Term(
            "variance gap that arises in a block",
            SHARE,
            "What model and sampler do in this block, as it arrives at the target.",
        ),
        "bracket_spectrum": Term("power gap that arises in a block", SHARE, "By frequency."),
        "bracket_high": Term(
            "high frequencies that arise in a block", DECIBEL, "At ¼ cycle per pixel and above."
        ),
        "gap_spectrum": Term("power gap", SHARE, "Of chains from noise, by frequency."),
        "gap_high": Term("high frequencies", DECIBEL, "Of chains from noise, at the target."),
        "gap_data": Term(
            "variance gap from data", SHARE, "That of chains that start on noised data."
        ),
        "gap_data_spectrum": Term("power gap from data", SHARE, "By frequency."),
        "gap_data_high": Term(
            "high frequencies from data", DECIBEL, "Of chains that start on noised data."
        ),
    },
    "compare": {
        "entry": Term("entry", TEXT, "A model, with its remedies."),
        "seeds": Term("training seeds", COUNT, "How many networks an entry is the mean of."),
        "note": Term("note", TEXT, "What a difference rests on."),
        "statistic": Term("statistic", TEXT, "What is compared, at the clean end or of a chain."),
        "value": Term("value", VARIES, "The statistic of an entry, with that of its images."),
        "se": Term("standard error of the value", VARIES, "Over images."),
        "difference": Term(
            "difference from the first entry", VARIES, "Paired: same images, same noise."
        ),
        "epsilon_ratio": Term(
            "noise-norm ratio", SHARE, "Noise norm of the chain over the forward stream's."
        ),
        "state_rmse": Term("size of state errors", DATA, "RMSE of x̂_t − x_t."),
        "error_rmse": Term("size of chain errors", DATA, "RMSE of x_0 − x̂_0 of one length."),
        "gap_score": Term("variance, the network's share", SHARE, "Of the variance gap."),
        "gap_discretisation": Term("variance, the sampler's share", SHARE, "Of the variance gap."),
        "hf_score": Term("high frequencies, the network's share", DECIBEL, "Of hf."),
        "hf_discretisation": Term("high frequencies, the sampler's share", DECIBEL, "Of hf."),
    },
    "chain_length_fid": {
        "frechet": Term(
            "Fréchet distance",
            "feature units²",
            "Between samples and real images in a feature space, as the literature prints it:"
            " biased upwards. FID if the features are Inception's.",
        ),
        "frechet_corrected": Term(
            "Fréchet distance, bias-corrected", "feature units²", "By jackknife; 0 for equal laws."
        ),
        "spatial_frechet": Term(
            "spatial Fréchet distance", "feature units²", "sFID: of Inception's spatial features."
        ),
        "spatial_frechet_corrected": Term(
            "spatial Fréchet distance, bias-corrected", "feature units²", "By jackknife."
        ),
        "kid": Term("kernel distance", SHARE, "KID: unbiased, of any number of images."),
        "precision": Term("precision", SHARE, "Samples that lie among real images."),
        "recall": Term("recall", SHARE, "Real images that lie among samples."),
        "rmse": Term("reconstruction error", DATA, "RMSE of x̂_0 − x_0 from noised data."),
        "change": Term("change from the length before", "feature units²", "Paired."),
        "against_first": Term("less the first model's", "feature units²", "Paired."),
        "limit": Term("limit of small steps", "feature units²", "Bias-corrected, of the model's."),
        "discretisation": Term("the sampler's share", "feature units²", "Distance less its limit."),
        "limit_steps": Term("steps of the limit", COUNT, "The length the limit was taken from."),
        "limit_bias": Term("error of the limit", "feature units²", "Estimated, of extrapolation."),
        "deleted": Term("groups left out", COUNT, "Of the jackknife: none, one or two."),
        "iteration": Term("training iteration", COUNT, "Of a checkpoint."),
        "model": Term("model", TEXT, "What was loaded, with its remedies."),
        "sampler": Term("sampler", TEXT, "The rule that takes the chain's steps."),
        "floor_n": Term("images of the floor", COUNT, "Real images on each side of the floor."),
        "best": Term("baseline's best", "feature units²", "The least distance of the baseline."),
        "baseline_at": Term("where the baseline has it", COUNT, "Its length or iteration."),
        "candidate_at": Term("where it is reached", COUNT, "The first length or iteration."),
        "factor": Term("times sooner", SHARE, "The baseline's over the candidate's."),
    },
    "denoising_check": {
        "error": Term("one-step error", SQUARE, "Mean of (x_0 − x̂_0)² at true x_t."),
        "linear_error": Term("linear predictor's error", SQUARE, "Of the best one by pixel."),
        "ratio": Term("error over the linear predictor's", SHARE, "Above 1 it is no denoiser."),
        "middle": Term("asked here", "1 or 0", "1 where signal and noise are alike."),
    },
}

# Endings of a name: its words, and what they add. Longer ones first.
ENDINGS = {
    "_band_low": ("{}, band's lower end", "Simultaneous 95 % band over all levels."),
    "_band_high": ("{}, band's upper end", "Simultaneous 95 % band over all levels."),
    "_jackknife": ("{}, without groups of images", "The numbers behind the jackknife."),
    "_by_level": ("{}, by level", "At every recorded level."),
    "_difference": ("{}, difference from the first entry", "Paired: same images and noise."),
    "_corrected": ("{}, bias-corrected", "By jackknife."),
    "_se_total": ("standard error of {}, over images and seeds", "Images and training seeds."),
    "_se_seeds": ("standard error of {}, over seeds", "Over training seeds."),
    "_se": ("standard error of {}", "Jackknife over groups of images; × 2.13 is the half-width."),
    "_low": ("{}, lower end", "Of the 95 % interval."),
    "_high": ("{}, upper end", "Of the 95 % interval."),
    "_gaussian": ("{}, Gaussian reference", "Of a perfect denoiser of Gaussian data, same steps."),
    "_against_first": ("{}, less the first model's", "Paired."),
    "_change": ("{}, change from the length before", "Paired."),
    "_x": ("{} along x", "Neighbours in a row."),
    "_y": ("{} along y", "Neighbours in a column."),
    "_z": ("{} along z", "Neighbouring frames."),
}


# By which variable or dimension a result is known, the more special first.
MARKS = {
    "compare": "entry",
    "error_budget": "order_ratio",
    "telescope": "bracket",
    "rollouts": "S",
    "chain_errors": "nu",
    "normality": "block_rate",
    "isotropy": "correlation",
    "power": "alternative",
    "chain_length_fid": "frechet",
    "spectrum": "power_chain",
    "published_delta": "delta",
    "epsilon_norm": "norm_chain",
    "state_error": "pooled_rmse",
    "denoising_check": "linear_error",
    "variance_gap": "gap",
}


def kind_of(result: xr.Dataset) -> str | None:
    """Which of `KINDS` a dataset is; None if none."""
    return next((kind for kind, mark in MARKS.items() if mark in result.variables), None)


def term(kind: str, name: str) -> Term | None:
    """What a variable of a result is, by the result's kind (one of `KINDS`); None if unknown."""
    known = COMMON | KINDS.get(kind, {})
    if name in known:
        return known[name]
    if name.startswith("floor_"):
        found = term(kind, name.removeprefix("floor_"))
        return found and Term(f"{found.words}, of real images", found.unit, "The noise floor.")
    for ending, (words, text) in ENDINGS.items():
        if name.endswith(ending):
            found = term(kind, name.removesuffix(ending))
            if found is not None:
                return Term(words.format(found.words), found.unit, text)
    return None


def explained(kind: str) -> Callable[[Callable[P, xr.Dataset]], Callable[P, xr.Dataset]]:
    """A function that returns a dataset, whose variables then say what they are."""

    def decorate(function: Callable[P, xr.Dataset]) -> Callable[P, xr.Dataset]:
        @wraps(function)
        def with_terms(*args: P.args, **kwargs: P.kwargs) -> xr.Dataset:
            return with_words(function(*args, **kwargs), kind)

        return with_terms

    return decorate


def with_words(dataset: xr.Dataset, kind: str) -> xr.Dataset:
    """The dataset with `units`, `long_name` and `description` on every variable that has a term."""
    dataset = dataset.copy()
    for name in dataset.variables:
        found = term(kind, str(name))
        if found is not None:
            words = {"units": found.unit, "long_name": found.words, "description": found.text}
            dataset[name].attrs.update(_of_scale(words, dataset[name].attrs.get("scale")))
    return dataset


def _of_scale(words: dict[str, str], scale: str | None) -> dict[str, str]:
    """An error on the log scale is relative."""
    logarithmic = scale in ("log", "log1p")
    return words | ({"units": SHARE, "description": "On the log scale."} if logarithmic else {})


def page() -> str:
    """docs/glossary.md."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield from (
        "# Glossary",
        "",
        "Every number that a command prints, writes or returns, by its name in CSV, JSON and",
        "Python (JSON writes names in lower case). Made from `exposure_bias/glossary.py` with",
        "`python -m exposure_bias.glossary > docs/glossary.md`.",
        "",
        "A value is printed with half of its 95 % interval: −4.3 ± 0.5 %. Shares are stored as",
        "numbers (−0.043) and printed in per cent.",
        "",
        "## Endings of names",
        "",
        "| ending | meaning |",
        "|---|---|",
    )
    for ending, (words, text) in ENDINGS.items():
        yield f"| `{ending}` | {words.format('…')}. {text} |"
    yield from _table("Common to several results", COMMON)
    titles: dict[int, list[str]] = {}
    for kind, terms in KINDS.items():
        titles.setdefault(id(terms), []).append(f"`{kind}`")
    for terms in {id(t): t for t in KINDS.values()}.values():
        yield from _table(" and ".join(titles[id(terms)]), terms)


def _table(title: str, terms: dict[str, Term]) -> Iterator[str]:
    yield from ("", f"## {title}", "", "| name | in words | unit | meaning |", "|---|---|---|---|")
    for name, (words, unit, text) in terms.items():
        yield f"| `{name}` | {words} | {unit} | {text} |"


if __name__ == "__main__":
    print(page(), end="")
