"""Distances between sets of features, their errors, Inception and the other extractors."""

import io
import pickle
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import linalg
from scipy.spatial.distance import cdist
from torch.nn import functional as F

import exposure_bias as eb
from exposure_bias.data import bundled
from exposure_bias.fidelity import features as feature
from exposure_bias.fidelity import frechet, inception, kernel, manifold, sets
from exposure_bias.fidelity.sets import FeatureSet, frechet_values, kid_values, precision_recall
from exposure_bias.jackknife import DELETED, GROUPS, T_QUANTILE, corrected, deletions


def symmetric_reference(mean1, cov1, mean2, cov2):
    """d² by two symmetric eigenproblems: tr (S C₂ S)^½ with S = C₁^½."""
    values, vectors = np.linalg.eigh(cov1)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    trace = np.sqrt(np.linalg.eigvalsh(root @ cov2 @ root).clip(0)).sum()
    return np.square(mean1 - mean2).sum() + np.trace(cov1) + np.trace(cov2) - 2 * trace


def gaussian_features(rng, n, d, scale=1.0, shift=0.0):
    return rng.standard_normal((n, d)) * np.linspace(0.5, 1.5, d) * scale + shift


def statistics(x):
    return x.mean(0), np.cov(x, rowvar=False)


def test_frechet_closed_form_in_a_rotated_basis():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((12, 12)))[0]
    a, b = rng.uniform(0.1, 2, 12), rng.uniform(0.1, 2, 12)
    mean = rng.standard_normal(12)
    found = eb.frechet_distance(mean, basis * a @ basis.T, mean + 0.3, basis * b @ basis.T)
    assert found == pytest.approx(12 * 0.09 + np.square(np.sqrt(a) - np.sqrt(b)).sum(), rel=1e-12)


def test_frechet_equals_the_matrix_square_root():
    rng = np.random.default_rng(1)
    one, two = (
        statistics(rng.standard_normal((600, 80)) @ rng.standard_normal((80, 80))) for _ in range(2)
    )
    theirs = (
        np.square(one[0] - two[0]).sum()
        + np.trace(one[1] + two[1] - 2 * linalg.sqrtm(one[1] @ two[1])).real
    )
    assert eb.frechet_distance(*one, *two) == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize(("n", "m"), [(30, 30), (30, 500), (500, 30)])
def test_frechet_of_singular_covariances(n, m):
    rng = np.random.default_rng(2)
    x, y = gaussian_features(rng, n, 100), gaussian_features(rng, m, 100, 1.2, 0.1)
    expected = symmetric_reference(*statistics(x), *statistics(y))
    assert eb.frechet_distance(*statistics(x), *statistics(y)) == pytest.approx(expected, rel=1e-6)
    by_features = frechet.distance(frechet.normal_of_features(x), frechet.normal_of_features(y))
    assert by_features == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("n", [20, 300])
def test_frechet_is_symmetric_zero_on_itself_and_grows_with_a_shift(n):
    rng = np.random.default_rng(3)
    one, two = (
        statistics(gaussian_features(rng, n, 40)),
        statistics(gaussian_features(rng, n, 40, 1.1)),
    )
    assert eb.frechet_distance(*one, *two) == pytest.approx(
        eb.frechet_distance(*two, *one), rel=1e-10
    )
    assert eb.frechet_distance(*one, *one) < 1e-10
    shifted = [eb.frechet_distance(one[0] + s, one[1], *two) for s in (2.0, 2.1, 3.0, 9.0)]
    assert shifted == sorted(shifted)
    assert len(set(shifted)) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros(2), np.eye(3), np.zeros(2), np.eye(2)), r"\(d, d\).*\(2,\).*\(3, 3\)"),
        ((np.zeros(2), np.eye(2), np.zeros(3), np.eye(3)), "2 and 3 features"),
        ((np.array([0, np.nan]), np.eye(2), np.zeros(2), np.eye(2)), "NaN"),
        ((np.zeros(2), np.array([[1, 0.5], [0, 1]]), np.zeros(2), np.eye(2)), "symmetric"),
        ((np.zeros(2), np.diag([1, -0.5]), np.zeros(2), np.eye(2)), "at least 0"),
    ],
)
def test_frechet_refuses(arguments, message):
    with pytest.raises(eb.InputError, match=message):
        eb.frechet_distance(*arguments)


