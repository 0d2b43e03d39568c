"""Starts medassist in the browser: flags and environment → services → page.

    python app.py                     http://127.0.0.1:7860
    python app.py --port 8000         another port
    GRADIO_SERVER_NAME=0.0.0.0 python app.py

Nothing heavy (torch, transformers, peft) is imported before the page answers; the embedded model is loaded in the
background right after.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import threading
import warnings
from collections.abc import Sequence

log = logging.getLogger("medassist")


def main(argv: Sequence[str] | None = None) -> int:
    """Serves the page until it is interrupted."""
    args = _arguments(argv)
    _quiet_environment()
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    for name in (
        "bitsandbytes",
        "transformers",
        "httpx",
        "huggingface_hub",
    ):  # their advice is not for whoever reads this
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)
    from medassist.errors import MedAssistError
    from medassist.ui.quick_start import skip_editor_stubs

    skip_editor_stubs()
    from medassist.ui.app import build_app, launch_options

    try:
        services = _services()
    except MedAssistError as error:
        print(f"medassist: {error}", file=sys.stderr)
        return 1
    page = build_app(services)
    # An address passed to launch would win over the environment's and a Space's, so none is passed unless asked for.
    where = {
        k: v for k, v in {"server_name": args.host, "server_port": args.port, "root_path": args.root_path}.items() if v
    }
    try:
        _, address, _ = page.launch(prevent_thread_lock=True, **launch_options(), **where)
    except OSError as error:
        print(f"medassist: The page could not be served: {error}", file=sys.stderr)
        return 1
    print(f"medassist is running at {address}", flush=True)
    if not args.no_warm_up:
        threading.Thread(target=_warm_up, args=(services,), daemon=True, name="warm-up").start()
    page.block_thread()
    return 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python app.py",
        description="medassist in the browser: fine-tune, compare "
        "and talk to a medical assistant. Education only, not medical advice.",
    )
    parser.add_argument("--host", help="address to listen on (default: GRADIO_SERVER_NAME, else this machine only)")
    parser.add_argument(
        "--port", type=int, help="port (default: GRADIO_SERVER_PORT, else the first free one from 7860)"
    )
    parser.add_argument("--root-path", help="path under which a proxy serves the page")
    parser.add_argument(
        "--no-warm-up", action="store_true", help="load the model with the first question, not at the start"
    )
    return parser.parse_args(argv)


def _quiet_environment() -> None:
    for name, value in {
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        "GRADIO_ANALYTICS_ENABLED": "False",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_VERBOSITY": "error",
    }.items():
        os.environ.setdefault(name, value)


def _services():
    """What the page's handlers call; interrupted trainings of an earlier server are found here."""
    from medassist import access, adapters, jobs
    from medassist.chat import Assistant
    from medassist.gate import load_gate
    from medassist.generation import Engine
    from medassist.ui.services import Services

    root = adapters.adapters_root()
    gate = load_gate()
    if not access.is_public():
        for name in jobs.reconcile(root):
            log.warning("the training %s was interrupted; it can be resumed", name)
    return Services(root, Assistant(Engine(root), gate))


def _warm_up(services) -> None:
    """Loads the base model and the adapter that Chat opens with, so that the first answer does not wait for it."""
    from medassist import adapters
    from medassist.errors import MedAssistError
    from medassist.ui.services import LIBRARIES

    try:
        first = next((run.name for run in adapters.list_usable(services.root) if run.base == "mini"), None)
        with LIBRARIES:
            services.assistant.engine.warm_up(first)
    except MedAssistError as error:
        log.warning("the model could not be loaded ahead: %s", error)
    except Exception:
        log.exception("the model could not be loaded ahead")


if __name__ == "__main__":
    sys.exit(main())
