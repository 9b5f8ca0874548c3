"""What was measured of each picture: JSON lines on disk, means over what belongs together."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bokehdiff.errors import InputError
from bokehdiff.images import write_atomically


@dataclass(frozen=True)
class Record:
    """The numbers of one picture.

    Args:
        dataset: Where its reference is from.
        method: What made it.
        name: Of the picture.
        numbers: By metric.
        blur_px: Largest circle of confusion asked for [px]; None where it is unknown.
        variant: What was done to its input, such as "disparity blurred"; empty for nothing.
    """

    dataset: str
    method: str
    name: str
    numbers: dict[str, float] = field(default_factory=dict)
    blur_px: float | None = None
    variant: str = ""


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Write records as JSON lines; numbers that are not finite become null.

    Args:
        path: File; its folder is there.
        records: What to write.
    """
    lines = []
    for record in records:
        content = asdict(record)
        content["numbers"] = {k: v if math.isfinite(v) else _spelled(v) for k, v in record.numbers.items()}
        lines.append(json.dumps(content, ensure_ascii=False) + "\n")
    with write_atomically(path) as partial:
        partial.write_text("".join(lines), encoding="utf-8")


def _spelled(value: float) -> str | None:
    """JSON knows no infinity, which is the PSNR of equal pictures."""
    return None if math.isnan(value) else str(value)


def read_records(path: Path) -> list[Record]:
    """Read what `write_records` wrote.

    Args:
        path: A file of JSON lines.
    """
    records = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            content = json.loads(line)
            numbers = {key: math.nan if value is None else float(value) for key, value in content["numbers"].items()}
            records.append(Record(**content | {"numbers": numbers}))
        except (ValueError, TypeError, KeyError, AttributeError):
            raise InputError(f"{path}, line {number} is not a record of `bokehdiff evaluate`") from None
    return records


def means(records: Iterable[Record], key: Callable[[Record], str]) -> dict[str, dict[str, float]]:
    """The mean of each metric over records of one key, over those pictures of which it can be told.

    Args:
        records: What was measured.
        key: What belongs together.
    """
    groups: dict[str, dict[str, list[float]]] = {}
    for record in records:
        group = groups.setdefault(key(record), {})
        for metric, value in record.numbers.items():
            group.setdefault(metric, []).extend([] if math.isnan(value) else [value])
    return {
        name: {metric: sum(values) / len(values) if values else math.nan for metric, values in group.items()}
        for name, group in groups.items()
    }