def test_moments_are_sums():
    rng = np.random.default_rng(4)
    x, ids = gaussian_features(rng, 200, 6, shift=3), np.arange(200)
    whole, parts, rest = (eb.fidelity.Moments(6) for _ in range(3))
    whole.update(x, ids)
    for rows in np.array_split(rng.permutation(120), 7):
        parts.update(x[rows], ids[rows])
    rest.update(x[120:], ids[120:])
    parts.merge(rest)
    assert np.allclose(whole.normal().covariance, np.cov(x, rowvar=False), rtol=1e-12)
    assert np.allclose(parts.scatter, whole.scatter, rtol=1e-10)
    kept = (ids % GROUPS != 2) & (ids % GROUPS != 5)
    assert np.allclose(whole.normal((2, 5)).mean, x[kept].mean(0), rtol=1e-12)
    assert np.allclose(whole.normal((2, 5)).covariance, np.cov(x[kept], rowvar=False), rtol=1e-10)
    with pytest.raises(eb.InputError, match=r"6 features.*5"):
        whole.update(x[:, :5], ids)
    with pytest.raises(eb.InputError, match="sample 3"):
        whole.update(np.where(np.arange(200)[:, None] == 3, np.nan, x), ids)


def brute_kid(x, y):
    def kernel(a, b):
        return (a @ b.T / a.shape[1] + 1) ** 3

    own = [(kernel(a, a).sum() - np.trace(kernel(a, a))) / (len(a) * (len(a) - 1)) for a in (x, y)]
    return sum(own) - 2 * kernel(x, y).mean()


def test_kid_of_all_and_of_what_is_left():
    rng = np.random.default_rng(5)
    x, y = gaussian_features(rng, 300, 7), gaussian_features(rng, 260, 7, 1.1, 0.2)
    ids, other = np.arange(300), rng.permutation(260)
    values, reason = kid_values(FeatureSet(x, ids), FeatureSet(y, other))
    assert reason == ""
    for value, deleted in zip(values, DELETED, strict=True):
        keep, left = ~np.isin(ids % GROUPS, deleted), ~np.isin(other % GROUPS, deleted)
        assert value == pytest.approx(brute_kid(x[keep], y[left]), rel=1e-9)


def test_precision_and_recall_by_definition(monkeypatch):
    rng = np.random.default_rng(6)
    x, y = rng.standard_normal((150, 3)), rng.standard_normal((130, 3)) * 0.7 + 0.9
    expected = []
    for points, centres in ((x, y), (y, x)):
        radii = np.sort(cdist(centres, centres), axis=1)[:, 3]
        expected.append((cdist(points, centres) <= radii).any(1).mean())
    ids = np.arange(150)
    for chunk, columns in ((512, 8192), (7, 20)):
        monkeypatch.setattr(manifold, "CHUNK", chunk)
        monkeypatch.setattr(manifold, "COLUMNS", columns)
        found = precision_recall(FeatureSet(x, ids), FeatureSet(y, ids[:130]))
        assert [found[0][0], found[1][0]] == expected
    assert 0.2 < expected[0] < expected[1] < 1
    far = precision_recall(FeatureSet(x, ids), FeatureSet(x + 100, ids))
    same = precision_recall(FeatureSet(np.repeat(x, 2, 0), np.arange(300)), FeatureSet(x, ids))
    assert (far[0][0], far[1][0]) == (0, 0)
    assert (same[0][0], same[1][0]) == (1, 1)


def hostile_pairs():
    """Sets whose distances float32 does not tell apart, or cannot hold."""
    rng = np.random.default_rng(12)
    x, y = (rng.standard_normal((n, 40)) for n in (230, 190))
    steps = np.round(x[:, :2])
    outlier = np.where(np.arange(230)[:, None] == 7, 1e4 * x, x)
    return {
        "plain": (x, y),
        "far from zero": (x + 1e5, y + 1e5),
        "ties": (steps, np.round(y[:, :2])),
        "huge": (x * 1e120, y * 1e120),
        "tiny": (x * 1e-120, y * 1e-120),
        "squares beyond float64": (x * 1e-200, y * 1e-200),
        "an outlier": (outlier, y),
        "apart by less than float32": (1 + 1e-9 * x, 1 + 1e-9 * y),
        "one beside many copies": (np.concatenate([x[:5], np.ones((60, 40))]), y),
        "float32": (x.astype(np.float32), y.astype(np.float32)),
        "constant": (np.zeros((20, 3)), np.zeros((30, 3))),
    }


