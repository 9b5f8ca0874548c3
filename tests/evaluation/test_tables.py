from __future__ import annotations

import math

import pytest

from bokehdiff.errors import InputError
from bokehdiff.evaluation import (
    Record,
    make_tables,
    means,
    plot_by_blur,
    plot_by_dataset,
    plot_by_variant,
    read_records,
    to_csv,
    to_latex,
    to_markdown,
    worst,
    write_records,
)

RECORDS = [
    Record("EBB! Val294", "ours", "4400", {"psnr": 24.0, "ssim": 0.80}, 10.0),
    Record("EBB! Val294", "ours", "4401", {"psnr": 26.0, "ssim": math.nan}, 20.0),
    Record("EBB! Val294", "theirs_2", "4400", {"psnr": 23.0, "ssim": 0.9}, 10.0),
    Record("other", "ours", "x", {"psnr": math.inf, "lpips_vgg": 0.25}, None, "disparity blurred"),
]


def test_records_survive_the_disk(tmp_path):
    write_records(tmp_path / "records.jsonl", RECORDS)
    read = read_records(tmp_path / "records.jsonl")
    assert [record.name for record in read] == ["4400", "4401", "4400", "x"]
    assert read[0] == RECORDS[0]
    assert math.isnan(read[1].numbers["ssim"])
    assert read[3].numbers["psnr"] == math.inf


@pytest.mark.parametrize("line", ["{", "[]", '{"dataset": "a"}', '{"numbers": {"psnr": "x"}, "dataset": "a"}'])
def test_a_line_that_is_no_record_is_named(tmp_path, line):
    write_records(tmp_path / "records.jsonl", RECORDS[:1])
    with (tmp_path / "records.jsonl").open("a") as stream:
        stream.write(line + "\n")
    with pytest.raises(InputError, match=r"records\.jsonl, line 2 is not a record"):
        read_records(tmp_path / "records.jsonl")


def test_means_leave_out_what_could_not_be_told():
    mean = means(RECORDS[:2], lambda record: record.method)
    assert mean == {"ours": {"psnr": 25.0, "ssim": 0.8}}


def test_markdown_has_the_papers_rows_beside_ours_and_the_best_in_bold():
    text = to_markdown(make_tables(RECORDS))
    assert "| ours | 2 | **25.00** | 0.8000 |" in text
    assert "| theirs_2 | 1 | 23.00 | **0.9000** |" in text
    assert "| BokehDiff (paper) |  | 24.65 | 0.8357 |" in text
    assert "BokehDiff (paper): BokehDiff (ICCV 2025), arXiv 2507.18060." in text
    assert "| ours, disparity blurred | 1 | inf | 0.2500 |" in text
    assert "paper" not in to_markdown(make_tables(RECORDS, with_published=False))


def test_latex_and_csv_hold_the_same_numbers():
    tables = make_tables(RECORDS, with_published=False)
    latex = to_latex(tables)
    assert r"theirs\_2 & 23.00 & \textbf{0.9000} \\" in latex
    assert latex.count(r"\begin{tabular}{lrr}") == 2
    lines = to_csv(tables).splitlines()
    assert lines[0] == "dataset,method,pictures,psnr,ssim,lpips_vgg"
    assert lines[1] == "EBB! Val294,ours,2,25.0,0.8,"


def test_the_worst_come_first_whichever_way_is_worse():
    assert [record.name for record in worst(RECORDS[:3], "psnr", 2)] == ["4400", "4400"]
    assert worst(RECORDS[:3], "psnr", 2)[0].method == "theirs_2"
    lower = [Record("d", "m", str(value), {"dists": value}) for value in (0.1, 0.3, 0.2)]
    assert [record.name for record in worst(lower, "dists")] == ["0.3", "0.2", "0.1"]


@pytest.mark.parametrize("plot", [plot_by_blur, plot_by_dataset, plot_by_variant])
def test_plots_are_written_or_say_what_is_missing(plot, tmp_path):
    assert plot(RECORDS, "ssim", tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InputError, match="no picture has"):
        plot(RECORDS, "dists", tmp_path / "none.png")
