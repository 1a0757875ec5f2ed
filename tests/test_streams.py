"""The streams, the recorded chain against its closed form, and the recording's laws."""

import subprocess
import sys
import textwrap
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import chi2

import exposure_bias as eb
from exposure_bias import recording as recordings
from exposure_bias.denoisers import Denoiser
from exposure_bias.paths import Noise
from exposure_bias.samplers import DDPM, parse
from exposure_bias.statistics.bands import dct, haar
from exposure_bias.streams import chain, noised

SCHEDULE = eb.schedules.linear(1000)
SHAPE = (1, 6, 5)
D = int(np.prod(SHAPE))


@pytest.fixture(scope="module")
def law():
    rng = np.random.default_rng(0)
    a = rng.standard_normal((D, D)) / np.sqrt(D)
    return 0.2 * rng.standard_normal(SHAPE), 0.3 * a @ a.T + 0.01 * np.eye(D)


@pytest.fixture(scope="module")
def data(law):
    mean, covariance = law
    x = (
        np.random.default_rng(1)
        .multivariate_normal(mean.ravel(), covariance, size=4096)
        .reshape(-1, *SHAPE)
    )
    return eb.load_data(x.astype(np.float32), value_range=None)


@pytest.fixture(scope="module")
def oracle(law):
    return eb.oracles.GaussianOracle(*law, SCHEDULE)


def identical(a, b):
    return all(a[s].equals(b[s]) for s in a.streams) and a.streams.keys() == b.streams.keys()


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 7), (2, 3, 3)])
def test_noise_belongs_to_the_sample(shape):
    whole = Noise(7, "chain", range(10), shape)
    some = Noise(7, "chain", [8, 3], shape)
    for step in (0, 1, 70, 2):
        assert torch.equal(whole(step)[[8, 3]], some(step))
    assert not torch.equal(whole(0), whole(1))
    for other in (Noise(8, "chain", range(10), shape), Noise(7 + 2**32, "chain", range(10), shape)):
        assert not torch.equal(whole(0), other(0))
    assert not torch.equal(whole(0), Noise(7, "start", range(10), shape)(0))


def test_noise_is_standard_normal():
    z = Noise(0, "chain", range(2000), (1, 5, 5))(3).numpy().ravel()
    assert abs(z.mean()) < 4 / np.sqrt(z.size)
    assert abs(z.var() - 1) < 4 * np.sqrt(2 / z.size)


class Biased(Denoiser):
    """A denoiser whose ε is scaled."""

    def __init__(self, base, factor):
        super().__init__(
            base.net, schedule=base.schedule, prediction_type="epsilon", shape=base.shape
        )
        self.base, self.factor = base, factor

    def __call__(self, x, level):
        x0 = self.base(x, level)
        return self.factor * (x - level.alpha * x0) / level.sigma


def chi_squared(model, law, sampler, n=4096, levels=None):
    """Smallest Bonferroni-corrected p-value of the recorded chain's mean and variance per
    eigen-direction and level."""
    mean, covariance = law
    values, vectors = np.linalg.eigh(covariance)
    grid = SCHEDULE.levels(10)
    reference = eb.references.gaussian(mean, covariance, SCHEDULE, "ddpm", 10)
    order = reference["eigenvalue"].values.argsort()
    ids = range(n)
    x0 = torch.from_numpy(
        mean.ravel() + np.random.default_rng(5).standard_normal((n, D)) @ (vectors * values**0.5).T
    )
    x0 = x0.view(n, *SHAPE)
    start = noised(x0, grid[0], Noise(3, "start", ids, SHAPE)(0))
    pvalues = []
    for step in chain(model, start, grid, sampler, Noise(3, "chain", ids, SHAPE)):
        d = (step.x.flatten(1).numpy() - step.level.alpha * mean.ravel()) @ vectors
        expected = reference["mode_variance"].values[step.index][order]
        pvalues.append(chi2.sf(n * (d.mean(0) ** 2 / expected).sum(), D))
        spread = d.var(0) * n / expected
        pvalues.append(
            2 * min(chi2.sf(spread.sum(), D * (n - 1)), chi2.cdf(spread.sum(), D * (n - 1)))
        )
    return min(pvalues) * len(pvalues)