@pytest.mark.parametrize("name", hostile_pairs())
def test_precision_and_recall_are_those_of_float64(name, monkeypatch):
    x, y = hostile_pairs()[name]
    monkeypatch.setattr(manifold, "CHUNK", 64)
    monkeypatch.setattr(manifold, "COLUMNS", 50)

    def squared(a, b):
        return np.square(a[:, None].astype(np.float64) - b[None]).sum(2)

    radii = [np.sort(squared(v, v), axis=1)[:, 3] for v in (x, y)]
    for mine, expected in zip((x, y), radii, strict=True):
        assert np.allclose(manifold.squared_radii(mine), expected, rtol=1e-12, atol=0)
    found = manifold.inside(x, y, radii[1], radii[0])
    apart = squared(x, y)
    assert np.array_equal(found[0], (apart <= radii[1]).any(1))
    assert np.array_equal(found[1], (apart <= radii[0][:, None]).any(0))


def test_kid_in_float32_is_that_of_float64():
    """Products in float32: what that moves is nothing beside the standard error."""
    rng = np.random.default_rng(14)
    x, y = (np.abs(rng.standard_normal((400, 700)) + s) for s in (0.0, 0.05))
    ids = np.arange(400)
    exact, rough = (
        kid_values(FeatureSet(x.astype(kind), ids), FeatureSet(y.astype(kind), ids))[0]
        for kind in (np.float64, np.float32)
    )
    assert np.abs(exact - rough).max() < 1e-4 * corrected(exact)[1]


def test_kid_of_blocks_is_unbiased_and_sees_no_image_against_itself(monkeypatch):
    """Many samples: pairs within blocks. Reconstructions that are their own images differ from them
    by nothing, and pairing them would say less than nothing."""
    rng = np.random.default_rng(13)
    monkeypatch.setattr(kernel, "PAIRS", 320**2 // 5)
    found = []
    for _ in range(200):
        x, y = gaussian_features(rng, 320, 5), gaussian_features(rng, 320, 5, 1.2, 0.3)
        values, _ = kid_values(FeatureSet(x, np.arange(320)), FeatureSet(y, np.arange(320)))
        found.append((values[0], corrected(values)[1], brute_kid(x, y)))
    blocked, error, full = np.array(found).T
    assert kernel.blocks(320**2) == 5
    assert abs((blocked - full).mean()) < 3 * (blocked - full).std() / np.sqrt(200)
    assert 0.8 < error.mean() / blocked.std() < 1.3
    same = FeatureSet(x, np.arange(320))
    counts = kernel.cross_sums(x, same.ids, x, same.ids).count
    own = kernel.own_sums(x, same.ids).count
    assert counts.sum() == pytest.approx(320**2 / 5)
    assert own.sum() == pytest.approx(320**2 / 5 - 320)
    few = FeatureSet(x[:64], np.arange(64))
    assert kernel.cross_sums(x, same.ids, few.features, few.ids).count.sum() == 320 * 64
    shuffled = rng.permutation(320)
    again = kid_values(FeatureSet(x[shuffled], shuffled), FeatureSet(x, np.arange(320)))[0]
    assert np.allclose(again, kid_values(same, same)[0], rtol=1e-12, atol=1e-12)


def jackknife_of(groups, function):
    """`deletions` of a function of the mean of equal groups, given their means (G,)."""
    return deletions(lambda out: function(np.delete(groups, list(out)).mean()))


def test_jackknife_is_exact_where_it_must_be():
    means = np.random.default_rng(7).standard_normal(GROUPS)
    value, error = corrected(jackknife_of(means, lambda m: 3 * m))
    assert value == pytest.approx(3 * means.mean(), rel=1e-12)
    assert error == pytest.approx(3 * means.std(ddof=1) / np.sqrt(GROUPS), rel=1e-6)
    value, _ = corrected(jackknife_of(means, lambda m: m**2))
    pairs = (means.sum() ** 2 - np.square(means).sum()) / (GROUPS * (GROUPS - 1))
    assert value == pytest.approx(pairs, rel=1e-9)


def test_jackknife_error_of_a_quadratic_statistic():
    """Where the linear part vanishes the plain jackknife doubles the variance; the interactions
    take that back."""
    rng = np.random.default_rng(8)
    found = []
    for _ in range(300):
        groups = rng.standard_normal((GROUPS, 60))
        found.append(
            deletions(
                lambda out, groups=groups: np.square(np.delete(groups, list(out), 0).mean(0)).sum()
            )
        )
    value, error = corrected(np.stack(found))
    one = np.stack(found)[:, 1 : 1 + GROUPS]
    plain = (GROUPS - 1) * one.var(1).mean()
    assert plain > 1.7 * value.var()
    assert 0.9 * value.var() < np.square(error).mean() < 1.4 * value.var()
    assert abs(value.mean()) < 3 * value.std() / np.sqrt(300)


@pytest.mark.slow
@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (1.3, 0.1)])
def test_intervals_cover(scale, shift):
    """300 repetitions at d = 6; `benchmarks/coverage.py` does it at d = 64, N = 1792."""
    d, n = 6, 256
    base = np.linspace(0.5, 1.5, d)
    true = np.square(base * (1 - scale)).sum() + d * shift**2
    ids = np.arange(n)
    hits, plain, kids = [], [], []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        p = FeatureSet(gaussian_features(rng, n, d), ids)
        q = FeatureSet(gaussian_features(rng, n, d, scale, shift), ids)
        values, _ = frechet_values(q, p)
        value, error = corrected(values)
        hits.append(abs(value - true) <= T_QUANTILE * error)
        plain.append(abs(values[0] - true) <= T_QUANTILE * error)
        values, _ = kid_values(q, p)
        kids.append((values[0], corrected(values)[1]))
    estimates, errors = np.array(kids).T
    centre = 0 if true == 0 else estimates.mean()
    covered = (abs(estimates - centre) <= T_QUANTILE * errors).mean()
    assert 0.9 <= np.mean(hits) <= 0.98
    assert 0.9 <= covered <= 0.98
    if true == 0:
        assert np.mean(plain) < 0.7  # the plug-in value is biased


