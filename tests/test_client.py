"""Chat and Compare through `gradio_client`, on the real app with the embedded model and the adapter that ships."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

import pytest
from page_server import serve

from medassist.gate import OUT_OF_SCOPE_MESSAGE

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with serve(tmp_path_factory.mktemp("client")) as running:
        yield running


@pytest.fixture(scope="module")
def client(page):
    from gradio_client import Client

    return Client(page.url, verbose=False)


def test_chat_answers_refuses_and_escalates(client):
    answer = client.predict("What does insulin do?", "[]", "starter", api_name="/chat")
    assert answer["route"] == "answer" and answer["adapter"] == "starter" and len(answer["answer"]) > 10
    refused = client.predict("What is the capital of France?", "[]", "starter", api_name="/chat")
    assert (refused["route"], refused["answer"]) == ("out_of_scope", OUT_OF_SCOPE_MESSAGE)
    urgent = client.predict("My dad has crushing chest pain and is sweating", "[]", "starter", api_name="/chat")
    assert urgent["route"] == "emergency" and "112" in urgent["answer"]


def test_compare_gives_both_answers_and_the_same_ones_again(client):
    first = client.predict("What does insulin do?", "starter", 7, 0.8, 24, api_name="/compare")
    again = client.predict("What does insulin do?", "starter", 7, 0.8, 24, api_name="/compare")
    assert first["base"] and first["tuned"] and first["base"] != first["tuned"]
    assert (first["base"], first["tuned"]) == (again["base"], again["tuned"])
    assert first["settings"]["seed"] == 7 and first["refused"] is False


def test_mistakes_are_one_sentence(client):
    for arguments, words in (
        (("", "[]", "starter"), "no question"),
        (("What is anaemia?", "[]", "nobody"), "no run .*nobody"),
        (("What is anaemia?", "{", "starter"), "history is not JSON"),
        (("What is anaemia?", "[]", "../x"), ""),
    ):
        with pytest.raises(Exception, match=words):
            client.predict(*arguments, api_name="/chat")


def test_clients_see_two_endpoints_and_no_way_round_the_queue(client, page):
    named = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(named) == {"/chat", "/compare"}
    body = json.dumps({"data": ["What does insulin do?", "[]", "starter"]}).encode()
    for path in ("run/chat", "api/chat", "run/predict"):
        request = urllib.request.Request(f"{page.url}gradio_api/{path}", body, {"Content-Type": "application/json"})
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(request, timeout=10)


def test_what_people_write_is_in_no_log(client, page):
    client.predict("What is the pancreas good for, xylophone?", "[]", "starter", api_name="/chat")
    assert "xylophone" not in page.log.read_text()


def test_a_space_is_reachable_from_outside_and_closed_for_training(tmp_path):
    from gradio_client import Client

    with serve(tmp_path, SPACE_ID="someone/medassist", GRADIO_SERVER_NAME="0.0.0.0") as space:
        with urllib.request.urlopen(space.url, timeout=10) as answer:
            text = answer.read().decode()
            assert "default-src 'self'" in answer.headers["content-security-policy"]
        assert "Training is closed on this public Space" in text
        row = Client(space.url, verbose=False).predict(
            "What is the capital of France?", "starter", 1, 0.0, 16, api_name="/compare"
        )
        assert row["refused"] is True and row["base"] == "" and row["message"] == OUT_OF_SCOPE_MESSAGE
