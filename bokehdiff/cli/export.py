"""`bokehdiff export`: an adapter for other programs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class ExportOptions:
    """Write an adapter, ours or the published one, as other programs read it.

    kohya's scripts, ComfyUI and their like run the LoRA without physics-inspired attention, which it was trained with:
    expect other pictures there than from bokehdiff infer.

    Args:
        adapter: Folder, file or hub id of the adapter.
        output_dir: Where the files go.
        format: kohya writes one LoRA file with alphas, and with a base the whole autoencoder beside it; diffusers
            writes what diffusers' load_lora_weights reads; merged writes a base with the adapter in it.
        pretrained_model_name_or_path: SDXL base that it was trained on: folder or hub id; merged needs it.
        adapter_variant: Folder of the adapter inside its repository, such as small.
        revision: Git revision of a hub id of the base.
        variant: File variant of the base, such as fp16.
        half: Write merged weights in float16.
    """

    adapter: str = ""
    output_dir: str = "exported"
    format: Literal["kohya", "diffusers", "merged"] = "kohya"
    pretrained_model_name_or_path: str | None = None
    adapter_variant: str | None = None
    revision: str | None = None
    variant: str | None = None
    half: bool = False


OPTIONS = ExportOptions
POSITIONAL = ("adapter",)


def run(options: ExportOptions) -> int:
    """Read, convert, write, and say what was written.

    Args:
        options: The command line.
    """
    from bokehdiff.errors import InputError, at_fault
    from bokehdiff.models import read_adapter, write_diffusers, write_kohya, write_merged

    if not options.adapter:
        raise InputError("name the adapter to export: a folder, a file or a hub id", flag="--adapter")
    if options.format == "merged" and options.pretrained_model_name_or_path is None:
        raise InputError("a merged export needs the base", flag="--pretrained-model-name-or-path")
    with at_fault("--adapter"):
        files = read_adapter(options.adapter, variant=options.adapter_variant, revision=None)
    merged: Any = None if options.format == "diffusers" else _merged_base(options, files)
    with at_fault("--output-dir"):
        if options.format == "diffusers":
            written = write_diffusers(files, options.output_dir)
        elif options.format == "kohya":
            written = write_kohya(files, options.output_dir, merged and merged.vae)
        else:
            written = (write_merged(merged, options.output_dir),)
    print(f"{len(files.lora)} LoRA tensors of rank {files.rank}, alpha {files.alpha:g}; {len(files.vae)} of the VAE")
    if options.format == "merged":
        trained_with = files.metadata.get("visibility", "released")
        print(f"trained with {trained_with} occlusion: render with --visibility {trained_with}")
    for path in written:
        print(path)
    return 0


def _merged_base(options: ExportOptions, files: Any) -> Any:
    """The base with the adapter in it; None where no base was named."""
    import torch

    from bokehdiff.errors import at_fault
    from bokehdiff.models import load_sdxl, merge_adapter

    if options.pretrained_model_name_or_path is None:
        return None
    dtype = torch.float16 if options.half else torch.float32
    with at_fault("--pretrained-model-name-or-path"):
        networks = load_sdxl(
            options.pretrained_model_name_or_path, revision=options.revision, variant=options.variant, dtype=dtype
        )
    merge_adapter(files, networks)
    return networks
