"""What the stored intervals decide, and where they do not, how much would: no network runs here.

A claim has a sign and often a size. A difference, with its 95 % interval, is

    shown       if the interval lies on the claimed side of zero
    opposite    if it lies on the other side (not where a change of either sign would count)
    too small   if it excludes, on the claimed side, the least effect that would count: half of the
                published one relative to its baseline, or 5 % where no size was published
    open        otherwise

A claim is *reproduced* where all of its differences are shown and *not reproduced* where each is
opposite or too small (all at once, so that their number needs no correction); otherwise it is
*undecided*, and

    F = max((3.5 se / least)², (2.13 se / distance)²),   se = half-width / 2.13,

times as many images, and training seeds where there are any, would decide it at about 90 % power
(t with 15 degrees of freedom; distance: from the estimate to zero or to the least effect,
whichever is farther). It is the rule of `eb.error_budget`'s needed_n, with intervals of 95 % on
both sides."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import ceil, log10
from typing import Any

import common
import pandas as pd
from scipy.special import stdtrit

PLANNED = 3.5  # t at 97.5 % and at 90 %
MARGIN = 0.05
DECIBEL_MARGIN = 10 * log10(1 + MARGIN)


@dataclass(frozen=True)
class Difference:
    """One interval and the effect that was claimed.

    least: the smallest effect that counts, with the claimed sign; in the units of the value.
    images, seeds: what the interval was made from; seeds is 0 where nothing was trained.
    """

    what: str
    value: float
    low: float
    high: float
    least: float
    images: int
    seeds: int = 0
    either: bool = False  # a change of either sign counts, and is shown from `least` on

    @property
    def outcome(self) -> str:
        low, high, least = self.low, self.high, abs(self.least)
        if self.either:
            inside, outside = max(-low, high) < least, max(low, -high) > least
            return "too small" if inside else "shown" if outside else "open"
        if self.least < 0:
            low, high = -high, -low
        if low > 0:
            return "shown"
        if high < 0:
            return "opposite"
        return "too small" if high < least else "open"

    @property
    def factor(self) -> float:
        """How many times the images and seeds would decide it; 1 where they have."""
        if self.outcome != "open":
            return 1.0
        error = (self.high - self.low) / 2 / common.T_IMAGES
        least = abs(self.least)
        signed = abs(self.value) if self.either else self.value * (1 if self.least > 0 else -1)
        distance = abs(least - signed) if self.either else max(abs(signed), abs(least - signed))
        return max((PLANNED * error / least) ** 2, (common.T_IMAGES * error / distance) ** 2, 1.0)

    def __str__(self) -> str:
        if self.outcome != "open":
            return f"{self.what}: {self.outcome}"
        images = f"{rounded(self.images * self.factor):,} images"
        seeds = f" and {ceil(self.seeds * self.factor)} seeds" if self.seeds else ""
        return f"{self.what}: open, about {images}{seeds} would decide"


def rounded(n: float) -> int:
    """Two digits, upwards."""
    unit = 10 ** max(0, int(log10(n)) - 1)
    return ceil(n / unit) * unit


def verdict(differences: Iterable[Difference]) -> str:
    said = {one.outcome for one in differences}
    if said == {"shown"}:
        return "reproduced"
    return "not reproduced" if said <= {"opposite", "too small"} else "undecided"


def relative(
    study: str,
    published: dict[tuple[str, int], float],
    baseline: str = "DDPM",
    rows: Callable[[pd.DataFrame], Any] = lambda table: table["seeds"] > 0,
) -> list[Difference]:
    """Differences of a study's table.csv from its baseline, against published relative effects by
    (family, length)."""
    table = read(study, "table.csv")
    table = table[rows(table)]
    n = settings(study)["n"]
    found = []
    for (family, length), effect in published.items():
        here = table[table["length"] == length].set_index(["family", "of"])
        row, base = here.loc[(family, "difference")], here.loc[(baseline, "value")]["value"]
        least = effect / 2 * base
        name = f"{family} at {length}"
        ends = (row["value"], row["low"], row["high"])
        found.append(Difference(name, *ends, least, n, int(row["seeds"])))
    return found


def settings(study: str) -> dict[str, Any]:
    """Those that a study was run with."""
    run: dict[str, Any] = json.loads((common.RESULTS / study / "run.json").read_text())
    return run["settings"]


def read(study: str, name: str) -> pd.DataFrame:
    return pd.read_csv(common.RESULTS / study / name)


# Published FIDs relative to the baseline's, figures/reference/published.csv.
TABLE2 = {"GP": 2.80 / 2.99 - 1, "WD": 2.82 / 2.99 - 1, "IP": 2.76 / 2.99 - 1}
IP = {80: 2.93 / 3.63 - 1, 100: 2.70 / 3.37 - 1, 300: 2.67 / 2.95 - 1}
DDPM_Y = {80: 4.24 / 3.63 - 1, 100: 3.90 / 3.37 - 1, 300: 3.21 / 2.95 - 1}
FEW = {5: 50.58 / 28.98 - 1, 10: 20.95 / 12.11 - 1, 50: 2.86 / 4.45 - 1}


def table2() -> list[Difference]:
    return relative(
        "table2_regularisers", {(k, n): v for k, v in TABLE2.items() for n in (100, 300)}
    )


def table3() -> list[Difference]:
    return relative("table3_steps", {("IP", n): v for n, v in IP.items()})


def table7() -> list[Difference]:
    effects = {("DDPM-y", n): v for n, v in DDPM_Y.items()}
    return relative("table7_objectives", effects | {("IP", n): v for n, v in IP.items()})


def table4() -> list[Difference]:
    """The second half of the claim alone, at the end of training: what is published for 100
    steps."""
    effects = {("IP 0.1", 100): IP[100]}
    return relative("table4_speedup", effects, rows=lambda t: t["iterations"] == 1500)


def few_steps() -> list[Difference]:
    return relative("few_step_ddim", {("IP", n): v for n, v in FEW.items()})


def high_frequencies() -> list[Difference]:
    table = read("high_frequencies", "hf.csv")
    table = table[(table["family"] == "IP") & (table["of"] == "difference")]
    return [
        Difference(
            f"IP at {r.length} (dB)", r.value, r.low, r.high, DECIBEL_MARGIN, 512, int(r.seeds)
        )
        for r in table.itertuples()
    ]


def accumulation() -> list[Difference]:
    """U − S, relative to S, where a chain depends on the network; intervals over all starts
    together (Bonferroni)."""
    table = read("one_step_all_steps", "rollouts.csv")
    table = table[(table["model"] == "digits") & (table["bounded"] == 1)]
    quantile = stdtrit(common.GROUPS - 1, 1 - 0.025 / len(table))
    found = []
    for row in table.itertuples():
        value, half = row.U_minus_S / row.S, quantile * row.U_minus_S_se / row.S
        what = f"U − S over S from t = {row.timestep:.0f}"
        found.append(Difference(what, value, value - half, value + half, MARGIN, 512))
    return found


def chain_length() -> list[Difference]:
    """The longest chain less the shorter ones, beyond the exact denoiser; a rise counts from half
    of the published one: a tenth of the plug-in distance for DDIM, a twentieth for the rest."""
    rise, curve = read("chain_length", "rise.csv"), read("chain_length", "curve.csv")
    found = []
    for row in rise[(rise["model"] == "difference") & (rise["length"] >= 73)].itertuples():
        here = curve[(curve["sampler"] == row.sampler) & (curve["model"] == "digits")]
        size = 0.1 if row.sampler in ("ddim:0", "heun") else 0.05
        least = size * here["frechet"].min()
        what = f"{row.sampler} after {row.length}"
        found.append(Difference(what, row.value, row.low, row.high, least, 512))
    return found


def isotropy() -> list[Difference]:
    """Any change by 5 % of DDPM's value."""
    table = read("isotropy_before_after", "table.csv")
    table = table[table["pair"] == "trained here"].set_index(["measure", "length", "of"])
    found = []
    for measure, length, of in table.index:
        if of != "difference":
            continue
        row, base = table.loc[(measure, length, of)], table.loc[(measure, length, "DDPM")]["value"]
        ends = (row["value"], row["low"], row["high"])
        what = f"{measure} at {length}"
        least, seeds = MARGIN * abs(base), int(row["seeds"])
        found.append(Difference(what, *ends, least, 512, seeds, either=True))
    return found