def test_too_few_samples():
    rng = np.random.default_rng(9)
    few, more = (FeatureSet(rng.standard_normal((n, 64)), np.arange(n)) for n in (40, 320))
    with pytest.warns(UserWarning, match="40 samples of 64 features"):
        values, reason = frechet_values(few, few)
    assert "40 samples" in reason
    values, reason = frechet_values(more, more)
    assert "640 or more" in reason
    assert np.isfinite(values[0])
    assert np.isnan(corrected(values)).all()
    with pytest.raises(eb.InputError, match="at least 2 samples, got 1"):
        FeatureSet(np.zeros((1, 3)), np.arange(1))
    with pytest.raises(eb.InputError, match="sample 1 hold NaN"):
        FeatureSet(np.array([[0.0], [np.nan]]), np.arange(2))
    with pytest.raises(eb.InputError, match="more than 3"):
        precision_recall(FeatureSet(np.eye(3), np.arange(3)), FeatureSet(np.eye(3), np.arange(3)))


def independent_inception(state, images):
    """The graph of 2015-12-05, written out over the state dict: (features, spatial, logits)."""

    def conv(name, x, stride=1, padding=0):
        x = F.conv2d(x, state[f"{name}.conv.weight"], None, stride, padding)
        mean, variance, weight, bias = (
            state[f"{name}.bn.{k}"][:, None, None]
            for k in ("running_mean", "running_var", "weight", "bias")
        )
        return ((x - mean) / torch.sqrt(variance + 0.001) * weight + bias).clamp(min=0)

    def chain(block, x, *names):
        for name, padding in names:
            x = conv(f"{block}.{name}", x, 1, padding)
        return x

    def mean(x):
        ones = torch.ones(1, 1, *x.shape[2:])
        kernel = torch.ones(1, 1, 3, 3)
        total = F.conv2d(x.reshape(-1, 1, *x.shape[2:]), kernel, padding=1).reshape(x.shape)
        return total / F.conv2d(ones, kernel, padding=1)

    size = 299
    rows, columns = (torch.arange(size) * np.float32(length / size) for length in images.shape[2:])
    x = images.double()
    for axis, place in ((2, rows), (3, columns)):
        low = place.long()
        high = torch.minimum(low + 1, torch.tensor(images.shape[axis] - 1))
        weight = (place - low).double().reshape(-1, 1) if axis == 2 else (place - low).double()
        x = x.index_select(axis, low) * (1 - weight) + x.index_select(axis, high) * weight
    x = ((x - 128) / 128).float()
    x = conv("Conv2d_2a_3x3", conv("Conv2d_1a_3x3", x, 2))
    x = F.max_pool2d(conv("Conv2d_2b_3x3", x, 1, 1), 3, 2)
    x = F.max_pool2d(conv("Conv2d_4a_3x3", conv("Conv2d_3b_1x1", x)), 3, 2)
    for block in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
        five = chain(block, x, ("branch5x5_1", 0), ("branch5x5_2", 2))
        double = chain(
            block, x, ("branch3x3dbl_1", 0), ("branch3x3dbl_2", 1), ("branch3x3dbl_3", 1)
        )
        x = torch.cat(
            [
                chain(block, x, ("branch1x1", 0)),
                five,
                double,
                chain(block, mean(x), ("branch_pool", 0)),
            ],
            1,
        )
    double = conv(
        "Mixed_6a.branch3x3dbl_3",
        chain("Mixed_6a", x, ("branch3x3dbl_1", 0), ("branch3x3dbl_2", 1)),
        2,
    )
    x = torch.cat([conv("Mixed_6a.branch3x3", x, 2), double, F.max_pool2d(x, 3, 2)], 1)
    row, column = (0, 3), (3, 0)
    for block in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
        seven = chain(block, x, ("branch7x7_1", 0), ("branch7x7_2", row), ("branch7x7_3", column))
        names = [f"branch7x7dbl_{i}" for i in range(1, 6)]
        double = chain(block, x, *zip(names, (0, column, row, column, row), strict=True))
        one = chain(block, x, ("branch1x1", 0))
        if block == "Mixed_6d":
            spatial = one[:, :7]
        x = torch.cat([one, seven, double, chain(block, mean(x), ("branch_pool", 0))], 1)
    three = conv("Mixed_7a.branch3x3_2", chain("Mixed_7a", x, ("branch3x3_1", 0)), 2)
    seven = chain(
        "Mixed_7a", x, ("branch7x7x3_1", 0), ("branch7x7x3_2", row), ("branch7x7x3_3", column)
    )
    x = torch.cat([three, conv("Mixed_7a.branch7x7x3_4", seven, 2), F.max_pool2d(x, 3, 2)], 1)
    for block in ("Mixed_7b", "Mixed_7c"):
        parts = [chain(block, x, ("branch1x1", 0))]
        for stem in (["branch3x3_1"], ["branch3x3dbl_1", "branch3x3dbl_2"]):
            y = chain(block, x, *zip(stem, (0, 1), strict=False))
            fork = "branch3x3_2" if len(stem) == 1 else "branch3x3dbl_3"
            parts += [chain(block, y, (f"{fork}a", (0, 1))), chain(block, y, (f"{fork}b", (1, 0)))]
        pooled = mean(x) if block == "Mixed_7b" else F.max_pool2d(x, 3, 1, 1)
        x = torch.cat([*parts, chain(block, pooled, ("branch_pool", 0))], 1)
    pool = x.mean((2, 3))
    return pool, spatial, pool @ state["fc.weight"].T + state["fc.bias"]


