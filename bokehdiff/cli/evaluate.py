"""`bokehdiff evaluate`: pictures against references, or methods against what a lens saw."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

from bokehdiff.errors import InputError, at_fault

logger = logging.getLogger(__name__)

INPUT = "input"  # the photograph as it is, whatever the disparity
PHYSICAL = ("scatter", "occlusion_aware", "layered")
NEURAL = ("neural", "hybrid")
BASELINES = ("pynet", "double-vnet")
Dataset = Literal["lens-ground-truth", "ebb-val294", "ebb400", "blb", "realbokeh", "aim", "folders", "composites"]
METRICS = "psnr,ssim,ms_ssim,lpips_alex,lpips_vgg,dists"


@dataclass(frozen=True)
class EvaluateOptions:
    """Measure how near pictures are to their references, and write records, tables, plots and the worst pictures.

    Two folders are compared picture by picture; or, with --dataset, methods make the pictures themselves. Records that
    were written before can be put into the same tables. Metrics whose weights are missing say so; the rest is computed.

    Args:
        predictions: Folder or glob of pictures.
        references: Folder or glob of what they should be, by the same names.
        dataset: Let methods render the photographs of a dataset; none compares two folders. lens-ground-truth is a
            folder of NAME.npz with NAME.json; folders is a/ and b/ with depth/; composites are composed as for training
            from a folder with *fg/ and bg/.
        root: Where the dataset lies.
        methods: What renders, with commas: input (the photograph as it is), scatter, occlusion_aware, layered, neural,
            hybrid (physics, but the network where it guesses better), pynet, double-vnet.
        K: Blur strength where the dataset does not tell it: radius at one unit of disparity in [0, 1] from the middle
            of the picture, which is in focus [px].
        corruptions: Also with disparity that is wrong, with commas: eroded, dilated, blurred, quantised; or all.
        records: Files of records that join the tables, with commas.
        metrics: With commas.
        name: What the pictures are of, for tables; none for the references' folder.
        method: What made the pictures, for tables; none for their folder.
        output_dir: Where everything goes.
        border_px: Left out on every side [px].
        multiple: Sides are cut down to a multiple of this, about the middle [px].
        allow_missing: References without a picture are left out.
        published: Put rows that papers report beside ours.
        pretrained_model_name_or_path: SDXL base of neural and hybrid: folder or hub id.
        resume_from_checkpoint: Adapter of neural and hybrid; none for the published one.
        pynet_weights: Weights of pynet: a folder that bokehdiff train-baseline wrote, or an .npz.
        double_vnet_weights: The same of double-vnet.
        composites: How many pairs are composed.
        composition: What they are drawn from, as for bokehdiff train.
        resolution: Their side [px].
        seed: Of the composites.
        hub_dir: torch's hub folder with the metrics' weights in checkpoints/; none for torch's own.
        jobs: Processes that render and judge side by side, each with networks of its own.
        device: Where to compute: auto, cpu, cuda.
    """

    predictions: str | None = None
    references: str | None = None
    dataset: Dataset | None = None
    root: str | None = None
    methods: str = "input,scatter,occlusion_aware,layered"
    K: float = 20.0
    corruptions: str | None = None
    records: str | None = None
    metrics: str = METRICS
    name: str | None = None
    method: str | None = None
    output_dir: str = "bokehdiff_evaluation"
    border_px: int = 0
    multiple: int = 1
    allow_missing: bool = False
    published: bool = True
    pretrained_model_name_or_path: str = "SG161222/RealVisXL_V5.0"
    resume_from_checkpoint: str | None = None
    pynet_weights: str | None = None
    double_vnet_weights: str | None = None
    composites: int = 32
    composition: Literal["published", "bokehdiff"] = "published"
    resolution: int = 512
    seed: int = 0
    hub_dir: str | None = None
    jobs: int = 1
    device: str = "auto"


OPTIONS = EvaluateOptions
POSITIONAL = ("predictions", "references")


def run(options: EvaluateOptions) -> int:
    """Measure, write, print the table.

    Args:
        options: The command line.

    Returns:
        0 if everything was measured, else 1.
    """
    from bokehdiff.evaluation import Framing, Outcome, Setup, read_records, write_records
    from bokehdiff.images import make_folder

    _check(options)
    from bokehdiff.devices import pick_device

    with at_fault("--output-dir"):
        folder = make_folder(options.output_dir)
    with at_fault("--device"):
        device = str(pick_device(options.device))
    with at_fault("--border-px"):
        framing = Framing(options.border_px, options.multiple)
    hub_dir = Path(options.hub_dir).expanduser() if options.hub_dir else None
    setup = Setup(tuple(_words(options.metrics)), framing, device, hub_dir)
    with at_fault("--metrics"):
        absent = setup.panel().absent
    outcomes: list[Outcome] = []
    if options.dataset:
        outcomes += _rendered(options, setup, folder)
    elif options.predictions:
        outcomes.append(_compared(options, setup))
    records = [record for outcome in outcomes for record in outcome.records]
    if records:
        write_records(folder / "records.jsonl", records)
    with at_fault("--records"):
        for file in _words(options.records):
            records += read_records(Path(file))
    failures = {name: why for outcome in outcomes for name, why in outcome.failures.items()}
    _tell(options, folder, records, absent=absent, failures=failures)
    return 1 if failures or not records else 0


def _check(options: EvaluateOptions) -> None:
    """Refuse what contradicts itself before any file is read."""
    if options.dataset and (options.predictions or options.references):
        raise InputError("renders its own pictures: leave --predictions and --references out", flag="--dataset")
    if options.dataset and not options.root:
        raise InputError("is needed with --dataset: the folder that it lies in", flag="--root")
    if bool(options.predictions) != bool(options.references):
        missing = "--references" if options.predictions else "--predictions"
        raise InputError("is needed too: pictures are compared with what they should be", flag=missing)
    if not (options.dataset or options.predictions or options.records):
        raise InputError("name two folders, or a --dataset with its --root, or --records", flag="--predictions")
    if options.corruptions and not options.dataset:
        raise InputError("needs a --dataset: pictures on disk are made already", flag="--corruptions")
    for flag, value in (("--jobs", options.jobs), ("--composites", options.composites)):
        if value < 1:
            raise InputError(f"must be at least 1; got {value}", flag=flag)


def _words(text: str | None) -> list[str]:
    return [word.strip() for word in (text or "").split(",") if word.strip()]


def _compared(options: EvaluateOptions, setup: Any) -> Any:
    from bokehdiff.evaluation import match_folders, measure_comparisons

    assert options.predictions is not None  # noqa: S101  checked at the door
    assert options.references is not None  # noqa: S101  checked at the door
    with at_fault("--predictions"):
        pairs = match_folders(options.predictions, options.references, allow_missing=options.allow_missing)
    return measure_comparisons(
        pairs,
        setup,
        dataset=options.name or Path(options.references).name,
        method=options.method or Path(options.predictions).name,
        n_processes=options.jobs,
        progress=True,
    )


def _rendered(options: EvaluateOptions, setup: Any, folder: Path) -> list[Any]:
    from bokehdiff.evaluation import CORRUPTIONS, corrupted, measure_method
    from bokehdiff.images import make_folder

    assert options.root is not None  # noqa: S101  checked at the door
    root = Path(options.root).expanduser()
    wrong = list(CORRUPTIONS) if options.corruptions == "all" else _words(options.corruptions)
    unknown = [name for name in wrong if name not in CORRUPTIONS]
    if unknown:
        raise InputError(f"must be of {', '.join(CORRUPTIONS)}; got {', '.join(unknown)}", flag="--corruptions")
    with at_fault("--methods"):
        methods = {name: _Method(name, options, setup.device) for name in _words(options.methods)}
        for method in methods.values():
            method.load()
    pictures = make_folder(folder / "pictures")
    outcomes = []
    with at_fault("--root"):
        cases = _cases(options, root)
    for name, method in methods.items():
        measure = partial(measure_method, setup=setup, name=name, n_processes=options.jobs, progress=True)
        outcomes.append(measure(cases, method, keep_in=pictures))
        for corruption in [] if name == INPUT else wrong:
            outcomes.append(measure(corrupted(cases, corruption), method, variant=f"disparity {corruption}"))
    return outcomes


def _cases(options: EvaluateOptions, root: Path) -> list[Any]:
    from bokehdiff.data import preset
    from bokehdiff.evaluation import BENCHMARKS, composites, lens_ground_truth, photographed

    if options.dataset == "composites":
        composition = preset(options.composition, resolution_px=options.resolution)
        return composites(root, composition, n_cases=options.composites, seed=options.seed)
    if options.dataset == "lens-ground-truth":
        return lens_ground_truth(root)
    assert options.dataset is not None  # noqa: S101  checked at the door
    return photographed(root, BENCHMARKS[options.dataset], strength_px=options.K)


@dataclass(frozen=True)
class _Method:
    """What renders a case; can be sent to other processes, each of which loads its own networks once.

    Args:
        name: As on the command line.
        options: The command line.
        device: Where to compute.
    """

    name: str
    options: EvaluateOptions
    device: str

    def load(self) -> Callable[[Any], Any]:
        """Read what it needs; what is missing is told before anything is rendered."""
        return _method(self.name, self.options, self.device)

    def __call__(self, case: Any) -> Any:
        return self.load()(case)


@cache
def _method(name: str, options: EvaluateOptions, device: str) -> Callable[[Any], Any]:
    from bokehdiff.images import linear_to_srgb
    from bokehdiff.renderers import render_photo

    if name == INPUT:
        return lambda case: linear_to_srgb(case.image_linear.clamp(0.0, 1.0))
    if name in PHYSICAL:
        return lambda case: linear_to_srgb(
            render_photo(case.image_linear.to(device), case.disparity.to(device), case.lens, method=name).clamp(0, 1)
        )
    if name in NEURAL:
        return _neural(name, options, device)
    if name in BASELINES:
        return _baseline(name, options, device)
    raise InputError(f"must be of input, {', '.join((*PHYSICAL, *NEURAL, *BASELINES))}; got {name!r}")


def _baseline(name: str, options: EvaluateOptions, device: str) -> Callable[[Any], Any]:
    """PyNET or the Double V-Net, told what it was trained with of disparity and lens."""
    from bokehdiff.images import linear_to_srgb
    from bokehdiff.inference import BaselineRenderer

    flag = f"--{name}-weights"
    weights = options.pynet_weights if name == "pynet" else options.double_vnet_weights
    if weights is None:
        raise InputError(f"is needed for {name}: train some with bokehdiff train-baseline", flag=flag)
    with at_fault(flag):
        renderer = BaselineRenderer.from_weights(weights, model=name, device=device)  # type: ignore[arg-type]
    return lambda case: renderer(
        linear_to_srgb(case.image_linear.clamp(0.0, 1.0)), disparity=case.disparity, lens=case.lens
    ).cpu()


def _neural(name: str, options: EvaluateOptions, device: str) -> Callable[[Any], Any]:
    """The one-step pipeline, or its mixture with physics; disparity of any range and lens are brought to [0, 1]."""
    from bokehdiff.cli.infer import PUBLISHED_ADAPTER
    from bokehdiff.images import linear_to_srgb
    from bokehdiff.inference import BokehDiffPipeline, RenderSettings

    pipeline = BokehDiffPipeline.from_pretrained(
        options.pretrained_model_name_or_path,
        adapter=options.resume_from_checkpoint or PUBLISHED_ADAPTER,
        device=device,
    )

    settings = RenderSettings(renderer=name)  # type: ignore[arg-type]

    def render(case: Any) -> Any:
        farthest, nearest = float(case.disparity.min()), float(case.disparity.max())
        nearest = nearest if nearest > farthest else farthest + 1.0  # a wall: any range will do
        lens = case.lens.normalised(farthest, nearest)
        disparity = (case.disparity - farthest) / (nearest - farthest)
        image_srgb = linear_to_srgb(case.image_linear.clamp(0.0, 1.0))
        # A wrong disparity may leave the lens focused outside its range, which a person could not ask for.
        (result,) = pipeline.render_lenses(image_srgb, disparity, [lens], settings, image_linear=case.image_linear)
        return result.images_srgb.cpu()

    return render


def _tell(
    options: EvaluateOptions, folder: Path, records: list[Any], *, absent: dict[str, str], failures: dict[str, str]
) -> None:
    """Tables, plots, the worst pictures, and what is missing from them."""
    from bokehdiff.evaluation import (
        make_tables,
        plot_by_blur,
        plot_by_dataset,
        plot_by_variant,
        to_csv,
        to_latex,
        to_markdown,
        worst,
    )
    from bokehdiff.images import write_atomically

    tables = make_tables(records, with_published=options.published)
    for file, text in (
        ("table.md", to_markdown(tables)),
        ("table.tex", to_latex(tables)),
        ("table.csv", to_csv(tables)),
    ):
        with write_atomically(folder / file) as partial:
            partial.write_text(text, encoding="utf-8")
    metric = next((name for name in _words(options.metrics) if name not in absent), None)
    if records and metric:
        if any(record.blur_px is not None for record in records):
            plot_by_blur(records, metric, folder / "by_blur.png")
        if len({record.dataset for record in records}) > 1:
            plot_by_dataset(records, metric, folder / "by_dataset.png")
        if any(record.variant for record in records):
            plot_by_variant(records, metric, folder / "by_variant.png")
        _show_worst(folder, worst(records, metric))
        named = ", ".join(f"{record.name} ({record.numbers[metric]:.4g})" for record in worst(records, metric, 5))
        logger.info("worst of %s: %s", metric, named)
    print(to_markdown(tables))
    for why in absent.values():
        print(f"not told: {why}")
    for name, why in failures.items():
        print(f"failed: {name}: {why}")
    print(f"records, tables and plots are in {folder}")


def _show_worst(folder: Path, records: list[Any]) -> None:
    """The worst pictures that were kept, as one sheet: what to look at first."""
    from bokehdiff.evaluation import picture_of
    from bokehdiff.images import load_photo, resize, save_image
    from bokehdiff.pictures import contact_sheet

    shown = {}
    for record in records:
        path = folder / "pictures" / picture_of(record)
        if path.is_file() and not record.variant:
            shown[f"{record.name}, {record.method}"] = load_photo(path).image_srgb
    if shown:
        size_hw = next(iter(shown.values())).shape[-2:]
        sheet = {caption: resize(image, (size_hw[0], size_hw[1])) for caption, image in shown.items()}
        save_image(folder / "worst.png", contact_sheet(sheet))
