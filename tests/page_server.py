"""Starts the real app in a process of its own, on a free port, with an adapters folder of the test's own."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]


@dataclass
class Page:
    """A running app."""

    url: str
    root: Path
    seconds: float  # from the start of the process to HTTP 200
    log: Path


def free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return place.getsockname()[1]


@contextlib.contextmanager
def serve(folder: Path, *, with_starter: bool = True, **environment: str) -> Iterator[Page]:
    """The app until the block ends; trainings that it started are ended too."""
    root, log = folder / "adapters", folder / "server.log"
    root.mkdir(parents=True)
    if with_starter:
        shutil.copytree(PROJECT / "adapters" / "starter", root / "starter")
    port = free_port()
    env = {
        k: v for k, v in os.environ.items() if k not in ("SPACE_ID", "MEDASSIST_OPEN", "GRADIO_SERVER_NAME", "HF_TOKEN")
    }
    env |= {"MEDASSIST_ADAPTERS": str(root), "HF_HUB_OFFLINE": "1", **environment}
    started = time.monotonic()
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "app.py", "--port", str(port)], cwd=PROJECT, env=env, stdout=file, stderr=file
        )
        try:
            _wait(f"http://127.0.0.1:{port}/", process, log)
            yield Page(f"http://127.0.0.1:{port}/", root, time.monotonic() - started, log)
        finally:
            _end_trainings(root)
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait(url: str, process: subprocess.Popen, log: Path, limit_s: float = 90) -> None:
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the app ended with {process.returncode}: {log.read_text()[-2000:]}")
        with contextlib.suppress(OSError, urllib.error.URLError), urllib.request.urlopen(url, timeout=5) as answer:
            if answer.status == 200:
                return
        time.sleep(0.1)
    raise RuntimeError(f"the app did not answer within {limit_s} s: {log.read_text()[-2000:]}")


def _end_trainings(root: Path) -> None:
    import psutil

    from medassist.lock import read_owner

    for note in root.glob("*/owner.json"):
        owner = read_owner(note)
        if owner is not None and owner.is_alive() and owner.pid != os.getpid():
            with contextlib.suppress(psutil.Error):
                psutil.Process(owner.pid).kill()