@pytest.fixture(scope="module")
def random_inception():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = eb.fidelity.Inception()
        for module in net.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.data.uniform_(0.8, 2.2)
                module.bias.data.normal_(0, 0.3)
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.3, 0.7)
    return net


@pytest.mark.parametrize("size", [(8, 8), (45, 32), (400, 310)])
def test_inception_equals_an_independent_definition(random_inception, size):
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8, generator=generator)
    with torch.no_grad():
        ours, theirs = (
            random_inception(images),
            independent_inception(random_inception.state_dict(), images),
        )
        alone = random_inception(images[1:])
    assert [tuple(o.shape) for o in ours] == [(2, 2048), (2, 7, 17, 17), (2, 1008)]
    for one, other, single in zip(ours, theirs, alone, strict=True):
        assert (one - other).abs().max() <= 1e-4 * other.abs().max()
        assert (single - one[1:]).abs().max() <= 1e-5 * other.abs().max()
        # The images, not only the biases, must show: a wrong input would go unnoticed otherwise.
        assert (one[0] - one[1]).abs().max() > 1e-3 * other.abs().max()


def test_inception_state_is_the_public_files():
    state = eb.fidelity.Inception().state_dict()
    convolutions = [key for key in state if key.endswith("conv.weight")]
    assert len(convolutions) == 94
    assert len(state) == 94 * 6 + 2
    assert state["Mixed_6c.branch7x7dbl_4.conv.weight"].shape == (160, 160, 7, 1)
    assert state["fc.weight"].shape == (1008, 2048)


