"""Two saved runs compared without a network; results in long form; what a notebook shows."""

from dataclasses import replace

import numpy as np
import pytest

import exposure_bias as eb

SHAPE = (1, 4, 4)
SCHEDULE = eb.schedules.linear(1000)


def recorded(variance: float = 0.09, seed: int = 0, n: int = 256, steps: int = 4) -> eb.Recording:
    draws = np.random.default_rng(0).normal(0, 0.3, (256, *SHAPE)).astype(np.float32)
    model = eb.oracles.GaussianOracle(np.zeros(SHAPE), variance, SCHEDULE)
    model.name = f"gaussian-{variance:g}"
    return eb.record(model, eb.load_data(draws, value_range=None), steps=steps, n=n, seed=seed)


@pytest.fixture(scope="module")
def first() -> eb.Recording:
    return recorded()


def test_the_difference_is_that_of_the_diagnostics(first: eb.Recording) -> None:
    second = recorded(0.12)
    compared = eb.compare_recordings(first, second)
    gaps = [eb.variance_gap(one)["gap"].values for one in (first, second)]
    np.testing.assert_allclose(compared["gap_difference"], gaps[1] - gaps[0], atol=1e-12)
    np.testing.assert_allclose(compared["gap"], gaps)
    high = [float(eb.spectrum(one)["hf"]) for one in (first, second)]
    np.testing.assert_allclose(compared["hf"], high)
    np.testing.assert_allclose(compared["hf_difference"], high[1] - high[0], atol=1e-12)
    assert list(compared["entry"].values) == ["gaussian-0.09", "gaussian-0.12"]
    assert compared.attrs["paired"] == "images and noise"
    alone = eb.variance_gap(first)["gap_se"].values[-2]
    assert float(compared["gap_difference_se"][-2]) < 0.8 * float(alone)
    assert compared.attrs["answer"].startswith("The variance gap of gaussian-0.12 is ")


def test_other_noise_is_less_certain(first: eb.Recording) -> None:
    other = eb.compare_recordings(first, recorded(0.12, seed=1))
    assert other.attrs["paired"] == "images"
    same = eb.compare_recordings(first, recorded(0.12))
    assert float(other["gap_difference_se"][-2]) > 1.5 * float(same["gap_difference_se"][-2])
    fewer = eb.compare_recordings(first, recorded(0.12, n=255))
    assert fewer.attrs["paired"] == "nothing"


def test_a_run_does_not_differ_from_itself(first: eb.Recording) -> None:
    compared = eb.compare_recordings(first, first)
    assert not compared["gap_difference"].any()
    assert not compared["power_difference"].any()
    assert list(compared["entry"].values) == ["the first run", "the second run"]


def test_what_cannot_be_compared(first: eb.Recording) -> None:
    other = replace(first.run, data=replace(first.run.data, hash="0" * 16, name="others"))
    with pytest.raises(eb.InputError, match="of different data, array and others"):
        eb.compare_recordings(first, replace(first, run=other))
    with pytest.raises(eb.InputError, match="at different levels, of 4 and 3 steps"):
        eb.compare_recordings(first, recorded(steps=3))
    with pytest.raises(eb.InputError, match="takes a Recording as second, got 3"):
        eb.compare_recordings(first, 3)  # type: ignore[arg-type]


def test_long_form(first: eb.Recording) -> None:
    gaps = eb.variance_gap(first)
    frame = eb.tidy(gaps, ["gap", "gap_gaussian"])
    own = ["variable", "value", "se", "low", "high"]
    assert list(frame.columns) == ["step", "timestep", "alpha", "sigma", *own]
    assert len(frame) == 2 * gaps.sizes["step"]
    mine = frame[frame["variable"] == "gap"]
    np.testing.assert_array_equal(mine["value"], gaps["gap"])
    np.testing.assert_array_equal(mine["low"], gaps["gap_low"])
    assert frame[frame["variable"] == "gap_gaussian"]["se"].isna().all()
    whole = eb.tidy(eb.spectrum(first))
    assert not [v for v in whole["variable"].unique() if v.endswith(("_se", "_low", "_high"))]
    assert {"frequency", "band", "step"} <= set(whole)
    assert (whole["variable"] == "hf").sum() == 1
    with pytest.raises(eb.InputError, match="no numbers gapp: it has gap, "):
        eb.tidy(gaps, ["gapp"])
    with pytest.raises(eb.InputError, match="give variance_gap"):
        eb.tidy(first)  # type: ignore[arg-type]


def test_what_a_notebook_shows(first: eb.Recording) -> None:
    page = first._repr_html_()
    assert "gaussian-0.09" in page
    assert "chain stream" in page
    assert "1×8×8" in eb.load_model("digits")._repr_html_()
    data = eb.load_data("digits")._repr_html_()
    assert "<td style='text-align:left'>512</td>" in data
    strange = eb.load_data(np.zeros((4, *SHAPE), np.float32), value_range=None)
    assert "<script" not in replace(strange, name="<script>")._repr_html_()
