from __future__ import annotations

import pytest

from bokehdiff.app import Equipment, Places, Session
from tests.app.scenes import two_halves


@pytest.fixture
def places(tmp_path):
    places = Places.under(tmp_path / "results")
    yield places
    places.remove_passing()


@pytest.fixture
def session(places):
    return Session(Equipment(places))


@pytest.fixture
def opened(session, tmp_path):
    photograph, disparity = two_halves(tmp_path)
    session.open(photograph, disparity=disparity)
    return session
