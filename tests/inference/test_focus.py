from __future__ import annotations

import pytest
import torch

from bokehdiff.errors import InputError
from bokehdiff.inference import Distance, focus_sweep, parse_focus, resolve_focus
from tests.helpers import assert_close


@pytest.mark.parametrize(
    ("text", "focus"),
    [
        ("subject", "subject"),
        ("0.4", 0.4),
        ("10,20", (10.0, 20.0)),
        ("1,2,30,40.5", (1.0, 2.0, 30.0, 40.5)),
        ("2.5m", Distance(2.5)),
        ("camera", Distance(None)),
    ],
)
def test_focus_is_read_in_all_its_forms(text, focus):
    assert parse_focus(text) == focus


@pytest.mark.parametrize("text", ["", "near", "1,2,3", "1,2,3,4,5", "1,x", "m", "-1m", "0m"])
def test_focus_that_is_none_is_refused(text):
    with pytest.raises(InputError, match="must be subject, a disparity, a point"):
        parse_focus(text)


def test_focus_becomes_a_disparity():
    disparity = torch.linspace(0, 1, 60).reshape(1, 6, 10)
    mask = torch.zeros(1, 6, 10)
    mask[:, 0, 3] = 1.0
    assert_close(resolve_focus(disparity, "subject", mask), disparity[:, 0, 3])
    assert_close(resolve_focus(disparity, 0.25), torch.tensor([0.25]))
    assert_close(resolve_focus(disparity, (3.0, 0.0, 4.0, 1.0)), disparity[:, 0, 3])
    assert_close(resolve_focus(disparity, (4.5, 2.5)), disparity[:, 2, 4])
    assert 0.3 < float(resolve_focus(disparity, "subject")) < 0.7, "without a mask: the centre"


def test_focus_outside_the_range_is_refused():
    with pytest.raises(InputError, match=r"must be in \[0, 1\], 1 nearest; got 1\.5"):
        resolve_focus(torch.rand(1, 3, 3), 1.5)
    with pytest.raises(InputError, match="needs to know the scene's distances"):
        resolve_focus(torch.rand(1, 3, 3), Distance(2.0))


def test_sweep_goes_from_the_subject_towards_both_ends():
    assert focus_sweep(0.5) == pytest.approx((0.5, 0.8, 0.2))
    assert focus_sweep(1.0) == pytest.approx((1.0, 0.4))
    assert focus_sweep(0.0) == pytest.approx((0.0, 0.6))
