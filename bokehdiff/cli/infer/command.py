"""The run: find the photographs, load the networks, render each, tell what failed."""

from __future__ import annotations

from bokehdiff.cli.infer.options import BASELINES, InferOptions, check_options, lensless_problems
from bokehdiff.cli.photographs import render_each
from bokehdiff.errors import at_fault


def run(options: InferOptions) -> int:
    """Render every photograph; one that cannot be rendered stops none of the others.

    Args:
        options: The command line.

    Returns:
        0 if all were rendered, else 1.
    """
    check_options(options)
    from bokehdiff.cli.infer.picture import lens_words, load_baseline_renderer, load_renderer, render_scene
    from bokehdiff.data import find_scenes

    baseline = load_baseline_renderer(options) if options.picture.renderer in BASELINES else None
    if baseline is not None and not baseline.spec.needs_lens:
        from bokehdiff.cli.infer.lensless import render_lensless

        for problem in lensless_problems(options):
            raise problem
        return render_lensless(baseline, options)
    words = lens_words(options.lens)
    with at_fault("--test-data-dir"):
        scenes = find_scenes(
            options.test_data_dir,
            depth_dirname=options.files.depth_dirname,
            mask_dirname=options.files.mask_dirname,
            organization=options.files.organization,
        )
    renderer = load_renderer(options, baseline)
    return render_each(scenes, lambda paths: render_scene(renderer, paths, words, options))
