"""`bokehdiff app`: lens blur in the browser, click to focus."""

from __future__ import annotations

import logging
import webbrowser
from dataclasses import dataclass, field
from typing import Any, Literal

from bokehdiff.errors import InputError, at_fault

logger = logging.getLogger(__name__)

MEGA = 1_000_000
MEBI = 2**20
HIGHEST_PORT = 65535


@dataclass(frozen=True)
class ServerOptions:
    """Where the page is, and how much it takes on.

    Args:
        host: Address to listen on; 0.0.0.0 lets others in your network use the page too.
        port: Port to listen on; 0 for any that is free.
        open_browser: Open the page in your browser.
        max_upload_mb: Largest file that is taken [MB].
        max_megapixels: Largest photograph that is taken; 12 megapixels render in 4 GiB of memory.
        max_sessions: Photographs open at the same time; the one that was used longest ago is put away.
    """

    host: str = "127.0.0.1"
    port: int = 7860
    open_browser: bool = False
    max_upload_mb: int = 64
    max_megapixels: float = 32.0
    max_sessions: int = 16


@dataclass(frozen=True)
class NetworkOptions:
    """Networks, none of which is needed.

    Args:
        disparity_model: Depth model: local folder or hub id that transformers loads. Where it is not to be found depth
            is guessed, which the page says; none for that from the beginning.
        pretrained_model_name_or_path: SDXL base for neural and hybrid rendering: folder, hub id or single file;
            none for physics alone.
        resume_from_checkpoint: Adapter for it: a run's adapter folder, or a hub id; none for the base as it is.
        device: Where to compute: auto, cpu, cuda, cuda:1, mps.
        mixed_precision: Precision of the UNet.
    """

    disparity_model: str = "depth-anything/Depth-Anything-V2-Small-hf"
    pretrained_model_name_or_path: str | None = None
    resume_from_checkpoint: str | None = None
    device: str = "auto"
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"


@dataclass(frozen=True)
class AppOptions:
    """Open a page in the browser: put a photo there, click what shall be sharp, set the lens, render, download.

    The page is for this machine alone unless --host says otherwise. Nothing is sent anywhere, and nothing is needed
    from the network. Needs the extra app: pip install 'bokehdiff[app]'. Ctrl-C ends it.

    Args:
        output_dir: Folder of finished pictures; the page writes nowhere else but to a temporary folder.
        server: Where the page is, and how much it takes on.
        networks: Networks, none of which is needed.
    """

    output_dir: str = "bokehdiff_app"
    server: ServerOptions = field(default_factory=ServerOptions)
    networks: NetworkOptions = field(default_factory=NetworkOptions)


OPTIONS = AppOptions
POSITIONAL = ()


def run(options: AppOptions) -> int:
    """Serve the page until interrupted.

    Args:
        options: The command line.

    Returns:
        0 once it is interrupted.
    """
    _check(options)
    from bokehdiff.app.server import require_gradio, serve

    require_gradio()
    with at_fault("--port"):
        serve(_studio(options), host=options.server.host, port=options.server.port, opened=_opener(options))
    return 0


def _check(options: AppOptions) -> None:
    server, networks = options.server, options.networks
    if not 0 <= server.port <= HIGHEST_PORT:
        raise InputError(f"must be 0 to {HIGHEST_PORT}; got {server.port}", flag="--port")
    for flag, value in (
        ("--max-upload-mb", server.max_upload_mb),
        ("--max-megapixels", server.max_megapixels),
        ("--max-sessions", server.max_sessions),
    ):
        if not value > 0:
            raise InputError(f"must be above 0; got {value:g}", flag=flag)
    if networks.resume_from_checkpoint is not None and networks.pretrained_model_name_or_path is None:
        raise InputError("is for a base: pass --pretrained-model-name-or-path too", flag="--resume-from-checkpoint")


def _studio(options: AppOptions) -> Any:
    from bokehdiff.app import Equipment, Limits, Networks, Places, Studio, load_model
    from bokehdiff.cli.infer.picture import PRECISIONS
    from bokehdiff.devices import pick_device

    server, networks = options.server, options.networks
    with at_fault("--device"):
        device = pick_device(networks.device)
    with at_fault("--disparity-model"):
        model = load_model(networks.disparity_model, device=device)
    painting = None
    if networks.pretrained_model_name_or_path is not None:
        painting = Networks(
            networks.pretrained_model_name_or_path,
            adapter=networks.resume_from_checkpoint,
            device=device,
            dtype=PRECISIONS[networks.mixed_precision],
        )
    with at_fault("--output-dir"):
        places = Places.under(options.output_dir)
    limits = Limits(round(server.max_megapixels * MEGA), server.max_upload_mb * MEBI, server.max_sessions)
    return Studio(Equipment(places, limits=limits, model=model, networks=painting, device=device))


def _opener(options: AppOptions) -> Any:
    def opened(address: str) -> None:
        print(f"The page is at {address} (Ctrl-C ends it); pictures go to {options.output_dir}", flush=True)
        if options.server.open_browser:
            webbrowser.open(address)

    return opened
