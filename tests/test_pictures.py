from __future__ import annotations

import pytest
import torch

from bokehdiff.errors import InputError
from bokehdiff.pictures import CAPTION_PX, GAP_PX, colour_coc, colour_disparity, contact_sheet
from tests.helpers import assert_close


def test_contact_sheet_holds_every_image_untouched():
    left, right = torch.rand(2, 3, 20, 30), torch.rand(2, 3, 20, 30)
    sheet = contact_sheet({"left": left, "right": right})
    assert sheet.shape == (1, 3, CAPTION_PX + 20 + GAP_PX + 20, 30 + GAP_PX + 30)
    assert_close(sheet[0, :, CAPTION_PX : CAPTION_PX + 20, :30], left[0])
    assert_close(sheet[0, :, -20:, -30:], right[1])
    assert (sheet[0, :, :CAPTION_PX] < 0.5).any(), "the captions are written"


def test_contact_sheet_goes_on_below():
    named = {name: torch.rand(1, 3, 10, 40) for name in ("a", "b", "c")}
    sheet = contact_sheet(named, n_across=2)
    above, below = sheet.split(CAPTION_PX + 10, dim=2)
    assert torch.equal(above, contact_sheet({name: named[name] for name in ("a", "b")}))
    assert torch.equal(below[..., :40], contact_sheet({"c": named["c"]}))
    assert torch.equal(below[..., 40:], torch.ones(1, 3, CAPTION_PX + 10, 40 + GAP_PX))
    assert torch.equal(contact_sheet(named, n_across=3), contact_sheet(named))


def test_contact_sheet_refuses_images_of_different_sizes():
    with pytest.raises(InputError, match="one shape; got"):
        contact_sheet({"a": torch.rand(1, 3, 4, 4), "b": torch.rand(1, 3, 4, 5)})


def test_colours_tell_near_from_far_and_front_from_behind():
    near_far = colour_disparity(torch.tensor([[[1.0, 0.0]]]))[0, :, 0]
    assert near_far[:, 0].sum() > near_far[:, 1].sum(), "near is bright"
    front, focus, behind = colour_coc(torch.tensor([[[8.0, 0.0, -8.0]]]), limit_px=10.0)[0, :, 0].unbind(dim=1)
    assert front[0] > front[2], "in front of the focus is red"
    assert behind[2] > behind[0], "behind it is blue"
    assert focus.min() > 0.95, "in focus is white"
