"""Figures: nothing cropped, nothing hidden, drawn where they are asked to be; data, not pixels."""

import io
from collections.abc import Callable
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure

import exposure_bias as eb
from exposure_bias import plots

STATES = {
    "vector": (5,),
    "signal": (2, 8),
    "image": (1, 4, 4),
    "colours": (3, 4, 4),
    "video": (1, 5, 4, 4),
}


def recording(shape: tuple[int, ...] = (1, 4, 4), n: int = 256, steps: int = 4) -> Any:
    x = np.random.default_rng(0).normal(0, 0.3, (n, *shape)).astype(np.float32)
    oracle = eb.oracles.GaussianOracle(np.zeros(shape), 0.09, eb.schedules.linear(1000))
    data = eb.load_data(x, value_range=None)
    return eb.record(oracle, data, steps=steps, n=n)


@pytest.fixture(scope="module")
def rec() -> Any:
    return recording()


@pytest.fixture(autouse=True)
def closed() -> Any:
    yield
    plt.close("all")


DRAWN: dict[str, tuple[Callable[[Any], Any], Callable[..., Figure], int]] = {
    "gap": (eb.variance_gap, plots.variance_gap, 2),
    "spectrum": (eb.spectrum, plots.spectrum, 2),
    "delta": (eb.published_delta, plots.published_delta, 2),
    "norms": (eb.epsilon_norm, plots.epsilon_norm, 3),
    "state": (eb.state_error, plots.state_error, 2),
}


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize("column", ["single", "double"])
def test_nothing_is_cropped_and_no_legend_hides_a_curve(rec: Any, name: str, column: str) -> None:
    diagnostic, draw, panels = DRAWN[name]
    figure = draw(diagnostic(rec), column=column)
    assert figure.get_figwidth() == pytest.approx(3.3 if column == "single" else 6.6)
    figure.canvas.draw()
    whole = figure.bbox
    assert len(figure.axes) >= panels
    for axis in figure.axes:
        box = axis.get_tightbbox()
        assert box is not None
        assert whole.x0 - 2 <= box.x0
        assert box.x1 <= whole.x1 + 2
        assert whole.y0 - 2 <= box.y0
        assert box.y1 <= whole.y1 + 2
        legend = axis.get_legend()
        if legend is not None:
            assert legend.get_window_extent().y0 >= axis.get_window_extent().y1 - 1


def test_in_somebody_elses_figure(rec: Any) -> None:
    own, axes = plt.subplots(1, 2)
    before = plt.get_fignums()
    assert plots.variance_gap(eb.variance_gap(rec), axes=axes) is own
    assert plt.get_fignums() == before
    gap = eb.variance_gap(rec)["gap"].values
    np.testing.assert_allclose(axes[0].lines[1].get_ydata(), gap)
    with pytest.raises(eb.InputError, match="1 axes were given, but 2 panels are drawn"):
        plots.variance_gap(eb.variance_gap(rec), axes=axes[0])
    with pytest.raises(eb.InputError, match="column is 'wide': allowed are single, double"):
        plots.variance_gap(eb.variance_gap(rec), column="wide")


def test_some_panels_in_somebody_elses_axes(rec: Any) -> None:
    """One Axes takes the first panel, a dict those that it names; nothing else is shown."""
    gap, (own, (left, right)) = eb.variance_gap(rec), plt.subplots(1, 2)
    before = plt.get_fignums()
    assert plots.variance_gap(gap, ax=left) is own
    np.testing.assert_allclose(left.lines[1].get_ydata(), gap["gap"])
    assert not right.lines
    left.clear()
    plots.variance_gap(gap, ax={"direction": right})
    assert right.lines
    assert not left.lines
    assert plt.get_fignums() == before
    with pytest.raises(eb.InputError, match="no panel 'across': allowed are along, direction"):
        plots.variance_gap(gap, ax={"across": right})
    with pytest.raises(eb.InputError, match="ax is for some of the panels, axes for all"):
        plots.variance_gap(gap, ax=left, axes=[left, right])