def test_resize_samples_as_tensorflow_1():
    ramp = torch.arange(32.0).expand(1, 1, 32, 32)
    expected = (torch.arange(299) * 32 / 299).clamp(max=31)
    assert torch.allclose(inception.resize(ramp)[0, 0, 5], expected, atol=1e-5)
    assert torch.allclose(inception.resize(ramp.mT)[0, 0, :, 5], expected, atol=1e-5)
    large = torch.arange(598.0).expand(1, 1, 4, 598)
    assert torch.equal(inception.resize(large)[0, 0, 0], torch.arange(299) * 2.0)  # no antialiasing


def test_weight_files(tmp_path, monkeypatch, random_inception):
    path = tmp_path / "weights.pth"
    torch.save(random_inception.state_dict(), path)
    with pytest.raises(eb.InputError, match=r"SHA-256.*6726825d"):
        inception.load(path)
    monkeypatch.setattr(inception, "SHA256", "")
    monkeypatch.setenv(inception.VARIABLE, str(path))
    net, digest = inception.load()
    assert len(digest) == 64
    assert torch.equal(net.fc.weight, random_inception.fc.weight)
    older = {
        k: v
        for k, v in random_inception.state_dict().items()
        if not k.endswith("num_batches_tracked")
    }
    torch.save(older, path)
    inception.load()
    for content in (
        {"fc.weight": torch.zeros(2)},
        torch.zeros(3),
        older | {"extra": torch.zeros(1)},
    ):
        torch.save(content, path)
        with pytest.raises(eb.InputError, match="does not hold the parameters"):
            inception.load()
    path.write_bytes(pickle.dumps(eb.InputError("x")))
    with pytest.raises(eb.InputError, match="no file of tensors"):
        inception.load()
    with pytest.raises(eb.InputError, match=r"no weight file.*missing\.pth"):
        inception.load(tmp_path / "missing.pth")

    def refuse(*_, **__):
        raise OSError("no network")

    monkeypatch.delenv(inception.VARIABLE)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    with pytest.raises(eb.InputError, match=r"cannot be downloaded.*--weights"):
        inception.load()


def test_inception_as_extractor(tmp_path, monkeypatch, random_inception):
    """Greyscale is repeated and said so; spatial features lie as guided-diffusion's do; real
    features are kept."""
    monkeypatch.setattr(inception, "SHA256", "")
    monkeypatch.setenv(feature.CACHE, str(tmp_path))
    torch.save(random_inception.state_dict(), tmp_path / "w.pth")
    taken = eb.fidelity.extractor("inception", (1, 8, 8), tmp_path / "w.pth")
    assert taken.measure == "FID"
    assert "repeated" in taken.note
    images = np.random.default_rng(0).integers(0, 256, (2, 1, 8, 8), dtype=np.uint8)
    found = feature.extract_real(taken, eb.load_data(images), np.arange(2))
    with torch.no_grad():
        expected = random_inception(torch.from_numpy(images).repeat(1, 3, 1, 1))
    assert np.allclose(found.pool.features, expected.features, atol=1e-6)
    assert np.allclose(
        found.spatial.features.reshape(2, 17, 17, 7),
        expected.spatial.permute(0, 2, 3, 1),
        atol=1e-6,
    )
    assert len(list(tmp_path.glob("features-*.npz"))) == 1
    again = feature.extract_real(taken, eb.load_data(images), np.arange(2))
    assert np.array_equal(again.spatial.features, found.spatial.features)


