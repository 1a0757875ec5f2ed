"""Properties that hold for whatever is given: a run's JSON, merged recordings, written numbers."""

import json
import math
import re
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import runs
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import exposure_bias as eb
from exposure_bias.clipping import Clipping, Convention
from exposure_bias.results.numbers import half_of, number, rounded, told
from exposure_bias.run import DataId, ModelId, Run, Spacing, Start, Stream
from exposure_bias.schedules import Level

QUICK = settings(max_examples=50, deadline=None)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
TEXT = st.text(max_size=20)
WRITTEN = re.compile(r"[+−]?[\d.]+(e[+−]?\d+)?|–")


@QUICK
@given(value=FINITE, half=st.floats().map(abs), signed=st.booleans())
def test_a_number_is_written_as_people_write_it(value: float, half: float, signed: bool) -> None:
    """No hyphen for a minus sign, no nan, no inf, and the interval only where there is one."""
    text = number(value, half, signed)
    assert "-" not in text
    assert "nan" not in text
    assert "inf" not in text
    assert (" ± " in text) == (math.isfinite(half) and half > 0)


@QUICK
@given(
    value=st.floats(-1e5, 1e5),
    digits=st.integers(-4, 3),
    share=st.floats(1, 9.9),
)
def test_a_number_can_be_read_back(value: float, digits: int, share: float) -> None:
    """To a tenth of its uncertainty, whose two digits are written."""
    half = share * 10.0**digits
    first, _, second = number(value, half).partition(" ± ")
    if first.startswith("("):
        power = int(second.partition(")e")[2].replace("−", "-"))
        first, second = first[1:], second.partition(")")[0]
    else:
        power = 0
    read, uncertain = (float(t.replace("−", "-")) * 10.0**power for t in (first, second))
    assert abs(read - value) <= 0.051 * half + 1e-5
    assert abs(uncertain - half) <= 0.051 * half + 1e-5


@QUICK
@given(value=st.floats(), digits=st.integers(1, 6))
def test_a_rounded_number(value: float, digits: int) -> None:
    assert WRITTEN.fullmatch(rounded(value, digits))


@QUICK
@given(value=FINITE, error=st.floats(allow_nan=True), unit=st.sampled_from(["", "%", "dB"]))
def test_a_variable_is_told_with_its_unit(value: float, error: float, unit: str) -> None:
    dataset = xr.Dataset({"a": value, "a_se": abs(error)})
    text = told(dataset, "a", 1, unit)
    assert text.endswith(unit)
    assert ("±" in text) == (math.isfinite(half_of(dataset, "a")) and half_of(dataset, "a") > 0)


LEVELS = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=4, unique=True)


@st.composite
def some_run(draw: st.DrawFn) -> Run:
    """A run of anything."""
    ratios = sorted(draw(LEVELS), reverse=True)
    noisy = [Level(draw(st.floats(0, 999)), 1.0, ratio) for ratio in ratios]
    plain = runs.run(images=draw(st.integers(0, 9)))
    return replace(
        plain,
        model=ModelId(draw(TEXT), draw(TEXT), draw(st.sampled_from(["epsilon", "sample"]))),
        data=DataId(draw(TEXT), draw(st.none() | st.sampled_from(["train", "test"])), images=3),
        levels=(*noisy, Level(-1.0, 1.0, 0.0)),
        spacing=draw(st.sampled_from(Spacing)),
        start=draw(st.sampled_from([Start.DATA, Start.NOISE])),
        clip=Clipping(draw(st.sampled_from(list(Convention)))),
        seed=draw(st.integers(0, 2**31)),
        streams=tuple(sorted(draw(st.sets(st.sampled_from(Stream), min_size=1)))),
    )


@QUICK
@given(run=some_run())
def test_a_run_survives_json(run: Run) -> None:
    """Whatever its texts are, and to the last bit of its levels."""
    again = Run.from_json(json.loads(json.dumps(run.to_json())))
    assert again == run
    assert not run.differences(again)
    assert again.digest == run.digest
    assert again.describe() == run.describe()


@cache
def _parts() -> list[eb.Recording]:
    """Recordings of one run, of 32 samples each."""
    draws = np.random.default_rng(0).normal(0, 0.3, (128, 1, 4, 4)).astype(np.float32)
    data = eb.load_data(draws, value_range=None)
    model = eb.oracles.GaussianOracle(np.zeros((1, 4, 4)), 0.12, eb.schedules.linear(1000))
    return [eb.record(model, data, steps=2, n=32, first=32 * k) for k in range(4)]


@settings(max_examples=10, deadline=None)
@given(order=st.permutations(range(4)), cut=st.integers(1, 3))
def test_merging_does_not_depend_on_the_order(order: list[int], cut: int) -> None:
    """Nor on what is merged first."""
    parts = _parts()
    whole = eb.merge(parts)
    mixed = [parts[k] for k in order]
    nested = eb.merge([eb.merge(mixed[:cut]), eb.merge(mixed[cut:])])
    assert nested.n == whole.n == 128
    for name, stream in whole.streams.items():
        xr.testing.assert_allclose(nested[name], stream, rtol=1e-12)
    np.testing.assert_allclose(
        eb.variance_gap(nested)["gap"], eb.variance_gap(whole)["gap"], atol=1e-12
    )


def test_samples_are_not_merged_twice() -> None:
    parts = _parts()
    with pytest.raises(eb.InputError, match="32 samples occur more than once"):
        eb.merge([parts[0], parts[1], parts[0]])
