"""Seconds from starting the page's server to its first answer, and to the first token of the first chat.

    python -m medassist bench start
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request

from medassist.errors import MedAssistError
from medassist.paths import PROJECT


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--runs", type=int, default=3, help="servers started one after the other (default 3)")


def main(args: argparse.Namespace) -> int:
    """Prints each start and the median of the seconds to HTTP 200."""
    rows = [measure_start() for _ in range(max(1, args.runs))]
    for number, row in enumerate(rows, 1):
        print(json.dumps({"run": number, **row}) if args.json else
              f"run {number}: page {row['page_s']:.2f} s, first chat token {row['first_token_s']:.2f} s after the start")
    median = sorted(r["page_s"] for r in rows)[len(rows) // 2]
    print(json.dumps({"median_page_s": median}) if args.json else f"median to the page: {median:.2f} s")
    return 0


def measure_start(limit_s: float = 120.0) -> dict[str, float]:
    """Starts a server on a free port of 127.0.0.1, asks for the page, then one question, and ends it.

    Raises:
        MedAssistError: the server does not answer within the limit.
    """
    from gradio_client import Client

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = time.monotonic()
    server = subprocess.Popen([sys.executable, "app.py"], cwd=PROJECT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                              env={**os.environ, "GRADIO_SERVER_PORT": str(port), "GRADIO_SERVER_NAME": "127.0.0.1"})
    try:
        url = f"http://127.0.0.1:{port}/"
        while True:
            try:
                if urllib.request.urlopen(url, timeout=5).status == 200:
                    break
            except OSError:
                pass
            if server.poll() is not None or time.monotonic() - started > limit_s:
                raise MedAssistError("The page's server did not answer.", "Start it by hand with python app.py to see why.")
            time.sleep(0.02)
        page_s = time.monotonic() - started
        client = Client(url, verbose=False)
        asked = time.monotonic()
        reply = client.predict("What does insulin do?", [], "starter", api_name="/chat")
        answered = time.monotonic()
        generating = reply.get("elapsed_s", 0.0) - (reply.get("first_token_s") or 0.0)
        return {"page_s": round(page_s, 3), "first_token_s": round(answered - started - generating, 3),
                "question_s": round(answered - asked, 3)}
    finally:
        server.terminate()
        server.wait(20)
