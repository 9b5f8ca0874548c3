"""Tables of means, for reading, for papers and for spreadsheets: a row per method, a column per metric."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bokehdiff.evaluation.judges import KINDS
from bokehdiff.evaluation.published import PUBLISHED
from bokehdiff.evaluation.records import Record, means

NAMES = {"psnr": "PSNR", "ssim": "SSIM", "ms_ssim": "MS-SSIM", "lpips_alex": "LPIPS (alex)", "lpips_vgg": "LPIPS (vgg)"}
NAMES |= {"dists": "DISTS", "lpips": "LPIPS"}


@dataclass(frozen=True)
class Table:
    """Means of one dataset.

    Args:
        dataset: Its name.
        metrics: Columns, in order.
        rows: Numbers by method; a metric that is not there is unknown.
        sources: Where rows that were not measured here are from, by method.
        n_pictures: How many pictures each measured row is the mean of, by method.
    """

    dataset: str
    metrics: tuple[str, ...]
    rows: dict[str, dict[str, float]]
    sources: dict[str, str]
    n_pictures: dict[str, int]

    def best(self, metric: str) -> float:
        """The best number of a column; not a number where there is none."""
        values = [row[metric] for row in self.rows.values() if not math.isnan(row.get(metric, math.nan))]
        if not values:
            return math.nan
        return max(values) if is_higher_better(metric) else min(values)


def is_higher_better(metric: str) -> bool:
    """Whether more of a metric is nearer to the reference."""
    return metric in KINDS and KINDS[metric].higher_is_better


def make_tables(records: Sequence[Record], *, with_published: bool = True) -> list[Table]:
    """A table per dataset, with the rows that papers report of it.

    Args:
        records: What was measured.
        with_published: Put the papers' rows beside ours.
    """
    tables = []
    for dataset in dict.fromkeys(record.dataset for record in records):
        of_dataset = [record for record in records if record.dataset == dataset]
        rows = means(of_dataset, _row_name)
        told = [row for row in PUBLISHED if row.dataset == dataset] if with_published else []
        for row in told:
            rows.setdefault(row.method, row.numbers)
        columns = dict.fromkeys(metric for row in rows.values() for metric in row)
        tables.append(
            Table(
                dataset=dataset,
                metrics=tuple(sorted(columns, key=list(NAMES).index)),
                rows=rows,
                sources={row.method: row.source for row in told},
                n_pictures={name: sum(_row_name(record) == name for record in of_dataset) for name in rows},
            )
        )
    return tables


def _row_name(record: Record) -> str:
    return f"{record.method}, {record.variant}" if record.variant else record.method


def to_markdown(tables: Sequence[Table]) -> str:
    """Tables in Markdown, the best number of each column in bold, sources below.

    Args:
        tables: What to write.
    """
    parts = []
    for table in tables:
        heads = [f"{NAMES[metric]} {'up' if is_higher_better(metric) else 'down'}" for metric in table.metrics]
        lines = [f"### {table.dataset}", "", _row(["method", "pictures", *heads]), _row(["---"] * (2 + len(heads)))]
        for method, numbers in table.rows.items():
            count = str(table.n_pictures[method] or "")
            lines.append(_row([method, count, *_cells(table, numbers, lambda text: f"**{text}**")]))
        notes = [f"{method}: {source}." for method, source in table.sources.items()]
        parts.append("\n".join([*lines, "", *dict.fromkeys(notes)]).rstrip() + "\n")
    return "\n".join(parts)


def to_latex(tables: Sequence[Table]) -> str:
    """Tables as LaTeX's tabular, the best number of each column in bold.

    Args:
        tables: What to write.
    """
    parts = []
    for table in tables:
        arrows = [r"$\uparrow$" if is_higher_better(metric) else r"$\downarrow$" for metric in table.metrics]
        heads = [f"{NAMES[metric]} {arrow}" for metric, arrow in zip(table.metrics, arrows, strict=True)]
        lines = [f"% {table.dataset}", r"\begin{tabular}{l" + "r" * len(heads) + "}", _latex_row(["method", *heads])]
        lines.append(r"\hline")
        for method, numbers in table.rows.items():
            lines.append(_latex_row([_escaped(method), *_cells(table, numbers, lambda text: rf"\textbf{{{text}}}")]))
        parts.append("\n".join([*lines, r"\end{tabular}"]) + "\n")
    return "\n".join(parts)


def to_csv(tables: Sequence[Table]) -> str:
    """Tables as comma-separated values in full precision: dataset, method, pictures, then a column per metric.

    Args:
        tables: What to write.
    """
    metrics = list(dict.fromkeys(metric for table in tables for metric in table.metrics))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["dataset", "method", "pictures", *metrics])
    for table in tables:
        for method, numbers in table.rows.items():
            values = [numbers.get(metric, math.nan) for metric in metrics]
            cells = ["" if math.isnan(value) else repr(value) for value in values]
            writer.writerow([table.dataset, method, table.n_pictures[method] or "", *cells])
    return text.getvalue()


def _cells(table: Table, numbers: dict[str, float], emphasised: Callable[[str], str]) -> list[str]:
    cells = []
    for metric in table.metrics:
        value = numbers.get(metric, math.nan)
        text = "" if math.isnan(value) else f"{value:.{KINDS[metric].digits if metric in KINDS else 4}f}"
        cells.append(emphasised(text) if text and value == table.best(metric) and len(table.rows) > 1 else text)
    return cells


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _escaped(text: str) -> str:
    return "".join(f"\\{letter}" if letter in "&%$#_{}" else letter for letter in text)