def test_a_cache_is_used_only_where_it_holds_the_features_of_the_images(tmp_path, monkeypatch):
    """A few images are looked at again, whatever the file says."""
    monkeypatch.setenv(feature.CACHE, str(tmp_path))
    data = eb.load_data(np.random.default_rng(0).integers(0, 256, (64, 1, 4, 4), dtype=np.uint8))
    asked = []

    def call(images):
        asked.append(len(images))
        found = images.float().flatten(1) / 255
        return found, found[:, :3]

    extractor = feature.Extractor("mine", "FID", call, costly=True)
    honest = feature.extract_real(extractor, data, np.arange(64))
    asked.clear()
    feature.extract_real(extractor, data, np.arange(64))
    assert asked == [feature.CHECKED]
    (path,) = tmp_path.glob("features-*.npz")
    pool, spatial = honest.pool.features, honest.spatial.features
    for wrong in (
        *({"pool": pool[:10], "spatial": spatial[:10]}, {"pool": pool}, {}),
        *({"pool": np.tile(pool, (2, 1)), "spatial": np.tile(spatial, (2, 1))},),
        *({"pool": pool[:, :4], "spatial": spatial}, {"pool": 0 * pool, "spatial": spatial}),
        *({"pool": pool[::-1], "spatial": spatial[::-1]}, {"pool": pool * np.nan}),
    ):
        for signed in (True, False):
            digest = {feature.DIGEST: np.array(feature._digest(wrong))} if signed else {}
            np.savez(path, **wrong, **digest)
            asked.clear()
            again = feature.extract_real(extractor, data, np.arange(64))
            assert np.array_equal(again.pool.features, pool)
            assert np.array_equal(again.spatial.features, spatial)
            assert 64 in asked  # made anew, and kept


def test_quantisation_is_guided_diffusions():
    x = torch.linspace(-1.3, 1.3, 10_001)
    expected = ((x + 1) * 127.5).clamp(0, 255).to(torch.uint8)
    assert torch.equal(feature.quantised(x.double()), expected)
    images = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    assert np.array_equal(feature.real_images(eb.load_data(images), np.arange(1), True), images)


@pytest.mark.parametrize("name", ["classifier", "random-conv", "pixel"])
def test_stand_ins(name):
    data = eb.load_data("digits", split="test")
    taken = eb.fidelity.extractor(name, data.shape)
    assert taken.measure == "Fréchet distance (features)"
    whole = feature.extract_real(taken, data, np.arange(64)).pool.features
    parts = feature.extract_real(taken, data, np.arange(64), batch_size=5).pool.features
    assert np.allclose(whole, parts, atol=1e-5)
    moved = eb.load_data(np.roll(data.images, 2, -1))
    ids = np.arange(512)
    p, q = (feature.extract_real(taken, d, ids).pool for d in (data, moved))
    train = feature.extract_real(taken, eb.load_data("digits", split="train"), ids).pool
    assert frechet.distance(p.normal, q.normal) > 2 * frechet.distance(p.normal, train.normal)


def test_the_classifier_classifies_held_out_digits():
    from exposure_bias.fidelity import classifier

    data = eb.load_data("digits", split="test")
    with torch.no_grad():
        said = classifier.load()(torch.from_numpy(data.images)).argmax(1).numpy()
    assert (said == data.labels).mean() > 0.98
    assert (classifier.Digits.folder / classifier.FILE).stat().st_size <= 100_000
    assert "digits-classifier" not in bundled.models()


@pytest.mark.parametrize(
    ("name", "shape", "options", "message"),
    [
        ("vgg", (1, 8, 8), {}, "unknown features 'vgg'.*module:function"),
        ("classifier", (3, 8, 8), {}, "3×8×8"),
        ("inception", (4, 8, 8), {}, "3 channels.*got 4"),
        ("pixel", (1, 8, 8), {"weights": "x.pth"}, "weights are for Inception"),
        ("nowhere:function", (1, 8, 8), {}, "cannot import.*nowhere"),
        ("math:floor_", (1, 8, 8), {}, "cannot import.*floor_"),
        (lambda x: x, (1, 8, 8), {}, r"\(B, d\)"),
        (lambda x: x.float().flatten(1) * np.nan, (1, 8, 8), {}, "NaN"),
    ],
)
def test_extractor_refuses(name, shape, options, message):
    with pytest.raises(eb.InputError, match=message):
        eb.fidelity.extractor(name, shape, **options)


