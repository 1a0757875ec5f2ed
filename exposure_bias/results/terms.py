"""What a variable of a result is called, its unit, its meaning and the value that is right.

A name is looked up in its result's own words, then among the common ones. A name such as
`gap_gaussian_se` is `gap` with the endings `_gaussian` and `_se`, each of which has its words. The
page docs/glossary.md is made from all of it:

    python -m exposure_bias.results.glossary > docs/glossary.md"""

from collections.abc import Mapping
from typing import Any, NamedTuple

DATA, SQUARE, SHARE, DECIBELS = "data units", "data units²", "1", "dB"
COUNT, TEXT, VARIES = "count", "text", "1, or dB for hf and bands"


class Term(NamedTuple):
    """What a variable is: its name in words, its unit, a sentence or two, and its right value.

    right: what a perfect model with very many steps shows; None where no value is right.
    """

    words: str
    unit: str
    text: str
    right: float | None = None


# Coordinates, and what several results share.
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


def term_in(variables: Mapping[str, Term], name: str) -> Term | None:
    """Say what a variable is, by its kind's words, the common ones and the endings of names."""
    found = variables.get(name) or COMMON.get(name)
    if found is not None:
        return found
    if name.startswith("floor_"):
        found = term_in(variables, name.removeprefix("floor_"))
        return found and Term(f"{found.words}, of real images", found.unit, "The noise floor.")
    for ending, (words, text) in ENDINGS.items():
        if name.endswith(ending):
            found = term_in(variables, name.removesuffix(ending))
            if found is not None:
                return Term(words.format(found.words), found.unit, text)
    return None


def attributes_of(term: Term, scale: str | None = None) -> dict[str, Any]:
    """Return a term as attributes of a variable, whose error may live on a log scale."""
    said: dict[str, Any] = {
        "units": term.unit,
        "long_name": term.words,
        "description": term.text,
    }
    if term.right is not None:
        said["right"] = float(term.right)
    logarithmic = scale in ("log", "log1p")
    return said | ({"units": SHARE, "description": "On the log scale."} if logarithmic else {})
