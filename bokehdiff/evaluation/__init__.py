"""How good pictures are: judged against references on disk, or made by a method and judged against what a lens saw."""

from bokehdiff.evaluation.cases import Case, lens_ground_truth
from bokehdiff.evaluation.judges import KINDS, Panel, judged, panel
from bokehdiff.evaluation.measuring import Method, Outcome, Setup, measure_method, measure_pairs
from bokehdiff.evaluation.pairs import Framing, Pair, pair_folders
from bokehdiff.evaluation.plots import plot_by_blur, plot_by_dataset, plot_by_variant, worst
from bokehdiff.evaluation.records import Record, means, read_records, write_records
from bokehdiff.evaluation.robustness import CORRUPTIONS, corrupted
from bokehdiff.evaluation.tables import make_tables, to_csv, to_latex, to_markdown

__all__ = [
    "CORRUPTIONS",
    "KINDS",
    "Case",
    "Framing",
    "Method",
    "Outcome",
    "Pair",
    "Panel",
    "Record",
    "Setup",
    "corrupted",
    "judged",
    "lens_ground_truth",
    "make_tables",
    "means",
    "measure_method",
    "measure_pairs",
    "pair_folders",
    "panel",
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
