"""The app as a Hugging Face Space starts it: the platform's variables decide, and strangers chat and compare only."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request

import pytest
from page_server import PROJECT, _wait, free_port, serve

from medassist.gate import OUT_OF_SCOPE_MESSAGE

pytestmark = pytest.mark.slow


def config_of(url):
    with urllib.request.urlopen(f"{url}config", timeout=30) as answer:
        return json.load(answer)


def test_a_public_space_is_reachable_and_its_training_is_closed(tmp_path):
    from gradio_client import Client

    with serve(tmp_path, SPACE_ID="someone/medassist", SYSTEM="spaces", GRADIO_SERVER_NAME="127.0.0.1",
               GRADIO_ANALYTICS_ENABLED="False") as page:
        buttons = [c["props"].get("value") for c in config_of(page.url)["components"] if c["type"] in ("button", "uploadbutton")]
        assert "Send" in buttons and "Ask both" in buttons
        assert not [b for b in buttons if b and ("Start" in b or "Delete" in b or "Upload" in b)]
        client = Client(page.url, verbose=False)
        refused = client.predict("What is the capital of France?", "starter", 7, 0.0, 8, api_name="/compare")
        assert refused["refused"] is True and OUT_OF_SCOPE_MESSAGE in json.dumps(refused)
        assert client.predict("What does insulin do?", "[]", "starter", api_name="/chat")["route"] == "answer"
        with pytest.raises(Exception, match="closed on this public Space"):
            client.predict("What does insulin do?", "[]", "someone/adapter", api_name="/chat")


def test_its_owner_opens_it(tmp_path):
    with serve(tmp_path, SPACE_ID="someone/medassist", MEDASSIST_OPEN="1", GRADIO_SERVER_NAME="127.0.0.1") as page:
        buttons = [c["props"].get("value") for c in config_of(page.url)["components"] if c["type"] == "button"]
        assert "Start training" in buttons


def test_the_environments_port_and_address_win(tmp_path):
    port = free_port()
    env = {"GRADIO_SERVER_PORT": str(port), "GRADIO_SERVER_NAME": "127.0.0.1", "MEDASSIST_ADAPTERS": str(tmp_path / "a")}
    log = tmp_path / "log"
    with log.open("wb") as file:
        server = subprocess.Popen([sys.executable, "app.py", "--no-warm-up"], cwd=PROJECT, stdout=file, stderr=file,
                                  env={**os.environ, **env})
    try:
        _wait(f"http://127.0.0.1:{port}/", server, log)
        assert any(c["props"].get("value") == "Send" for c in config_of(f"http://127.0.0.1:{port}/")["components"])
    finally:
        server.terminate()
        server.wait(20)
