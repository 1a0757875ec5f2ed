"""Arguments are held to annotations: what suits, what is refused, and in which words."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

import exposure_bias as eb
from exposure_bias.checking import check_arguments, numbers, suits, words
from exposure_bias.errors import InputError, whole_number
from exposure_bias.schedules import Schedule

NAN = float("nan")
PATH = str | os.PathLike[str] | None
SUITS: list[tuple[Any, list[Any], list[Any]]] = [
    (
        int,
        [0, -3, np.int64(4), np.array(4), torch.tensor(4), 5.0, 10**400],
        [True, np.bool_(1), 0.5, "4", None, NAN, [4], np.array([4]), 4j, object()],
    ),
    (
        float,
        [0, 0.5, np.float32(0.5), float("inf"), torch.tensor(0.5)],
        [True, NAN, np.array(NAN), "0.5", None, [0.5], 1j, 10**400],
    ),
    (bool, [True, np.bool_(0)], [0, 1, "True", None]),
    (str, ["", "x"], [b"x", 1, None, ["x"]]),
    (PATH, ["x", Path("x"), None], [5, b"x", ["x"], True]),
    (
        Sequence[float],
        [[], (1, 0.5), np.zeros(3), range(3), torch.zeros(2)],
        ["12", 3, None, [NAN], ["x"], np.zeros((2, 2)), {"a": 1}, object()],
    ),
    (Sequence[str], [["x"], ()], ["x", [1], {"x": 1}]),
    (Callable[..., Any] | None, [print, None], [5, "print"]),
    (Schedule, [eb.schedules.flow()], ["linear", 5, None, Schedule]),
    (Literal["a", "b"], ["a"], ["c", 1]),
    (Any, [object(), NAN], []),
]


@pytest.mark.parametrize(("hint", "good", "bad"), SUITS, ids=[words(s[0]) for s in SUITS])
def test_what_suits_an_annotation(hint: Any, good: list[Any], bad: list[Any]) -> None:
    assert [value for value in good if not suits(value, hint)] == []
    assert [value for value in bad if suits(value, hint)] == []


def test_the_first_argument_that_does_not_suit_is_named() -> None:
    def mine(a: int, b: "int | str" = 1, *rest: int, c: Sequence[str] = (), **more: int) -> None:
        check_arguments(mine, locals())

    mine(1, "x", 5, c=["x"], d="anything")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"takes a whole number or a text as b, got 0\.5"):
        mine(1, 0.5)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"a list \(each item a text\) as c, got 'xy'"):
        mine(1, c="xy")
    with pytest.raises(InputError, match=r"as a, got an object: correct it"):
        mine(object())  # type: ignore[arg-type]
    with pytest.raises(InputError, match="a number of thousands of digits"):
        mine(1, c=10**5000)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: eb.Denoiser(print, schedule="linear", prediction_type="epsilon", shape=(1,)),
         "takes a Schedule as schedule, got 'linear'"),
        (lambda: eb.Denoiser(print, schedule=eb.schedules.flow(), prediction_type="epsilon",
                             shape=(1,), call=5), "a function or None as call, got 5"),
        (lambda: eb.Denoiser(print, schedule=eb.schedules.flow(), prediction_type="epsilon",
                             shape=(1,), guidance=NAN), "as guidance, got nan"),
        (lambda: eb.schedules.linear(1.5), "a whole number as steps, got 1.5"),
        (lambda: eb.schedules.linear(10**9), "at most 1,000,000"),
        (lambda: eb.schedules.cosine(0), "at least 1"),
        (lambda: eb.schedules.flow(-1), "a scale above 0"),
        (lambda: eb.schedules.from_alphas_cumprod("x"), "alphas_cumprod must be numbers"),
        (lambda: eb.Monitor("x"), "no file or folder 'x'"),
        (lambda: eb.record("digits", "digits", checkpoint=5), "as checkpoint, got 5"),
        (lambda: eb.merge([]), "at least one recording"),
        (lambda: eb.merge("x"), "as recordings, got 'x'"),
        (lambda: eb.load(5), "as path, got 5"),
        (lambda: eb.remedies.ip_equivalent("digits", 0.1), "takes a Denoiser as model"),
        (lambda: eb.oracles.GaussianOracle("x", 1, eb.schedules.flow()), "an oracle's numbers"),
    ],
)  # fmt: skip
def test_public_functions_refuse_in_one_line(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


def test_numbers_and_counts() -> None:
    assert numbers([1, 2.5], "x").tolist() == [1.0, 2.5]
    for wrong in ("x", [1j], [True], object(), None, ["1"], torch.zeros(2, device="meta")):
        with pytest.raises(InputError, match="x must be numbers"):
            numbers(wrong, "x")
    with pytest.raises(InputError, match="at most 5"):
        whole_number(6, "x", most=5)
    for wrong in (NAN, float("inf"), "1", True):
        with pytest.raises(InputError, match="whole number"):
            whole_number(wrong, "x")