def test_chain_agrees_with_its_closed_form_and_the_test_has_teeth(oracle, law):
    class WideBetaTilde(DDPM):
        def step(self, x, now, s, t, z, predict):
            return super().step(x, now, s, t, z * np.sqrt(1.02), predict)

    assert chi_squared(oracle, law, parse("ddpm")) > 0.01
    assert chi_squared(oracle, law, WideBetaTilde()) < 0.01
    assert chi_squared(Biased(oracle, 1.005), law, parse("ddpm")) < 0.01


@pytest.mark.parametrize("sampler", ["ddpm", "ddim:0.5", "euler", "heun"])
def test_teacher_chain_is_the_forward_process(data, oracle, sampler):
    recording = eb.record(
        oracle,
        data,
        sampler=sampler,
        steps=8,
        n=2048,
        streams=("teacher", "chain"),
        batch_size=1024,
    )
    teacher, n = recording["teacher"], recording.n
    residual = teacher["state_square"] - 2 * teacher["alpha"] * teacher["state_cross"]
    x0_square = recording["data"]["state_square"].isel(step=0, drop=True)
    residual = residual + teacher["alpha"] ** 2 * x0_square
    variance = residual.mean(("channel", "y", "x")) / n
    error = np.abs(variance - teacher["sigma"] ** 2)[:-1] / teacher["sigma"][:-1] ** 2
    assert (error < 5 * np.sqrt(2 / (n * D))).all()
    assert float(np.abs(variance[-1])) < 1e-12


def test_batches_subsets_and_merging(data, oracle):
    common = {"steps": 5, "streams": ("forward", "chain", "teacher")}
    whole = eb.record(oracle, data, n=512, batch_size=128, **common)
    other = eb.record(oracle, data, n=512, batch_size=100, **common)
    first = eb.record(oracle, data, n=256, batch_size=128, **common)
    second = eb.record(oracle, data, n=256, first=256, batch_size=128, **common)
    merged = eb.merge([second, first])
    for stream in whole.streams:
        for name, values in whole[stream].data_vars.items():
            if values.dtype.kind == "f":
                np.testing.assert_allclose(merged[stream][name], values, rtol=1e-10, atol=1e-10)
                np.testing.assert_allclose(other[stream][name], values, rtol=1e-6, atol=1e-6)
    assert merged.n == 512
    with pytest.raises(eb.InputError, match=r"more than once"):
        eb.merge([first, first])
    with pytest.raises(eb.InputError, match=r"sampler"):
        eb.merge([first, eb.record(oracle, data, n=256, first=256, sampler="ddim", **common)])


def test_save_and_load(tmp_path, data, oracle):
    recording = eb.record(oracle, data, n=256, steps=4)
    path = tmp_path / "run.nc"
    recording.save(path)
    assert identical(recording, eb.load(path))
    content = bytearray(path.read_bytes())
    for place in (100, len(content) // 2, len(content) - 3):
        damaged = bytearray(content)
        damaged[place] ^= 4
        path.write_bytes(damaged)
        with pytest.raises(eb.InputError):
            eb.load(path)
    path.write_bytes(content[:-1000])
    with pytest.raises(eb.InputError, match=r"complete"):
        eb.load(path)


def test_disk_full_keeps_the_old_file(tmp_path, data, oracle, monkeypatch):
    recording = eb.record(oracle, data, n=16, steps=2)
    path = tmp_path / "run.nc"
    recording.save(path)
    before = path.read_bytes()
    monkeypatch.setattr(
        "os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(eb.InputError, match=r"No space left"):
        recording.save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["run.nc"]


@pytest.mark.slow
def test_killed_run_continues_bit_for_bit(tmp_path):
    code = textwrap.dedent("""
        import sys, time, exposure_bias as eb
        model = eb.oracles.GaussianOracle([[[0.0] * 8] * 8], 0.3, eb.schedules.linear())
        slow = model.net.forward
        model.net.forward = lambda x, level: (time.sleep(0.004), slow(x, level))[1]
        eb.record(
            model, eb.load_data("digits"), steps=10, n=512, batch_size=32, checkpoint=sys.argv[1]
        ).save(sys.argv[2])
    """)
    undisturbed, checkpoint = tmp_path / "a.nc", tmp_path / "c.nc"
    subprocess.run([sys.executable, "-c", code, tmp_path / "x.nc", undisturbed], check=True)
    rng, kills = np.random.default_rng(), 0
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", code, checkpoint, tmp_path / "b.nc"])
        start = time.monotonic()
        while not checkpoint.exists() and process.poll() is None and time.monotonic() - start < 60:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.4))
        kills += process.poll() is None
        process.kill()
        process.wait()
    subprocess.run([sys.executable, "-c", code, checkpoint, tmp_path / "b.nc"], check=True)
    assert kills
    assert identical(eb.load(undisturbed), eb.load(tmp_path / "b.nc"))


