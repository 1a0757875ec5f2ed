"""Class-conditional models: each image's own label reaches the network, in every stream and at
every batch size."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

import exposure_bias as eb
from exposure_bias.experiments.chain_errors import chain_errors
from exposure_bias.run import UNKNOWN_GUIDANCE
from exposure_bias.schedules import linear

CLASSES = 3
SHAPE = (1, 4, 4)


class ClassMeans(torch.nn.Module):
    """The exact denoiser of class c when its images are all equal to (c − 1)/2."""

    def forward(self, x: Tensor, timestep: Tensor, labels: Tensor) -> Tensor:
        return ((labels - 1) / 2).to(x.dtype)[:, None, None, None].expand_as(x)


def model(**options: object) -> eb.Denoiser:
    options = {"classes": CLASSES} | options
    return eb.Denoiser(
        ClassMeans(), schedule=linear(100), prediction_type="sample", shape=SHAPE, **options
    )


def data(labels: object = None) -> object:
    classes = np.arange(20) % CLASSES if labels is None else labels
    images = np.broadcast_to(
        ((np.arange(20) % CLASSES - 1) / 2)[:, None, None, None], (20, *SHAPE)
    ).astype(np.float32)
    return eb.load_data(images, labels=classes)


@pytest.mark.filterwarnings("ignore:.*images recur")
@pytest.mark.parametrize("batch_size", [7, 64])
def test_every_state_meets_its_own_label(batch_size: int) -> None:
    recording = eb.record(model(), data(), steps=5, n=33, batch_size=batch_size)
    for stream in ("forward", "chain"):
        assert np.nanmax(recording[stream]["prediction_error"].values) < 1e-6
    for mode in ("chain", "single"):
        errors = chain_errors(model(), data(), (3, 50), n=33, mode=mode, batch_size=batch_size)
        assert np.abs(errors["error"]).max() < 1e-6
    shifted = eb.record(
        model(), data((np.arange(20) + 1) % CLASSES), steps=5, n=33, batch_size=batch_size
    )
    assert np.nanmin(shifted["chain"]["prediction_error"].values) > 0.2


def test_given_binds_a_copy_of_the_same_network() -> None:
    free = model()
    bound = free.given([2, 0])
    x = torch.zeros(2, *SHAPE)
    assert bound.net is free.net
    assert bound(x, free.schedule.level(3))[:, 0, 0, 0].tolist() == [0.5, -0.5]
    assert bound.given([0, 0])(x, free.schedule.level(3)).max() == -0.5
    with pytest.raises(eb.InputError, match=r"bind each batch's labels with model.given"):
        free(x, free.schedule.level(3))
    with pytest.raises(eb.InputError, match="2 class labels were given for a batch of 3"):
        bound(torch.zeros(3, *SHAPE), free.schedule.level(3))


def test_an_unconditional_model_is_its_own() -> None:
    oracle = eb.oracles.GaussianOracle(np.zeros(SHAPE), 0.1, linear(100))
    assert oracle.given(None) is oracle.given([1, 2]) is oracle


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            None,
            (
                r"class-conditional: give one of the 3 classes 0 to 2 for each image with"
                r" load_data\(images, labels="
            ),
        ),
        ([0, 3], "class label 3 is unknown"),
        ([-1], "class label -1 is unknown"),
        ([0.0, 1.0], r"labels are torch.float32 of shape \(2,\)"),
        ([[0, 1]], r"of shape \(1, 2\)"),
    ],
)
def test_bad_labels(labels: object, message: str) -> None:
    with pytest.raises(eb.InputError, match=message):
        model().given(labels)


def test_data_without_labels_for_a_conditional_model() -> None:
    images = np.zeros((4, *SHAPE), np.float32)
    for run in (eb.record, chain_errors):
        with pytest.raises(eb.InputError, match=r"class-conditional.*load_data\(images, labels="):
            run(model(), images)
    for labels in (np.arange(3), np.zeros(4), np.zeros((4, 1), int)):
        with pytest.raises(eb.InputError, match="allowed are 4 integer labels"):
            eb.load_data(images, labels=labels)
    with pytest.raises(eb.InputError, match="at least one class, got 0"):
        model(classes=0)


def test_a_guided_model_has_no_gaussian_reference() -> None:
    rng, oracle = (
        np.random.default_rng(0),
        eb.oracles.GaussianOracle(np.zeros(SHAPE), 0.1, linear(100)),
    )
    images = eb.load_data(rng.normal(0, 0.3, (32, *SHAPE)).astype(np.float32), value_range=None)

    def scaled(guidance: float) -> eb.Denoiser:
        oracle.guidance = guidance
        return oracle

    for run in (
        lambda m: eb.rollouts(m, images, steps=3, starts=[50]),
        lambda m: eb.telescope(m, images, steps=3, starts=[50]),
        lambda m: eb.variance_gap(eb.record(m, images, steps=3)),
    ):
        guided, plain = run(scaled(4.0)), run(scaled(1.0))
        assert not [name for name in guided if "_gaussian" in str(name)]
        assert guided.attrs["no_reference"].startswith("guidance 4.0 aims at another distribution")
        assert [name for name in plain if "_gaussian" in str(name)]
        assert "no_reference" not in plain.attrs
        assert plain.attrs["guidance"] == "1.0"
        assert "gap" not in plain.attrs


def test_guidance_of_unknown_scale_has_no_reference_either() -> None:
    recording = eb.record(model(), data(), steps=3)
    run = recording.run
    recording = replace(
        recording, run=replace(run, model=replace(run.model, guidance=UNKNOWN_GUIDANCE))
    )
    assert (
        eb.variance_gap(recording)
        .attrs["no_reference"]
        .startswith("guidance of unknown scale aims")
    )


def test_conditioning_is_recorded() -> None:
    guided = eb.record(model(guidance=4.0), data(), steps=3)
    run = guided.provenance["run"]
    assert (run["model"]["guidance"], run["model"]["classes"]) == (4.0, CLASSES)
    assert guided.description["gap"] == "guidance + bias"
    errors = chain_errors(model(guidance=4.0), data(), (3,))
    assert errors.attrs["gap"] == "guidance + bias"
    assert errors.attrs["no_reference"].startswith("guidance 4.0 aims at another distribution")
    assert "std_gaussian" not in errors
    assert "std_gaussian" in chain_errors(model(), data(), (3,))
    plain = eb.record(model(), data(), steps=3)
    assert "gap" not in plain.description
    others = eb.record(model(), data((np.arange(20) + 1) % CLASSES), steps=3, n=20, first=20)
    with pytest.raises(eb.InputError, match="they differ in data labels"):
        eb.merge([plain, others])


class Context(torch.nn.Module):
    """A network that holds a context for a batch of four."""

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        return x + torch.arange(4.0)[:, None, None, None].to(x)


def test_a_context_for_a_batch_of_another_size_is_named() -> None:
    held = eb.Denoiser(Context(), schedule=linear(100), prediction_type="sample", shape=SHAPE)
    with pytest.raises(
        eb.InputError,
        match=r"Context cannot be called on a batch of 7 states \(1, 4, 4\): The size of tensor a"
        r" \(7\) .*holds a context of its own .* give embeddings with a row for each"
        r" prompt to adapt, or classes= and call=",
    ):
        eb.record(held, data(), steps=3, n=7)