def test_a_notebook_shows_a_figure_once(rec: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plt, "get_backend", lambda: "module://matplotlib_inline.backend_inline")
    before = plt.get_fignums()
    assert len(plots.variance_gap(eb.variance_gap(rec)).axes) == 2
    assert plt.get_fignums() == before


def test_colours_do_not_depend_on_the_users_style(rec: Any) -> None:
    with plt.rc_context({"axes.prop_cycle": plt.cycler(color=["red"])}):
        _, axis = plt.subplots()
        plots.variance_gap(eb.variance_gap(rec), ax=axis)
    colours = [matplotlib.colors.to_hex(line.get_color()) for line in axis.lines]
    assert "#ff0000" not in colours


def test_below_256_samples_panels_say_so_or_show_values() -> None:
    small = recording(n=32)
    figure = plots.variance_gap(eb.variance_gap(small))
    shown = [line.get_ydata() for line in figure.axes[0].lines]
    assert any(np.isfinite(np.asarray(y, float)).all() and len(y) == 5 for y in shown)
    norms = eb.epsilon_norm(small)
    third = plots.epsilon_norm(norms).axes[2]
    drawn = any(np.isfinite(np.asarray(line.get_ydata(), float)).any() for line in third.lines[1:])
    assert drawn or "too few samples" in [text.get_text() for text in third.texts]


def test_noise_is_at_the_left(rec: Any) -> None:
    x = np.random.default_rng(0).normal(0, 0.3, (32, 4)).astype(np.float32)
    oracle = eb.oracles.GaussianOracle(np.zeros((4,)), 0.09, eb.schedules.linear(1000))
    rolled = eb.rollouts(oracle, eb.load_data(x, value_range=None), steps=4, n=32)
    figure = plots.rollouts(rolled)
    left, right = figure.axes[0].get_xlim()
    assert left > right
    low, high = plots.variance_gap(eb.variance_gap(rec)).axes[0].get_xlim()
    assert low < high


def test_a_pdf_has_truetype_fonts(rec: Any) -> None:
    buffer = io.BytesIO()
    plots.save(plots.variance_gap(eb.variance_gap(rec)), buffer, format="pdf")
    assert b"/FontFile2" in buffer.getvalue()
    assert b"/Type3" not in buffer.getvalue()


@pytest.mark.parametrize("name", STATES)
def test_a_strip_shows_states_of_any_rank(name: str) -> None:
    rec = recording(STATES[name], n=4)
    figure = plots.strip(rec, samples=2, levels=3)
    assert len(figure.axes) == 18
    chain = rec["chain"]["kept_state"].values[0, -1]
    shown = figure.axes[3 + 2]
    if len(STATES[name]) < 3:
        drawn = np.array([line.get_ydata() for line in shown.lines])
        np.testing.assert_allclose(drawn, np.atleast_2d(chain.squeeze()), rtol=1e-6)
        return
    picture = shown.images[0].get_array()
    (expected,) = plots.pictures(chain[None], plots.limits(rec))
    np.testing.assert_allclose(picture, expected)
    assert picture.shape[1] == (16 if name == "video" else 4)


def test_a_strip_of_a_model_and_of_nothing() -> None:
    oracle = eb.oracles.GaussianOracle(np.zeros((1, 4, 4)), 0.09, eb.schedules.linear(1000))
    images = np.zeros((4, 1, 4, 4), np.float32)
    figure = plots.strip(oracle, images, samples=1, levels=2, steps=3)
    assert len(figure.axes) == 6
    with pytest.raises(eb.InputError, match="keeps no samples"):
        plots.strip(eb.record(oracle, images, steps=2, n=4, keep=0))
    with pytest.raises(eb.InputError, match="needs data to start on"):
        plots.strip(oracle)
    _, axes = plt.subplots(2, 2)
    rec = eb.record(oracle, images, steps=2, n=4)
    with pytest.raises(eb.InputError, match="3 rows and 2 columns are drawn"):
        plots.strip(rec, samples=1, levels=2, axes=axes)