def test_a_checkpoint_of_another_run_is_refused(tmp_path, data, oracle):
    eb.record(oracle, data, n=32, steps=2, checkpoint=tmp_path / "c.nc")
    with pytest.raises(eb.InputError, match=r"steps: 3 against 2|steps: 2 against 3"):
        eb.record(oracle, data, n=32, steps=3, checkpoint=tmp_path / "c.nc")
    partial = recordings.load_partial(tmp_path / "c.nc")
    replace(partial, planned=64).save(tmp_path / "d.nc")
    with pytest.raises(eb.InputError, match=r"32 of 64"):
        eb.load(tmp_path / "d.nc")


@pytest.mark.parametrize("size", [(4, 4), (8, 8), (7, 5), (9, 16)])
def test_bands(size):
    bands = dct(*size)
    for matrix, side in zip(bands.matrices, size, strict=True):
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(side), atol=1e-12)
    assert bands.count[:-1].sum() == np.prod(size)
    x = np.random.default_rng(0).standard_normal((3, *size))
    power = bands.power(x)
    np.testing.assert_allclose(power[:, :-1].sum(1), (x**2).sum((1, 2)), rtol=1e-12)
    if size[0] % 2 == size[1] % 2 == 0:
        np.testing.assert_allclose(haar(*size).power(x).sum(1), (x**2).sum((1, 2)), rtol=1e-12)
    constant = haar(*size).power(np.ones((1, *size)))[0]
    assert constant[0] > 0
    np.testing.assert_allclose(constant[1:], 0, atol=1e-20)


class Net(torch.nn.Module):
    def __init__(self, bad_at=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.bad_at = bad_at

    def forward(self, x, t):
        return x * (float("nan") if int(t[0]) == self.bad_at else self.weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sampler": "dpm"}, "unknown sampler 'dpm'.*ddim"),
        ({"grid": "even"}, "unknown timestep spacing 'even'.*karras"),
        ({"steps": 1001}, "1001 steps.*1000"),
        ({"steps": 0}, "at least 1"),
        ({"n": 0}, "at least 1"),
        ({"start": "somewhere"}, "unknown start.*noise"),
        ({"start": 3.5}, "not on the grid.*nearest"),
        ({"streams": ("forwards",)}, "forward, chain, teacher"),
        ({"clip": "yes"}, "unknown clip"),
    ],
)
def test_bad_settings(data, oracle, change, message):
    with pytest.raises(eb.InputError, match=message):
        eb.record(oracle, data, **{"n": 16, "steps": 2, **change})


def test_bad_models(data):
    def model(net, shape=SHAPE):
        return eb.Denoiser(net, schedule=SCHEDULE, prediction_type="epsilon", shape=shape)

    with pytest.raises(eb.InputError, match=r"NaN or Inf at step 1, timestep 500"):
        eb.record(model(Net(bad_at=500)), data, n=16, steps=3, streams=("chain",))
    with pytest.raises(eb.InputError, match=r"3×6×5.*1×6×5"):
        eb.record(model(Net(), (3, 6, 5)), data, n=16)
    with pytest.raises(eb.InputError, match=r"epsilon, sample"):
        eb.Denoiser(Net(), schedule=SCHEDULE, prediction_type="noise", shape=SHAPE)
    with pytest.warns(UserWarning, match=r"images recur"):
        eb.record(
            eb.oracles.GaussianOracle(np.zeros((1, 8, 8)), 1.0, SCHEDULE),
            eb.load_data("digits"),
            n=600,
            steps=1,
        )


def test_a_teacher_without_a_start_of_its_own_is_refused() -> None:
    model = eb.oracles.GaussianOracle(np.zeros((1, 4, 4)), 0.1, eb.schedules.linear(100))
    with pytest.raises(eb.InputError, match="start='noise' pairs nothing: use start='data' or"):
        eb.record(
            model,
            np.zeros((8, 1, 4, 4), np.float32),
            steps=2,
            start="noise",
            streams=("chain", "teacher"),
        )
