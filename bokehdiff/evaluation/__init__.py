"""How good pictures are: judged against references on disk, or made by a method and judged against what a lens saw."""

from bokehdiff.evaluation.cases import BENCHMARKS, Case, Promised, composites, lens_ground_truth, photographed
from bokehdiff.evaluation.comparisons import Comparison, Framing, match_folders
from bokehdiff.evaluation.judges import KINDS, Panel, judged, panel
from bokehdiff.evaluation.measuring import Method, Outcome, Setup, measure_comparisons, measure_method, picture_of
from bokehdiff.evaluation.plots import plot_by_blur, plot_by_dataset, plot_by_variant, worst
from bokehdiff.evaluation.records import Record, means, read_records, write_records
from bokehdiff.evaluation.robustness import CORRUPTIONS, corrupted
from bokehdiff.evaluation.tables import make_tables, to_csv, to_latex, to_markdown

__all__ = [
    "BENCHMARKS",
    "CORRUPTIONS",
    "KINDS",
    "Case",
    "Comparison",
    "Framing",
    "Method",
    "Outcome",
    "Panel",
    "Promised",
    "Record",
    "Setup",
    "composites",
    "corrupted",
    "judged",
    "lens_ground_truth",
    "make_tables",
    "match_folders",
    "means",
    "measure_comparisons",
    "measure_method",
    "panel",
    "photographed",
    "picture_of",
    "plot_by_blur",
    "plot_by_dataset",
    "plot_by_variant",
    "read_records",
    "to_csv",
    "to_latex",
    "to_markdown",
    "worst",
    "write_records",
]