def test_statistics_files(tmp_path):
    rng = np.random.default_rng(10)
    x, path = gaussian_features(rng, 80, 6), tmp_path / "reference.npz"
    pool = frechet.normal(*statistics(x))
    about = {"features": "pixel", "image_shape": [1, 2, 3]}
    eb.fidelity.write_statistics(path, pool, pool, about)
    read, spatial = eb.fidelity.read_statistics(path, 6, about)
    assert np.array_equal(read.covariance, pool.covariance)
    assert np.array_equal(spatial.mean, pool.mean)
    with np.load(path) as archive:
        assert {"mu", "sigma", "mu_s", "sigma_s"} <= set(archive)
    with pytest.raises(eb.InputError, match="of 6 features, these have 7"):
        eb.fidelity.read_statistics(path, 7)
    with pytest.raises(eb.InputError, match=r"features pixel.*inception"):
        eb.fidelity.read_statistics(path, 6, {"features": "inception"})
    with pytest.raises(eb.InputError, match="image_shape"):
        eb.fidelity.read_statistics(path, 6, {"image_shape": [1, 4, 4]})
    foreign = {"mu": pool.mean, "sigma": pool.covariance, "arr_0": np.zeros((5, 8, 8, 3), np.uint8)}
    np.savez(path, **foreign)
    assert (
        eb.fidelity.read_statistics(path, 6, {"features": "any", "image_shape": [3, 8, 8]})[1]
        is None
    )
    with pytest.raises(eb.InputError, match=r"image_shape \[3, 8, 8\]"):
        eb.fidelity.read_statistics(path, 6, {"image_shape": [3, 16, 16]})
    np.savez(path, arr_0=foreign["arr_0"])
    with pytest.raises(eb.InputError, match="no statistics"):
        eb.fidelity.read_statistics(path, 6)
    path.write_bytes(b"PK nonsense")
    with pytest.raises(eb.InputError, match=r"no \.npz"):
        eb.fidelity.read_statistics(path, 6)
    with pytest.raises(eb.InputError, match="cannot read"):
        eb.fidelity.read_statistics(tmp_path / "missing.npz", 6)
    buffer = io.BytesIO()
    np.savez(buffer, mu=np.array([{}], dtype=object))
    path.write_bytes(buffer.getvalue())
    with pytest.raises(eb.InputError, match=r"no \.npz"):
        sets.read_statistics(path, 6)


def test_a_reference_is_worked_out_once(monkeypatch):
    rng = np.random.default_rng(11)
    reference = FeatureSet(gaussian_features(rng, 400, 8), np.arange(400))
    calls = []
    original = linalg.cholesky
    monkeypatch.setattr(linalg, "cholesky", lambda c, **k: calls.append(id(c)) or original(c, **k))
    for shift in (0.1, 0.2, 0.3):
        frechet.distance(
            FeatureSet(gaussian_features(rng, 400, 8, 1, shift), np.arange(400)).normal,
            reference.normal,
        )
    assert len(calls) == 4


def test_distances_load_no_torch():
    import subprocess
    import sys

    code = (
        "import sys, exposure_bias as eb; eb.frechet_distance([0], [[1]], [0], [[1]]);"
        " sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_warnings_only_where_n_is_below_d():
    rng = np.random.default_rng(12)
    enough = FeatureSet(rng.standard_normal((64, 4)), np.arange(64))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frechet_values(enough, enough)


def test_statistics_that_claim_too_much(tmp_path: Path) -> None:
    """An exabyte of covariance is refused by its header; images in the file are not read at all."""

    def claimed(shape: tuple[int, ...], dtype: str) -> bytes:
        head = io.BytesIO()
        described = {"descr": dtype, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(head, described)
        return head.getvalue()

    path = tmp_path / "statistics.npz"
    small = io.BytesIO()
    np.save(small, np.eye(6))
    mean = io.BytesIO()
    np.save(mean, np.zeros(6))
    for covariance, refused in ((claimed((2**28, 2**28), "<f8"), True), (small.getvalue(), False)):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("mu.npy", mean.getvalue())
            archive.writestr("sigma.npy", covariance)
            archive.writestr("arr_0.npy", claimed((2**40, 8, 8, 3), "|u1"))
        if refused:
            with pytest.raises(eb.InputError, match=r"would take .* are allowed"):
                eb.fidelity.read_statistics(path, 6)
        else:
            about = {"image_shape": [3, 8, 8]}
            assert eb.fidelity.read_statistics(path, 6, about)[1] is None
