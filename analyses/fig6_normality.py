"""Fig. 6: histograms of e_t and Shapiro–Wilk tests: is the chain error Gaussian, and is it white?

"Is e_t Gaussian?" has the null value α and not 0; its interval comes from disjoint blocks of
images, because pixels are correlated (`eb.normality`). What the test can see at 50 values is
simulated. The talk's text defines e_t by chains (`chain`), its authors' code by single predictions
(`single`); both are tested.

Writes rates.csv, power.csv, isotropy.csv and pixels.csv (the errors at three pixels).
"""

import common
import numpy as np
import pandas as pd

import exposure_bias as eb
from exposure_bias.diagnostics.normality import power

STUDY = common.Study(
    name="fig6_normality",
    claim=(
        "e_t is almost isotropic Gaussian: Shapiro–Wilk at 5 % rejects only a small minority of"
        " pixels"
    ),
    source="slide 'Gaussian Prediction Error' (Fig. 6 of arXiv 2301.11706)",
    published="50 values a test, α = 0.05, 'rejected only in a small minority of cases'",
)
DEFAULT = {
    "data": "digits",
    "model": None,
    "n": 512,
    "lengths": (300, 600, 900),
    "tests": (50, 128),
    "seed": 0,
}
SMOKE = {"n": 256, "lengths": (300, 500), "tests": (50,)}
ALPHA = 0.05
# share of images with a pixel's commonest value of x_0, beyond which e_t is tested no longer
MANY_ATOMS = 0.2
NEAR_WHITE = (
    0.1  # whiteness and correlation within this of a white error's count as almost isotropic
)
RATES = ("rate", "rate_low", "rate_high", "effective_tests", "fdr_rate")


def measure(s: common.Settings, out: common.Path) -> common.Answer:
    data, model = common.images(s), common.model(s)
    rates, shapes = [], []
    for mode in ("chain", "single"):
        errors = eb.chain_errors(model, data, s.lengths, n=s.n, mode=mode, seed=s.seed)
        for n in s.tests:
            tested = eb.normality(errors, n=n, alpha=ALPHA)
            regular = (
                tested["count"].sel(pixels="regular").drop_vars("pixels").rename("regular_pixels")
            )
            table = tested[list(RATES)].merge(regular).to_dataframe().reset_index()
            rates.append(table.assign(mode=mode, n_per_test=n, pixels=int(np.prod(data.shape))))
        white = eb.isotropy(errors)
        shapes.append(white.to_dataframe().reset_index().assign(mode=mode))
        if mode == "chain":
            common.write(pixels(errors), out / "pixels.csv")
            atoms, spread = commonest(errors["x0"].values), errors["error"].values.std((1, 2, 3, 4))
    rates = pd.concat(rates)
    common.write(rates, out / "rates.csv")
    common.write(pd.concat(shapes), out / "isotropy.csv")
    common.write(power(s.tests, ALPHA).to_dataframe().reset_index(), out / "power.csv")
    return answer(rates, pd.concat(shapes), power(s.tests, ALPHA), atoms, spread, s)


def commonest(x0: np.ndarray) -> float:
    """Share of images (N, C, H, W) with a pixel's commonest value: the median over the pixels that
    vary."""
    flat = x0.reshape(len(x0), -1)
    return float(
        np.median(
            [np.unique(v, return_counts=True)[1].max() / len(v) for v in flat.T if v.std() > 0]
        )
    )


def pixels(errors: "eb.Dataset") -> pd.DataFrame:
    """e_t at three pixels: a quarter, a half and three quarters up the order of their spread."""
    spread = errors["x0"].std("sample").values.ravel()
    order = np.argsort(spread)
    order = order[spread[order] > 0]
    chosen = order[[len(order) // 4, len(order) // 2, 3 * len(order) // 4]]
    rows = []
    for i in chosen:
        c, y, x = np.unravel_index(i, errors["x0"].shape[1:])
        here = errors["error"].isel(channel=c, y=y, x=x).to_dataframe().reset_index()
        rows.append(here[["length", "sample", "error"]].assign(pixel=f"({c}, {y}, {x})"))
    return pd.concat(rows)


def answer(
    rates: pd.DataFrame,
    shapes: pd.DataFrame,
    seen: "eb.Dataset",
    atoms: float,
    spread: np.ndarray,
    s: common.Settings,
) -> common.Answer:
    said = []
    for mode in ("chain", "single"):
        here = rates[(rates["mode"] == mode) & (rates["n_per_test"] == s.tests[0])]
        each = (f"{r.rate:.2f} [{r.rate_low:.2f}, {r.rate_high:.2f}]" for r in here.itertuples())
        said.append(f"{mode} {', '.join(each)}")
    fair = rates[(rates["mode"] == "chain") & (rates["n_per_test"] == s.tests[0])]
    white = shapes[shapes["mode"] == "chain"]
    neighbours = white.groupby("length")[["autocorrelation_x", "autocorrelation_y"]].first()
    power_laplace = float(seen["rate"].sel(n=s.tests[0], alternative="laplace"))
    text = (
        f"Shares of pixels rejected at 5 %, {s.tests[0]} values a test, at lengths"
        f" {', '.join(map(str, s.lengths))}: {'; '.join(said)}. A Gaussian would show 0.05; the"
        f" test finds a Laplace distribution with probability {power_laplace:.2f}. Neighbours in"
        f" e_t are correlated by {neighbours.min().min():.2f} to {neighbours.max().max():.2f} and"
        f" its power by band is {white['whiteness'].min():.2f} to {white['whiteness'].max():.2f}"
        " times its mean; white errors have 0 and 1. Its standard deviation is"
        f" {', '.join(f'{v:.2f}' for v in spread)}."
    )
    minority = (fair["rate_high"] < 0.5).all()
    gaussian = (fair["rate_low"] <= ALPHA).all()
    isotropic = (
        np.abs(neighbours).max().max() < NEAR_WHITE
        and np.abs(white["whiteness"] - 1).max() < NEAR_WHITE
    )
    verdict = "reproduced" if minority and gaussian and isotropic else "not reproduced"
    if not gaussian:
        text += " At some length the interval lies above 0.05: these errors are not Gaussian."
    if atoms > MANY_ATOMS:
        text += (
            f" But half of the pixels have one and the same x_0 in more than {100 * atoms:.0f} % of"
            " the images, and no chain's errors are Gaussian there: these data cannot answer it."
        )
        verdict = "not testable at this scale"
    return common.Answer(verdict, text, f"{s.data}, n = {s.n}, ddpm, seed {s.seed}")


if __name__ == "__main__":
    common.main(STUDY, measure, DEFAULT, SMOKE)
