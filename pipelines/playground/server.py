"""The server of the playground: this machine alone, no telemetry, no share link, nothing kept when it ends."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clip_es.errors import ConfigError
from clip_es.pipelines.playground.guard import LOOPBACK, Guard
from clip_es.pipelines.playground.uploads import MAX_BYTES

_SETTINGS = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "GRADIO_SHARE": "False",
    "GRADIO_NUM_PORTS": "1",
}
"""Read by gradio and the hub's library when they are imported."""


@contextmanager
def private_folder() -> Iterator[Path]:
    """A folder that only this user can read, for uploads and what gradio keeps; gone at the end."""
    with tempfile.TemporaryDirectory(prefix="clip-es-ui-", ignore_cleanup_errors=True) as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        yield Path(folder)


def check_gradio() -> None:
    """Raises ConfigError: the extra is missing."""
    os.environ.update(_SETTINGS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import gradio  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "the playground needs the extra `ui`", found=error, next_step="pip install 'clip-es[ui]'"
        ) from error


def serve(blocks: Any, host: str, port: int) -> str:
    """Start the server in threads of its own, and say under which address it answers.

    Raises ConfigError: the port is taken, or there is no such host.
    """
    from starlette.middleware import Middleware

    from clip_es.pipelines.playground.app import asset, style

    try:
        _, address, _ = blocks.launch(
            server_name=host,
            server_port=port,
            share=False,
            inbrowser=False,
            quiet=True,
            show_error=False,
            prevent_thread_lock=True,
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            max_file_size=MAX_BYTES,
            allowed_paths=[],
            theme=style(),
            css=asset("playground.css"),
            head=f"<script>{asset('playground.js')}</script>",
            app_kwargs={"middleware": [Middleware(Guard, local=host in LOOPBACK)], "docs_url": None, "redoc_url": None},
        )
    except (OSError, ValueError) as error:
        raise ConfigError(
            "the server cannot be started",
            where=f"{host}:{port}",
            found=str(error).splitlines()[0][:200],
            next_step="Pass another --port, or end what uses this one.",
        ) from error
    return address