def equivalence(study: str) -> list[Difference]:
    """IP without training less trained IP, against half of what tells DDPM from trained IP: the
    slopes by level and band, and the samples' high frequencies against 5 %."""
    slopes, samples = (read(study, f"{k}.csv") for k in ("slopes", "samples"))
    n = settings(study)["n"]
    slopes = slopes[slopes["of"] == "difference"].set_index(["family", "timestep", "band_from"])
    found = []
    for timestep, band in slopes.loc["DDPM"].index:
        row = slopes.loc[("IP without training", timestep, band)]
        least = abs(slopes.loc[("DDPM", timestep, band), "value"]) / 2
        what = f"slope at t = {timestep}, f ≥ {band:g}"
        ends, seeds = (row["value"], row["low"], row["high"]), int(row["seeds"])
        found.append(Difference(what, *ends, least, n, seeds, either=True))
    row = samples[(samples["measure"] == "hf") & (samples["of"] == "difference")]
    row = row.set_index("family").loc["IP without training"]
    ends, seeds = (row["value"], row["low"], row["high"]), int(row["seeds"])
    found.append(Difference("hf (dB)", *ends, DECIBEL_MARGIN, n, seeds, either=True))
    return found


def on_clothes(
    study: str, signs: dict[str, int], data: str = "fashion14"
) -> Callable[[], list[Difference]]:
    """A table of chains of 10 and 30 steps, of which no size was published: 5 % counts."""
    effects = {(k, n): 2 * MARGIN * sign for k, sign in signs.items() for n in (10, 30)}
    return lambda: relative(f"{study}-{data}", effects)


