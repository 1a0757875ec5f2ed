"""docs/extending.md: every snippet runs as it stands, one after another, and does what the page
says."""

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import exposure_bias as eb

PAGE = (Path(__file__).parents[1] / "docs" / "extending.md").read_text()


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Everything that the snippets define."""
    torch.manual_seed(0)
    found: dict[str, Any] = {"__name__": "page"}
    place = os.getcwd()
    os.chdir(tmp_path_factory.mktemp("page"))  # some of them write files
    try:
        for snippet in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
            exec(snippet, found)
    finally:
        os.chdir(place)
    return found


def test_the_sampler_has_its_own_reference(names: dict[str, Any]) -> None:
    gaps = names["gaps"]
    plain = eb.variance_gap(eb.record("digits", names["data"], sampler="ddim", steps=10, n=256))
    assert not np.allclose(gaps["gap_gaussian"][1:], plain["gap_gaussian"][1:], atol=1e-3)
    levels = eb.schedules.linear().levels(10)
    theirs, ours = names["Churned"](0.0).transition(levels), eb.samplers.DDIM(0).transition(levels)
    assert theirs is not None
    for one, other in zip(theirs, ours, strict=True):
        assert one.state == pytest.approx(other.state)
        assert one.predictions == pytest.approx(other.predictions)


def test_the_budget_of_the_multistep_sampler_is_split(names: dict[str, Any]) -> None:
    gap = names["budget"].sel(statistic="gap")
    parts = gap["discretisation"] + gap["score"] + gap["initialisation"]
    assert float(parts) == pytest.approx(float(gap["total"]))
    assert names["budget"].attrs["limit"].startswith("ODE")


def test_the_statistic_has_an_error_bar(names: dict[str, Any]) -> None:
    found = names["kurtosis"](
        eb.record("digits", names["data"], steps=4, n=256, statistics=[names["FourthMoment"]])
    )
    # Noise is Gaussian: its fourth moment is three times the square of its second.
    assert abs(found.value[0] - 3) < 5 * found.error[0]
    assert np.isfinite(found.error).all()


def test_the_remedy_narrows_the_samples(names: dict[str, Any]) -> None:
    assert float(names["compared"]["gap_difference"][1, -1]) < 0


def test_an_untrained_network_gets_no_verdict(names: dict[str, Any]) -> None:
    assert names["my_data"]().shape == names["my_model"]().shape
    assert eb.denoising_check(names["rec"]).attrs["passes"] == "no"
