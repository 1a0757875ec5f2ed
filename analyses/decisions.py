"""What the stored intervals decide, and how many images would decide the rest.

No network runs here.

The rules were written down before the studies of December 2026 ran. Each study's file names the
sizes that count (`EFFECTS`), and this file reads them.

A claim has parts, for example one for each number of steps. A part has a sign, and a least size
that counts: half of the published effect relative to its baseline, or 5 % where no size was
published. Of a part, a difference with its 95 % interval is

    shown      if the interval lies on the claimed side of zero and reaches the least size
    sign only  if it lies on the claimed side, but excludes the least size, or if no size applies
    opposite   if it lies on the other side (not where a change of either sign would count)
    absent     if it holds zero and excludes the least size
    open       otherwise

A distance relative to its baseline is a size only where the baseline was trained to its end, that
is where its held-out loss fell by less than 1 % in the last sixth of the training
(results/trainings-*). Otherwise no size applies.

A claim says that *all* of its parts hold. It is

    reproduced      if every part is shown
    in sign only    if every part lies on the claimed side, and at least one is not of the size
    not reproduced  if at least one part is opposite or absent
    undecided       otherwise

One part is enough to make a claim fall, so that with k parts its interval is widened to
100 − 5/k % for that (Bonferroni). That all parts hold needs no such correction. Two claims are of
another form, and the same correction is made for the outcome that one part decides: that there is
no difference (`EQUIVALENCES`) falls with one shown difference, and that *something* changes
(`CHANGES`) is reproduced by one. Of an undecided part

    F = max((3.5 se / least)², (2.13 se / distance)²),   se = half-width / 2.13,

times as many images, and training seeds where there are any, would decide it with a probability of
about 90 % (t with 15 degrees of freedom; distance: from the estimate to zero or to the least size,
whichever is farther)."""

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from math import ceil, inf, log10
from typing import Any

import common
import few_step_ddim
import pandas as pd
import table2_regularisers
import table3_steps
import table4_speedup
import table7_objectives
from scipy.special import stdtrit

PLANNED = 3.5  # t at 97.5 % and at 90 %
MARGIN = 0.05
DECIBEL_MARGIN = 10 * log10(1 + MARGIN)
TRAINED = 0.01  # how far a held-out loss may still fall in the last sixth of a training
HOLDS, FALLS = {"shown", "sign only"}, {"opposite", "absent"}
# What was changed after a first look at the results. A reader should count such a study as one
# that was looked at twice.
AFTER_LOOKING = {
    "table3_steps-fashion14": (
        "Seeds were raised from three to six and images from 512 to 2,048 after a first look."
    ),
    "few_step_ddim-fashion14": (
        "Iterations were raised from 1,500 to 6,000 and images from 512 to 2,048 after a first"
        " look."
    ),
    "ip_without_training-fashion14": (
        "Iterations were raised from 1,500 to 6,000 and images from 512 to 1,024 after a first"
        " look."
    ),
}