def few_steps_on_clothes() -> list[Difference]:
    return relative("few_step_ddim-fashion14", {("IP", n): v for n, v in FEW.items()})


DECISIONS: dict[str, Callable[[], list[Difference]]] = {
    "one_step_all_steps": accumulation,
    "chain_length": chain_length,
    "table2_regularisers": table2,
    "table3_steps": table3,
    "table4_speedup": table4,
    "table7_objectives": table7,
    "high_frequencies": high_frequencies,
    "isotropy_before_after": isotropy,
    "few_step_ddim": few_steps,
    "table2_regularisers-fashion14": on_clothes(
        "table2_regularisers", {"GP": -1, "WD": -1, "IP": -1}
    ),
    "table3_steps-fashion14": on_clothes("table3_steps", {"IP": -1}),
    "table7_objectives-fashion14": on_clothes("table7_objectives", {"DDPM-y": 1, "IP": -1}),
    "table3_steps-fashion14-6000": on_clothes("table3_steps", {"IP": -1}, "fashion14-6000"),
    "few_step_ddim-fashion14": few_steps_on_clothes,
}
# The claim is that there is no difference: it is reproduced where every one is too small.
EQUIVALENCES = ("ip_without_training", "ip_without_training-fashion14")


def decided(study: str) -> tuple[str, str] | None:
    """(verdict, what decides it or would) of a study's stored intervals; None where they have no
    part in it."""
    if study in EQUIVALENCES:
        found = equivalence(study)
        said = {one.outcome for one in found}
        both = {frozenset({"too small"}): "reproduced", frozenset({"shown"}): "not reproduced"}
        return both.get(frozenset(said), "undecided"), told(found)
    if study not in DECISIONS:
        return None
    found = DECISIONS[study]()
    return verdict(found), told(found)


def told(found: list[Difference]) -> str:
    """The outcomes in a sentence, and what the easiest and the hardest of the open ones need."""
    counts = [
        f"{sum(one.outcome == kind for one in found)} {kind}"
        for kind in ("shown", "opposite", "too small", "open")
        if any(one.outcome == kind for one in found)
    ]
    text = f"Of {len(found)} intervals {', '.join(counts)}."
    still = sorted((one for one in found if one.outcome == "open"), key=lambda one: one.factor)
    for place, one in {"easiest": still[:1], "hardest": still[1:][-1:]}.items():
        text += f" The {place}: {one[0]}." if one else ""
    return text


def main() -> None:
    for study in [*DECISIONS, *EQUIVALENCES]:
        print(f"{study}: {': '.join(decided(study) or ())}")
        for one in DECISIONS[study]() if study in DECISIONS else equivalence(study):
            print(f"    {one} [{one.low:.3g}, {one.high:.3g}], least {one.least:.3g}")


if __name__ == "__main__":
    main()
