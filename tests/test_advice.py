"""Advice that was tried: what is advised keeps below the margin, and the code makes that chain."""

import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from diffusers import DDPMScheduler
from test_budget import images, oracle

import exposure_bias as eb
from exposure_bias.adapters.schedulers import sampler_for
from exposure_bias.cli import main
from exposure_bias.experiments import advice
from exposure_bias.experiments.advice import Share, Trial, Verdict, frechet_change


@pytest.fixture(scope="module")
def advised() -> Any:
    options: dict[str, Any] = {"restarts": (), "starts": (500,)}
    return eb.diagnose(oracle(), images(256), sampler="ddpm", steps=8, n=256, **options)


def test_the_cheapest_that_passes_is_advised(advised: Any) -> None:
    verdict = advised["verdict"].values.tolist()
    assert verdict.count(Verdict.ADVISED) == 1
    assert verdict[-1] == Verdict.ADVISED
    assert (np.diff(advised["candidate_calls"][1:]) >= 0).all()
    last = advised.isel(candidate=-1)
    high = max(abs(float(last[f"confirmed_share_{end}"])) for end in ("low", "high"))
    assert advised.attrs["advice_calls"] == int(last["candidate_calls"])
    assert advised.attrs["advice_share"] == float(last["confirmed_share"])
    assert abs(float(last["confirmed_share"])) < high < 0.055


def test_what_was_advised_holds_on_other_images_and_noise(advised: Any) -> None:
    attrs = advised.attrs
    chain = {"sampler": attrs["advice_sampler"], "steps": attrs["advice_steps"], "n": 512}
    again = eb.error_budget(oracle(), images(512, 1), **chain, seed=1, restarts=())
    gap = again.sel(statistic="gap")
    assert abs(float(gap["discretisation"])) < 0.05
    error = np.hypot(float(gap["discretisation_se"]), float(advised["confirmed_share_se"][-1]))
    assert abs(float(gap["discretisation"]) - attrs["advice_share"]) < 4 * error


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_code_of_diffusers_makes_the_chain_that_was_tried(advised: Any) -> None:
    """Also where the pipeline's own scheduler has another spacing."""
    attrs, betas = advised.attrs, 1 - np.square(oracle().schedule.alpha)
    betas = 1 - (1 - betas) / np.append(1, 1 - betas[:-1])
    own = DDPMScheduler(1000, trained_betas=betas.tolist(), timestep_spacing="leading")
    names = {"pipe": SimpleNamespace(scheduler=own)}
    made, call = attrs["advice_diffusers"].rsplit("\n", 1)
    exec(made, names)
    assert call == f"images = pipe(num_inference_steps={attrs['advice_steps']}).images"
    pasted = names["pipe"].scheduler
    pasted.set_timesteps(attrs["advice_steps"])
    tried: Any = sampler_for(attrs["advice_sampler"], oracle(), attrs["advice_steps"])
    assert pasted.timesteps.tolist() == tried.scheduler.timesteps.tolist()
    np.testing.assert_allclose(pasted.sigmas, tried.scheduler.sigmas, rtol=1e-5)
    differ = {k for k, v in tried.scheduler.config.items() if pasted.config.get(k) != v}
    # The last is the pipeline's own: this oracle says x_0.
    assert differ <= {"trained_betas", "clip_sample", "_use_default_values", "prediction_type"}


def test_the_python_code_runs(advised: Any) -> None:
    names = {"eb": eb, "model": oracle(), "data": images(32)}
    rec = eval(advised.attrs["advice_python"], names)
    assert rec.run.steps == advised.attrs["advice_steps"]


def test_the_advice_comes_last(advised: Any) -> None:
    printed = str(eb.view(advised))
    assert printed.endswith(advised.attrs["advice_diffusers"])
    assert "would bring the sampler's part" not in printed
    assert advised.attrs["advice"] in printed.replace("\n", " ")
    assert max(map(len, printed.splitlines())) <= 80
    page = eb.view(advised)._repr_html_()
    assert "num_inference_steps" in page


def test_quick_leaves_it_out(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--model", "test_budget:oracle", "--data", "test_budget:images"]
    options = ["--steps", "4", "-n", "256", "--restarts", "--starts", "500", "--quick"]
    assert main(["diagnose", *given, *options]) in (None, 0)
    assert "from diffusers" not in capsys.readouterr().out


def test_few_images_give_no_advice_and_say_so() -> None:
    found = eb.diagnose(oracle(), images(64), steps=4, n=64, restarts=(), starts=(500,))
    assert "advice" not in found.attrs
    assert "advice on samplers" in found.attrs["left_out"]


@pytest.mark.parametrize(
    ("value", "error", "below"), [(0.03, 0.005, True), (-0.03, 0.02, False), (0.06, 0.001, False)]
)
def test_a_share_is_below_a_margin_only_with_its_interval(
    value: float, error: float, below: bool
) -> None:
    assert Share(value, error, 0.001).below(0.05) is below
    assert not Share(float("nan"), error, 0.0).below(0.05)


def _trial(total: float, shares: tuple[float, float], asked: bool = False) -> Trial:
    """A chain of 64 samples whose statistics do not vary."""

    def estimate(groups: Any) -> Any:
        half = shares[0] if groups[::2].any() else shares[1]
        return np.array([[[total]], [[0.0]], [[half]], [[total - half]]])

    count = eb.record(oracle(), images(32), steps=2, n=32, streams=("chain",))
    found: Any = SimpleNamespace(
        names=["gap"], check=None, estimate=estimate, reached=lambda name: True
    )
    return Trial("x", count.run, 5, found, count, asked)  # type: ignore[arg-type]


def test_the_guard_and_the_two_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, change = _trial(-0.1, (-0.1, -0.1), True), (0.0, 0.0)
    monkeypatch.setattr(advice, "frechet_change", lambda *_: change)
    worse = ""
    monkeypatch.setattr(Trial, "_is_worse", lambda self, name, *_: name == worse)

    def verdict(shares: tuple[float, float]) -> str:
        return _trial(-0.02, shares).judged(0.05, asked)

    assert verdict((0.02, 0.02)) == Verdict.ADVISED
    assert verdict((0.06, 0.02)) == Verdict.TOO_LARGE
    assert verdict((0.02, 0.06)) == Verdict.NOT_CONFIRMED
    worse = "gap"
    assert verdict((0.02, 0.02)) == Verdict.VARIANCE
    worse, change = "", (0.01, 0.001)
    assert verdict((0.02, 0.02)) == Verdict.FRECHET


def test_the_frechet_distance_sees_a_worse_chain() -> None:
    kept: dict[str, Any] = {"n": 256, "streams": ("chain",), "sampler": "ddim"}
    good, bad = (eb.record(oracle(), images(256), steps=steps, **kept) for steps in (30, 3))
    change, error = frechet_change(bad, good)
    assert change > 5 * error > 0
    assert frechet_change(good, good) == (0.0, 0.0)


def test_the_sentence_names_both_chains(advised: Any) -> None:
    said = advised.attrs["advice"]
    assert re.search(r"with \d+ calls leaves [−+]\d.* % of the variance to the sampler", said)
    assert "your ddpm" in said