@dataclass(frozen=True)
class Difference:
    """One part of a claim: an interval, and the effect that was claimed.

    least: the smallest effect that counts, with the claimed sign, in the units of the value; ±inf
    where only the sign can be judged. images, seeds: what the interval was made from; seeds is 0
    where nothing was trained. either: a change of either sign counts.
    """

    what: str
    value: float
    low: float
    high: float
    least: float
    images: int
    seeds: int = 0
    either: bool = False

    @property
    def outcome(self) -> str:
        low, high, least = self.low, self.high, abs(self.least)
        if self.either:
            inside, outside = max(-low, high) < least, max(low, -high) > least
            return "absent" if inside else "shown" if outside else "open"
        if self.least < 0:
            low, high = -high, -low
        if low > 0:
            return "shown" if high >= least else "sign only"
        if high < 0:
            return "opposite"
        return "absent" if least < inf and high < least else "open"

    def widened(self, parts: int) -> "Difference":
        """The same with an interval of 100 − 5/parts %.

        Its half-width grows as a t quantile does with the fewest degrees of freedom in it: those of
        the training seeds, where there are any, else those of the groups of images.
        """
        freedom = self.seeds - 1 if self.seeds > 1 else common.GROUPS - 1
        growth = stdtrit(freedom, 1 - 0.025 / parts) / stdtrit(freedom, 0.975)
        low, high = (self.value + growth * (end - self.value) for end in (self.low, self.high))
        return replace(self, low=low, high=high)

    @property
    def factor(self) -> float:
        """How many times the images and seeds would decide it; 1 where they have."""
        if self.outcome != "open":
            return 1.0
        error = (self.high - self.low) / 2 / common.T_IMAGES
        least = abs(self.least)
        signed = abs(self.value) if self.either else self.value * (1 if self.least > 0 else -1)
        if least == inf:
            return (common.T_IMAGES * error / abs(signed)) ** 2 if signed else inf
        distance = abs(least - signed) if self.either else max(abs(signed), abs(least - signed))
        return max((PLANNED * error / least) ** 2, (common.T_IMAGES * error / distance) ** 2, 1.0)

    def __str__(self) -> str:
        if self.outcome != "open":
            return f"{self.what}: {self.outcome}"
        if self.factor > 1e6:
            return f"{self.what}: open, no number of images would decide"
        images = f"{rounded(self.images * self.factor):,} images"
        seeds = f" and {ceil(self.seeds * self.factor)} seeds" if self.seeds else ""
        return f"{self.what}: open, about {images}{seeds} would decide"


def rounded(n: float) -> int:
    """Two digits, upwards."""
    unit = 10 ** max(0, int(log10(n)) - 1)
    return ceil(n / unit) * unit


def verdict(differences: Iterable[Difference]) -> str:
    """What a claim's parts decide together, by the rules of the module's docstring."""
    parts = list(differences)
    if any(part.widened(len(parts)).outcome in FALLS for part in parts):
        return "not reproduced"
    said = {part.outcome for part in parts}
    if said == {"shown"}:
        return "reproduced"
    return "in sign only" if said <= HOLDS else "undecided"


def relative(
    study: str,
    effects: dict[tuple[str, int], float],
    baseline: str = "DDPM",
    rows: Callable[[pd.DataFrame], Any] = lambda table: table["seeds"] > 0,
) -> list[Difference]:
    """Differences of a study's table.csv from its baseline.

    effects: claimed ones relative to the baseline, by (family, length). Half of one is the least
    size that counts, where the baseline was trained to its end; otherwise only its sign is judged.
    """
    table = read(study, "table.csv")
    table = table[rows(table)]
    n, sized = settings(study)["n"], trained_to_its_end(study)
    found = []
    for (family, length), effect in effects.items():
        here = table[table["length"] == length].set_index(["family", "of"])
        row, base = here.loc[(family, "difference")], here.loc[(baseline, "value")]["value"]
        least = effect / 2 * base if sized else inf if effect > 0 else -inf
        name = f"{family} at {length}"
        ends = (row["value"], row["low"], row["high"])
        found.append(Difference(name, *ends, least, n, int(row["seeds"])))
    return found


def trained_to_its_end(study: str) -> bool:
    """Whether the networks of a study were trained until their held-out loss was flat."""
    chosen = settings(study)
    path = common.RESULTS / f"trainings-{common.Path(chosen['data']).stem}" / "table.csv"
    if "iterations" not in chosen or not path.exists():
        return False
    table = pd.read_csv(path)
    same = table[table["iterations"] == chosen["iterations"]]
    return bool(len(same) and same["flattening"].max() < TRAINED)


def settings(study: str) -> dict[str, Any]:
    """Those that a study was run with."""
    run: dict[str, Any] = json.loads((common.RESULTS / study / "run.json").read_text())
    return run["settings"]


def read(study: str, name: str) -> pd.DataFrame:
    return pd.read_csv(common.RESULTS / study / name)


def table2() -> list[Difference]:
    return relative("table2_regularisers", table2_regularisers.EFFECTS)


def table3() -> list[Difference]:
    return relative("table3_steps", table3_steps.EFFECTS)


