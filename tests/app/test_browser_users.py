"""Who uses the page: two people at once, somebody with a phone, somebody with no mouse."""

from __future__ import annotations

import pytest

from tests.app.driving import (
    DESKTOP,
    PHONE,
    bring_depth,
    changed,
    click_at,
    number_of,
    open_sample,
    rendered,
    shown,
    source_of,
    visit,
)
from tests.app.scenes import detail, two_halves

pytestmark = [pytest.mark.browser]

MOST_TABS = 80  # from one end of the page to the other
LEAST_TARGET_PX = 24  # of a button, by WCAG 2.2, 2.5.8


@pytest.fixture
def other(served, browser):
    """The page of a second user."""
    context = browser.new_context(viewport=DESKTOP, accept_downloads=True)
    page = visit(context, served[0])
    open_sample(page, "Leaves")
    yield page
    context.close()


@pytest.fixture
def phone(served, browser):
    """The page on a phone, with a sample open."""
    context = browser.new_context(viewport=PHONE, device_scale_factor=3, has_touch=True, is_mobile=True)
    page = visit(context, served[0])
    open_sample(page, "Motorcycle")
    yield page
    context.close()


def tab_to(page, selector: str) -> None:
    """Go on with the Tab key until what the selector names has the focus."""
    for _ in range(MOST_TABS):
        page.keyboard.press("Tab")
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
    raise AssertionError(f"the Tab key does not lead to {selector}")


def test_two_users_have_a_photo_each(halves, other):
    click_at(halves, 0.25)
    assert shown(halves).shape[2:] == (480, 720)
    assert shown(other).shape[2:] == (256, 256)


def test_two_users_render_at_once_and_each_gets_their_own(halves, other, served):
    for page in (halves, other):
        page.click("#render")
    assert "halves_K" in rendered(halves)
    assert "leaves_K" in rendered(other)
    for page, stem in ((halves, "halves"), (other, "leaves")):
        with page.expect_download() as coming:
            page.click("#download")
        assert coming.value.suggested_filename.startswith(f"{stem}_K")
        assert (served[1] / coming.value.suggested_filename).is_file()


def test_one_user_cancelling_does_not_end_the_others_work(halves, other):
    halves.click("#render")
    other.click("#render")
    other.click("#cancel")
    assert "halves_K" in rendered(halves)
    other.wait_for_function("() => /Cancelled|Rendered/.test(document.querySelector('#progress')?.innerText)")


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_nothing_is_wider_than_the_window(halves, viewport):
    halves.set_viewport_size(viewport)
    assert halves.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert halves.locator("#stage img").is_visible()


def test_the_picture_follows_the_window(page, tmp_path):
    photograph, disparity = two_halves(tmp_path, size_hw=(800, 1200))
    page.set_viewport_size(PHONE)
    page.set_input_files("#top input[type=file]", photograph)
    page.wait_for_selector("#stage img")
    bring_depth(page, disparity)
    narrow, before = shown(page).shape, source_of(page)
    for viewport, is_larger in ((DESKTOP, True), (PHONE, False)):
        page.set_viewport_size(viewport)
        before = changed(page, before)
        assert (shown(page).shape > narrow) == is_larger
        for x_share, focus in ((0.55, 0.0), (0.45, 1.0)):
            click_at(page, x_share)
            assert number_of(page, "focus") == focus
        before = source_of(page)


def test_on_a_phone_a_tap_focuses_and_a_finger_reaches_everything(phone):
    before, focus = source_of(phone), number_of(phone, "focus")
    box = phone.locator("#stage img").bounding_box()
    assert box["width"] > 0.85 * PHONE["width"]
    phone.touchscreen.tap(box["x"] + 0.5 * box["width"], box["y"] + 0.05 * box["height"])  # the shelves, far behind
    changed(phone, before)
    assert number_of(phone, "focus") < focus
    assert phone.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    for button in ("Render", "Open a photo"):
        size = phone.get_by_role("button", name=button, exact=True).bounding_box()
        assert min(size["width"], size["height"]) >= LEAST_TARGET_PX
    phone.get_by_role("button", name="Render", exact=True).tap()
    assert "motorcycle_K" in rendered(phone)


def test_with_the_keyboard_alone_a_photo_is_opened_focused_rendered_and_saved(page):
    tab_to(page, "#samples button")
    page.keyboard.press("Enter")
    page.wait_for_selector("#stage img")
    before = source_of(page)
    tab_to(page, "#focus input[type=range]")
    page.keyboard.press("Home")
    before = changed(page, before)
    assert number_of(page, "focus") == 0.0
    far = detail(shown(page))
    page.keyboard.press("End")
    changed(page, before)
    assert number_of(page, "focus") == 1.0
    assert detail(shown(page)) != far
    tab_to(page, "#render")
    page.keyboard.press("Enter")
    rendered(page)
    tab_to(page, "#download, #download *")
    with page.expect_download() as coming:
        page.keyboard.press("Enter")
    assert coming.value.suggested_filename.endswith("_physical.jpg")


def test_what_has_the_keyboard_is_outlined(page):
    tab_to(page, "#open")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
