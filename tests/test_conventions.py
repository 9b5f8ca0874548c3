from __future__ import annotations

import re

from tests.helpers import REPOSITORY, TOLERANCE

PAGE = (REPOSITORY / "docs" / "conventions.md").read_text(encoding="utf-8")


def test_the_examples_of_the_page_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(blocks) >= 5
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "docs/conventions.md", "exec"), names)


def test_the_page_tells_the_tolerances_that_tests_use():
    rows = re.findall(r"^\| (float\d+|bfloat16) \| ([\d.e-]+) \| ([\d.e-]+) \|$", PAGE, flags=re.MULTILINE)
    told = {name: {"rtol": float(relative), "atol": float(absolute)} for name, relative, absolute in rows}
    assert told == {str(dtype).removeprefix("torch."): tolerance for dtype, tolerance in TOLERANCE.items()}
