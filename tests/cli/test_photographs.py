from __future__ import annotations

import logging
from pathlib import Path

import pytest

from bokehdiff.cli.photographs import render_each
from bokehdiff.errors import InputError

PHOTOGRAPHS = [Path("in") / f"{name}.jpg" for name in "abc"]


def test_every_file_that_is_written_is_told(caplog, capsys):
    with caplog.at_level(logging.INFO):
        assert render_each(PHOTOGRAPHS, lambda path: [Path("out") / path.name, Path("out") / path.stem]) == 0
    assert [record.getMessage() for record in caplog.records][:2] == ["wrote out/a.jpg", "wrote out/a"]
    assert len(caplog.records) == 6
    assert not capsys.readouterr().out


def test_one_that_fails_stops_no_other_and_is_told_at_the_end(caplog, capsys):
    done = []

    def render(path):
        if path.stem == "b":
            raise InputError("is broken", flag="--image")
        done.append(path.stem)
        return []

    assert render_each(PHOTOGRAPHS, render) == 1
    assert done == ["a", "c"]
    told = "b.jpg: --image: is broken"
    assert capsys.readouterr().out.splitlines() == ["2 of 3 photographs rendered; failed:", told]
    assert told in caplog.text


def test_a_mistake_of_ours_is_not_taken_for_a_bad_photograph():
    def render(path):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        render_each(PHOTOGRAPHS, render)