def table7() -> list[Difference]:
    return relative("table7_objectives", table7_objectives.EFFECTS)


def table4() -> list[Difference]:
    """The second half of the claim alone, at the end of training."""
    return relative(
        "table4_speedup", table4_speedup.EFFECTS, rows=lambda t: t["iterations"] == 1500
    )


def few_steps(study: str = "few_step_ddim") -> list[Difference]:
    return relative(study, few_step_ddim.EFFECTS)


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


# Half of the published rise, relative to the least distance, by sampler.
RISES = {"ddim:0": 0.1, "ddpm:fixed_small": 0.05}


def chain_length() -> list[Difference]:
    """The longest chain less the shorter ones, beyond the exact denoiser.

    Published are rises for DDIM and for the smaller variance. They count from half of their size.
    """
    rise, curve = read("chain_length", "rise.csv"), read("chain_length", "curve.csv")
    found = []
    rise = rise[(rise["model"] == "difference") & (rise["length"] >= 73)]
    for row in rise[rise["sampler"].isin(RISES)].itertuples():
        here = curve[(curve["sampler"] == row.sampler) & (curve["model"] == "digits")]
        size = RISES[row.sampler]
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
    "few_step_ddim-fashion14": lambda: few_steps("few_step_ddim-fashion14"),
}
# The claim is that there is no difference: it is reproduced where every one is absent.
EQUIVALENCES = ("ip_without_training", "ip_without_training-fashion14")
# The claim is that something changes: it is reproduced where one part is shown.
CHANGES = ("isotropy_before_after",)


def decided(study: str) -> tuple[str, str] | None:
    """(verdict, what decides it or would) of a study's stored intervals.

    None where they have no part in it."""
    if study in EQUIVALENCES:
        found = equivalence(study)
        return same(found), told(found, study)
    if study not in DECISIONS:
        return None
    found = DECISIONS[study]()
    rule = changed if study in CHANGES else verdict
    return rule(found), told(found, study)


def same(differences: Iterable[Difference]) -> str:
    """What differences decide of a claim that there is none."""
    parts = list(differences)
    if any(part.widened(len(parts)).outcome == "shown" for part in parts):
        return "not reproduced"
    return "reproduced" if {part.outcome for part in parts} == {"absent"} else "undecided"


def changed(differences: Iterable[Difference]) -> str:
    """What differences decide of a claim that something changes."""
    claims_that_nothing_does = same(differences)
    opposite = {"reproduced": "not reproduced", "not reproduced": "reproduced"}
    return opposite.get(claims_that_nothing_does, "undecided")


def told(found: list[Difference], study: str = "") -> str:
    """The outcomes in sentences, and what the easiest and the hardest of the open ones need."""
    counts = [
        f"{sum(one.outcome == kind for one in found)} {kind}"
        for kind in ("shown", "sign only", "opposite", "absent", "open")
        if any(one.outcome == kind for one in found)
    ]
    text = f"Of {len(found)} intervals {', '.join(counts)}."
    if any(abs(one.least) == inf for one in found):
        text += " Only signs are judged, because these networks were not trained to their end."
    still = sorted((one for one in found if one.outcome == "open"), key=lambda one: one.factor)
    for place, one in {"easiest": still[:1], "hardest": still[1:][-1:]}.items():
        text += f" The {place}: {one[0]}." if one else ""
    return f"{text} {AFTER_LOOKING[study]}" if study in AFTER_LOOKING else text


def table() -> pd.DataFrame:
    """Every part of every claim: its interval, the least size that counts, and its outcome."""
    rows = []
    for study in [*DECISIONS, *EQUIVALENCES]:
        parts = equivalence(study) if study in EQUIVALENCES else DECISIONS[study]()
        rule = same if study in EQUIVALENCES else changed if study in CHANGES else verdict
        said = {"study": study, "verdict": rule(parts)}
        rows += [said | asdict(part) | {"outcome": part.outcome} for part in parts]
    return pd.DataFrame(rows)


def main() -> None:
    print(table().to_string(index=False))


if __name__ == "__main__":
    main()
