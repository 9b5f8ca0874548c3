"""The page on a port: no analytics, nothing loaded from elsewhere, temporary files gone at the end."""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from bokehdiff.app.studio import Studio
from bokehdiff.errors import InputError, MissingDependencyError

logger = logging.getLogger(__name__)

BESIDE = Path(__file__).parent
# The browser itself refuses whatever would come from, or go to, another place than this server.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; "
    "worker-src 'self' blob:; frame-ancestors 'self'; form-action 'self'; base-uri 'self'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
FONTS = ["system-ui", "Segoe UI", "Roboto", "DejaVu Sans", "sans-serif"]  # of the system: none is fetched


def require_gradio() -> None:
    """Refuse, in one line, where gradio is not installed."""
    if importlib.util.find_spec("gradio") is None:
        raise MissingDependencyError("the app needs gradio: pip install 'bokehdiff[app]'")


def build_server(studio: Studio, *, host: str, port: int) -> Any:
    """The web application, ready for an ASGI server.

    Args:
        studio: What all users share.
        host: Address that it will listen on.
        port: Port that it will listen on.
    """
    require_gradio()
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    # Uploads and copies of pictures go where they are removed with the program. Gradio reads it on import, and again
    # when components are made.
    os.environ["GRADIO_TEMP_DIR"] = str(studio.equipment.places.passing)
    import gradio as gr
    from fastapi import FastAPI, Request, Response

    from bokehdiff.app.page import build_page

    server = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @server.middleware("http")
    async def with_headers(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await call_next(request)
        response.headers.update(HEADERS)
        return response

    theme = gr.themes.Base(primary_hue="amber", neutral_hue="zinc", font=FONTS, font_mono=["ui-monospace", "monospace"])
    return gr.mount_gradio_app(
        server,
        build_page(studio),
        path="/",
        server_name=host,
        server_port=port,
        allowed_paths=[str(studio.equipment.places.results)],
        max_file_size=studio.equipment.limits.most_bytes,
        show_error=False,
        footer_links=[],
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        theme=theme,
        css_paths=BESIDE / "page.css",
        js=(BESIDE / "gestures.js").read_text(encoding="utf-8"),
    )


def serve(studio: Studio, *, host: str, port: int, opened: Callable[[str], None]) -> None:
    """Serve the page until the program is interrupted; then remove what does not stay.

    Args:
        studio: What all users share.
        host: Address to listen on.
        port: Port to listen on.
        opened: Is told the page's address as soon as it can be visited.
    """
    import uvicorn

    try:
        application = build_server(studio, host=host, port=port)
        config = uvicorn.Config(application, host=host, port=port, log_level="warning")
        listening = uvicorn.Server(config)
        try:
            socket = config.bind_socket()
        except SystemExit as error:
            raise InputError(
                f"cannot listen on {host}:{port}: is another program there? Choose another port"
            ) from error
        # uvicorn gives a signal back once it has closed what was open: an end by it is an end by Ctrl-C.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with socket:
            opened(f"http://{'localhost' if host in LOCAL else host}:{socket.getsockname()[1]}")
            with suppress(KeyboardInterrupt):
                listening.run(sockets=[socket])
    finally:
        studio.equipment.places.remove_passing()


LOCAL = frozenset({"127.0.0.1", "localhost"})
