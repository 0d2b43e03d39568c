"""Push, pull and deploy with the real Hub client against the stand-in of `hub_server.py`; the model card."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import hub_server
import numpy as np
import pytest
import yaml
from hub_server import HubServer
from safetensors.numpy import save

from medassist import adapters, hub
from medassist.adapters import WEIGHTS, Result
from medassist.cards import render_model_card
from medassist.config import build_config, load_config, to_yaml
from medassist.errors import AdapterError, HubError

TOKEN = "hf_" + "t0KEN" * 7
REPO = "ann/tiny-lora"
LAYER = "base_model.model.model.layers.0.self_attn.q_proj"  # 256 × 256 in mini
EVALUATION = {"verdict": "Better.", "split": "test",
              "metrics": {"base_perplexity": 20.5, "tuned_perplexity": 11.25},
              "items": [{"question": "secret question", "reference": "r"}]}


def lora_weights(r: int = 2, width: int = 256, value: float = 0.5, dtype: type = np.float32) -> bytes:
    return save({f"{LAYER}.lora_A.weight": np.full((r, width), value, dtype),
                 f"{LAYER}.lora_B.weight": np.full((width, r), 0.25, dtype)}, {"format": "pt"})


def adapter_config(**changes: Any) -> dict[str, Any]:
    return {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "mini", "r": 2,
            "lora_alpha": 4, "lora_dropout": 0.05, "bias": "none", "target_modules": ["q_proj"],
            "rank_pattern": {}, "alpha_pattern": {}, "init_lora_weights": True, "modules_to_save": None,
            "use_dora": False, "auto_mapping": None, "megatron_core": "megatron.core",
            "peft_version": "0.21.2"} | changes


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "SPACE_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-login"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "TIMEOUT_S", 5.0)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with HubServer(tmp_path / "hub", token=TOKEN) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "adapters"


def make_run(root: Path, name: str = "cards", *, config: dict[str, Any] | None = None,
             settings: dict[str, Any] | None = None, weights: bytes | None = None) -> adapters.RunInfo:
    """A finished run, with everything that training leaves behind."""
    folder = root / name
    (folder / "checkpoints" / "checkpoint-1").mkdir(parents=True)
    (folder / WEIGHTS).write_bytes(weights or lora_weights())
    adapters.write_json(folder / "adapter_config.json", config or adapter_config())
    adapters.write_json(folder / "evaluation.json", EVALUATION)
    run_config = build_config({"name": name, **(settings or {})})
    (folder / "run.yaml").write_text(to_yaml(run_config))
    (folder / "loss.csv").write_text("step,split,loss_nats_per_token\n1,train,2.0\n")
    (folder / "loss.png").write_bytes(b"\x89PNG\r\n\0")
    for private in ("train.log", "progress.jsonl", "owner.json", "dataset.json",
                    "checkpoints/checkpoint-1/state.bin", "training_args.bin", ".env"):
        (folder / private).write_text(f"{{\"x\": \"{private} stays here\"}}")
    result = Result("finished", steps=3, base="mini", base_sha256="ab" * 32,
                    adapter_sha256=adapters.file_sha256(folder / WEIGHTS))
    (folder / "README.md").write_text(render_model_card(name, run_config, result, EVALUATION))
    adapters.write_result(folder, result)
    return adapters.load_run(root, name)


def put_adapter(server: HubServer, repo: str = REPO, *, weights: bytes | None = None, **changes: Any) -> None:
    server.add_file("models", repo, WEIGHTS, weights or lora_weights())
    server.add_file("models", repo, "adapter_config.json", json.dumps(adapter_config(**changes)))


# Push and pull

def test_a_pushed_run_comes_back_byte_for_byte(server: HubServer, root: Path, tmp_path: Path):
    run = make_run(root)
    url = hub.push_adapter(run, REPO, token=TOKEN)
    assert url == f"{server.url}/{REPO}"
    name = hub.pull_adapter(REPO, tmp_path / "elsewhere", token=TOKEN)
    assert name == "ann--tiny-lora"
    pulled = adapters.load_run(tmp_path / "elsewhere", name)
    adapters.verify_run(pulled)
    for file in (WEIGHTS, "adapter_config.json", "README.md", "run.yaml", "evaluation.json"):
        assert (pulled.path / file).read_bytes() == (run.path / file).read_bytes(), file
    assert pulled.result and pulled.result.reason.startswith("pulled from the Hub: ann/tiny-lora at ")
    assert pulled.base == "mini" and pulled.result.base_sha256 == "ab" * 32
    assert sorted(p.name for p in pulled.path.iterdir()) == sorted(
        [WEIGHTS, "adapter_config.json", "README.md", "run.yaml", "evaluation.json", "result.json"])
    assert [p.name for p in (tmp_path / "elsewhere").iterdir()] == [name]


def test_a_push_uploads_only_what_is_published(server: HubServer, root: Path):
    hub.push_adapter(make_run(root), REPO, token=TOKEN)
    assert set(server.files("models", REPO)) == set(hub.PUBLISHED)
    assert server.created[0]["visibility"] == "private"
    sent = b"".join(r.body for r in server.requests)
    assert TOKEN.encode() not in sent and b"stays here" not in sent
    assert all("telemetry" not in r.path and "agent-harnesses" not in r.path for r in server.requests)


def test_no_token_is_left_anywhere(server: HubServer, root: Path, tmp_path: Path, capfd, caplog):
    caplog.set_level("DEBUG")
    hub.push_adapter(make_run(root), REPO, token=TOKEN)
    hub.pull_adapter(REPO, tmp_path / "b", token=TOKEN)
    server.fail("create", status=401)
    with pytest.raises(HubError) as error:
        hub.push_adapter(adapters.load_run(root, "cards"), "ann/other", token=TOKEN)
    out, err = capfd.readouterr()
    assert TOKEN not in out + err + caplog.text + str(error.value)
    on_disk = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file() and "hub" not in p.parts)
    assert TOKEN.encode() not in on_disk


def test_public_only_on_request(server: HubServer, root: Path):
    run = make_run(root)
    hub.push_adapter(run, REPO, token=TOKEN, private=False)
    assert server.created[0]["visibility"] == "public"
    with pytest.raises(HubError, match="exists already and is public"):
        hub.push_adapter(run, REPO, token=TOKEN)
    assert len(server.commits) == 1


def test_the_token_comes_from_the_environment(server: HubServer, root: Path, monkeypatch: pytest.MonkeyPatch):
    run = make_run(root)
    with pytest.raises(HubError, match=r"No Hugging Face token.*HF_TOKEN"):
        hub.push_adapter(run, REPO)
    assert server.requests == []
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.push_adapter(run, REPO)
    assert WEIGHTS in server.files("models", REPO)


@pytest.mark.parametrize("path", ["/home/ann/clinic/cards.csv", "../clinic/cards.csv", "clinic/cards.csv"])
def test_local_data_is_pushed_by_name_only(server: HubServer, root: Path, path: str):
    run = make_run(root, settings={"datasets": [{"id": path}]})
    hub.push_adapter(run, REPO, token=TOKEN)
    files = server.files("models", REPO)
    assert yaml.safe_load(files["run.yaml"])["datasets"][0]["id"] == "cards.csv"
    assert b"clinic" not in b"".join(files.values()) and b"secret question" not in files["evaluation.json"]
    assert json.loads(files["evaluation.json"])["verdict"] == "Better."
    assert path.encode() in (run.path / "run.yaml").read_bytes()
    assert b"secret question" in (run.path / "evaluation.json").read_bytes()


@pytest.mark.parametrize("path", ["/home/ann/mini", "C:\\models\\mini", "~/mini", "\\\\share\\mini"])
def test_a_path_in_the_adapter_config_is_not_pushed(server: HubServer, root: Path, path: str):
    run = make_run(root, config=adapter_config(base_model_name_or_path=path))
    with pytest.raises(AdapterError, match="path of this machine"):
        hub.push_adapter(run, REPO, token=TOKEN)
    assert server.requests == []


def test_only_finished_and_intact_runs_are_pushed(server: HubServer, root: Path):
    run = make_run(root)
    (run.path / WEIGHTS).write_bytes(lora_weights(value=0.75))
    with pytest.raises(AdapterError, match="hash differs"):
        hub.push_adapter(run, REPO, token=TOKEN)
    adapters.write_result(run.path, Result("stopped"))
    with pytest.raises(AdapterError, match="is stopped"):
        hub.push_adapter(adapters.load_run(root, "cards"), REPO, token=TOKEN)
    with pytest.raises(AdapterError, match="not finite"):
        hub.push_adapter(make_run(root, "nan", weights=lora_weights(value=float("nan"))), REPO, token=TOKEN)
    assert server.requests == []


def test_a_token_in_a_file_stops_the_push(server: HubServer, root: Path):
    run = make_run(root)
    (run.path / "README.md").write_text("see hf_" + "a" * 34)
    with pytest.raises(HubError, match=r"README\.md holds an access token"):
        hub.push_adapter(run, REPO, token=TOKEN)
    assert server.requests == []


def test_an_unwelcome_readme_is_explained(server: HubServer, root: Path):
    run = make_run(root)
    (run.path / "README.md").write_text("---\nbase_model: /home/x\n---\n")
    with pytest.raises(HubError, match=r"front matter of README\.md: .*base_model"):
        hub.push_adapter(run, REPO, token=TOKEN)


# Pulling a stranger's adapter

@pytest.mark.parametrize(("changes", "sentence"), [
    ({"use_dora": True}, "plain LoRA"),
    ({"peft_type": "IA3"}, "plain LoRA"),
    ({"modules_to_save": ["lm_head"]}, "replaces parts"),
    ({"bias": "all"}, "replaces parts"),
    ({"layer_replication": [[0, 8]]}, "plain LoRA"),
    ({"init_lora_weights": "pissa"}, "plain LoRA"),
    ({"use_qalora": True}, "plain LoRA"),
    ({"base_model_name_or_path": "someone/unknown-model"}, "not known here"),
    ({"base_model_name_or_path": "/etc"}, "not known here"),
    ({"base_model_name_or_path": "../../mini"}, "not known here"),
    ({"r": 4096}, "does not fit its weights"),
    ({"r": True}, "does not fit its weights"),
    ({"lora_alpha": 1e300}, "does not fit its weights"),
    ({"rank_pattern": {"(a+)+$": 2}}, "does not fit its weights"),
    ({"rank_pattern": {"q_proj": 4096}}, "does not fit its weights"),
    ({"alpha_pattern": ["q_proj"]}, "does not fit its weights"),
])
def test_foreign_settings_are_refused(server: HubServer, root: Path, changes: dict[str, Any], sentence: str):
    put_adapter(server, **changes)
    with pytest.raises(AdapterError, match=sentence):
        hub.pull_adapter(REPO, root)
    assert list(root.iterdir()) == []


def bad_offsets() -> bytes:
    header = json.dumps({f"{LAYER}.lora_{x}.weight": {"dtype": "F32", "shape": s, "data_offsets": [0, 2048]}
                         for x, s in (("A", [2, 256]), ("B", [256, 2]))}).encode()
    return struct.pack("<Q", len(header)) + header + b"\0" * 2048


@pytest.mark.parametrize(("weights", "sentence"), [
    (lora_weights()[:-7], "safetensors"),
    (b"\x80\x04cos\nsystem\n", "safetensors"),
    (struct.pack("<Q", 2**62) + b"{}", "safetensors"),
    (b"", "safetensors"),
    (bad_offsets(), "damaged"),
    (save({"model.embed_tokens.weight": np.zeros((2, 2), np.float32)}), "not a LoRA matrix"),
    (lora_weights(value=float("inf")), "not finite"),
    (lora_weights(value=float("nan"), dtype=np.float16), "not finite"),
    (lora_weights(dtype=np.int8, value=1), "type I8"),
    (lora_weights(width=128), "does not fit its base model"),
], ids=["torn", "pickle", "huge header", "empty", "overlap", "a layer", "inf", "nan16", "int8", "other base"])
def test_foreign_weights_are_refused(server: HubServer, root: Path, weights: bytes, sentence: str):
    put_adapter(server)
    server.add_file("models", REPO, WEIGHTS, weights)
    with pytest.raises(AdapterError, match=sentence):
        hub.pull_adapter(REPO, root)
    assert list(root.iterdir()) == []


def test_pickled_weights_are_refused_without_a_download(server: HubServer, root: Path):
    server.add_file("models", REPO, "adapter_config.json", json.dumps(adapter_config()))
    server.add_file("models", REPO, "adapter_model.bin", b"\x80\x04")
    with pytest.raises(AdapterError, match="pickled weights"):
        hub.pull_adapter(REPO, root)
    assert not any("/resolve/" in p for p in server.paths())


def test_a_repository_without_an_adapter_is_refused(server: HubServer, root: Path):
    server.add_file("models", REPO, "config.json", "{}")
    with pytest.raises(AdapterError, match="no LoRA adapter"):
        hub.pull_adapter(REPO, root)


def test_file_names_from_outside_never_become_paths(server: HubServer, root: Path, tmp_path: Path):
    put_adapter(server)
    server.add_file("models", REPO, "evil.py", "import os")
    server.extra_names["models", REPO] = ["../../escape.safetensors", "/etc/cron.d/x", f"..\\{WEIGHTS}",
                                          "sub/adapter_config.json", "checkpoint-1/optimizer.pt"]
    hub.pull_adapter(REPO, root)
    fetched = sorted(p.rsplit("/", 1)[1] for p in server.paths("GET") if "/resolve/" in p)
    assert fetched == ["adapter_config.json", WEIGHTS]
    assert not list(tmp_path.rglob("escape*")) and not list(root.rglob("*.py"))


@pytest.mark.parametrize("size", [None, 10])
def test_a_file_beyond_its_limit_is_refused(server: HubServer, root: Path, monkeypatch, size: int | None):
    """By the size that the Hub states, and by what really arrives."""
    put_adapter(server)
    monkeypatch.setitem(hub._FETCHED, WEIGHTS, 1_000)
    if size:
        entry = hub_server._entry
        monkeypatch.setattr(hub_server, "_entry",
                            lambda p, c: entry(p, c) | ({"size": size} if p == WEIGHTS else {}))
    with pytest.raises(AdapterError, match=f"{WEIGHTS} in '{REPO}' is larger"):
        hub.pull_adapter(REPO, root)
    assert list(root.iterdir()) == [] if root.exists() else True


@pytest.mark.parametrize("target_modules", ["(.*)+q_proj", "q_proj", ["q_proj"], ["(a+)+"], [], None])
def test_settings_that_run_code_or_patterns_are_dropped(server: HubServer, root: Path, target_modules: Any):
    put_adapter(server, auto_mapping={"base_model_class": "x", "parent_library": "os"}, revision="../../x",
                target_modules=target_modules, layers_pattern="(a+)+", layers_to_transform=[0],
                base_model_name_or_path="MINI", unknown={"x": "/etc"})
    name = hub.pull_adapter(REPO, root)
    config = json.loads((root / name / "adapter_config.json").read_text())
    assert config["target_modules"] == ["model.layers.0.self_attn.q_proj"]
    assert config["base_model_name_or_path"] == "mini" and config["r"] == 2 and config["lora_alpha"] == 4
    assert not {"auto_mapping", "layers_pattern", "layers_to_transform", "unknown", "revision"} & {
        k for k, v in config.items() if v}


def test_a_missing_run_file_is_written_from_the_adapter(server: HubServer, root: Path):
    put_adapter(server)
    config = load_config(root / hub.pull_adapter(REPO, root) / "run.yaml")
    assert (config.base.id, config.lora.r, config.lora.alpha, config.name) == ("mini", 2, 4, "ann--tiny-lora")


@pytest.mark.parametrize("text", [
    "base: [", "train: {learning_rate: -1}", "- 1", "a: &a [x]\nb: *a", "[" * 30_000, "\0",
    "base: {id: mini, x: !!python/name:os.system }",
])
def test_an_invalid_run_file_is_replaced(server: HubServer, root: Path, text: str):
    put_adapter(server)
    server.add_file("models", REPO, "run.yaml", text)
    began = time.process_time()
    assert load_config(root / hub.pull_adapter(REPO, root) / "run.yaml").base.id == "mini"
    assert time.process_time() - began < 2  # deep brackets take the YAML reader minutes


def test_a_run_file_is_kept_with_safe_names(server: HubServer, root: Path):
    put_adapter(server)
    server.add_file("models", REPO, "run.yaml", to_yaml(build_config(
        {"base": {"id": "/home/someone/secret"}, "datasets": [{"id": "../../etc/passwd"}, {"id": "starter"}],
         "data": {"system_prompt": "Be brief."}})))
    config = load_config(root / hub.pull_adapter(REPO, root) / "run.yaml")
    assert config.base.id == "mini" and [d.id for d in config.datasets] == ["passwd", "starter"]
    assert config.data.system_prompt == "Be brief."


def test_a_base_that_a_run_here_uses_is_known(server: HubServer, root: Path):
    run = make_run(root, "own", config=adapter_config(base_model_name_or_path="lab/own-base"))
    assert run.result
    adapters.write_result(run.path, Result("finished", base="lab/own-base",
                                           adapter_sha256=run.result.adapter_sha256))
    put_adapter(server, base_model_name_or_path="lab/own-base")
    with pytest.raises(AdapterError, match="not known here"):
        hub.pull_adapter(REPO, root, catalogue_only=True)
    assert adapters.load_run(root, hub.pull_adapter(REPO, root)).base == "lab/own-base"


def test_pulling_again_fetches_nothing_and_an_update_replaces(server: HubServer, root: Path):
    put_adapter(server)
    name = hub.pull_adapter(REPO, root)
    before = len(server.requests)
    assert hub.pull_adapter(REPO, root) == name
    assert [p for p in server.paths()[before:] if "/resolve/" in p] == []
    assert hub.resolve_adapter(REPO, root) == name and hub.resolve_adapter(name, root) == name
    assert len(server.requests) == before + 1
    put_adapter(server, weights=lora_weights(value=0.125))
    hub.pull_adapter(REPO, root)
    assert (root / name / WEIGHTS).read_bytes() == lora_weights(value=0.125)
    assert [p.name for p in root.iterdir()] == [name]


def test_a_refused_update_leaves_the_old_adapter(server: HubServer, root: Path):
    put_adapter(server)
    name = hub.pull_adapter(REPO, root)
    put_adapter(server, weights=lora_weights(value=float("nan")))
    with pytest.raises(AdapterError):
        hub.pull_adapter(REPO, root)
    assert (root / name / WEIGHTS).read_bytes() == lora_weights()
    adapters.verify_run(adapters.load_run(root, name))


def test_a_run_of_ones_own_is_not_overwritten(server: HubServer, root: Path):
    put_adapter(server)
    make_run(root, "ann--tiny-lora")
    with pytest.raises(AdapterError, match="was not pulled"):
        hub.pull_adapter(REPO, root)


def test_resolve_pulls_on_first_use_and_names_unknown_runs(server: HubServer, root: Path):
    put_adapter(server)
    assert hub.resolve_adapter(REPO, root) == "ann--tiny-lora"
    with pytest.raises(AdapterError, match="There is no run 'nope'"):
        hub.resolve_adapter("nope", root)


@pytest.mark.parametrize("text", ["x", "", "a/b/c", "../x", "a/..", "a/b\n", "https://h/a/b", "a/b c", "ä/b",
                                  "a--b/c", "a/" + "b" * 97, "a/b.git", "-a/b", "a/b?x", "a/%2e%2e"])
def test_bad_ids_are_refused_before_any_request(server: HubServer, root: Path, text: str):
    if text == "a/b\n":
        assert hub.check_repo_id(text) == "a/b"
        return
    with pytest.raises(HubError, match="OWNER/NAME"):
        hub.pull_adapter(text, root)
    assert server.requests == []


def test_run_names_are_slugs_and_long_ids_stay_apart():
    long = ["Owner/" + "n" * 90 + end for end in "ab"]
    names = [hub.run_name_for(i) for i in (*long, "Ann/Tiny.v2_X")]
    assert len(set(names)) == 3 and names[2] == "ann--tiny.v2_x"
    assert all(adapters.is_run_name(n) for n in names)


# Failures, each with its sentence, in bounded time

FAILURES = [
    ({"status": 401}, None, "is private"),
    ({"status": 401, "message": "Invalid credentials in Authorization header"}, TOKEN, "not accept"),
    ({"code": "GatedRepo"}, TOKEN, "is gated"),
    ({"status": 403}, TOKEN, "does not let this token read"),
    ({"code": "RepoNotFound"}, None, "does not exist"),
    ({"code": "RevisionNotFound"}, None, "no such revision"),
    ({"code": "EntryNotFound"}, None, "file is missing"),
    ({"status": 429, "headers": {"Retry-After": "300"}}, None, "Try again in 300 seconds"),
    ({"status": 429, "headers": {"RateLimit": '"api";r=0;t=55'}}, None, "Try again in 55 seconds"),
    ({"status": 500}, None, "problem of its own"), ({"status": 503}, None, "problem of its own"),
    ({"status": 504}, None, "problem of its own"), ({"status": 418}, None, "refused the request"),
]


@pytest.mark.parametrize("where", ["/api/models/", "/resolve/"])
@pytest.mark.parametrize(("failure", "token", "sentence"), FAILURES)
def test_each_failure_of_a_pull_has_its_sentence(server: HubServer, root: Path, where: str,
                                                 failure: dict[str, Any], token: str | None, sentence: str):
    put_adapter(server)
    server.fail(where, **failure)
    began = time.monotonic()
    with pytest.raises(HubError, match=sentence) as error:
        hub.pull_adapter(REPO, root, token=token)
    assert error.value.next_step and TOKEN not in str(error.value)
    assert time.monotonic() - began < 2
    assert not root.exists() or list(root.iterdir()) == []


@pytest.mark.parametrize("where", ["/repos/create", "/validate-yaml", "/preupload/", "/objects/batch",
                                   "/lfs-store/", "/commit/"])
@pytest.mark.parametrize(("failure", "sentence"), [
    ({"status": 503}, "problem of its own"),
    ({"status": 429, "headers": {"Retry-After": "300"}}, "in 300 seconds"),
    ({"status": 403}, "does not let this token write"), ({"status": 401}, "did not accept the token"),
])
def test_each_failure_of_a_push_has_its_sentence(server: HubServer, root: Path, where: str,
                                                 failure: dict[str, Any], sentence: str):
    server.fail(where, **failure)
    began = time.monotonic()
    with pytest.raises(HubError, match=sentence):
        hub.push_adapter(make_run(root), REPO, token=TOKEN)
    assert time.monotonic() - began < 2 and server.commits == []


def test_the_client_does_not_ask_a_busy_hub_without_end(server: HubServer, root: Path):
    server.fail("/repos/create", status=409,
                message="Cannot create repo: another conflicting operation is in progress")
    with pytest.raises(HubError, match="refused the request"):
        hub.push_adapter(make_run(root), REPO, token=TOKEN)
    assert len(server.requests) == 1


@pytest.mark.parametrize("where", ["/api/models/", "/resolve/"])
def test_a_silent_server_ends_a_pull_in_time(server: HubServer, root: Path, monkeypatch, where: str):
    monkeypatch.setattr(hub, "TIMEOUT_S", 0.4)
    put_adapter(server)
    server.fail(where, hang_s=30)
    began = time.monotonic()
    with pytest.raises(HubError, match=r"did not answer within 0\.4 seconds"):
        hub.pull_adapter(REPO, root)
    assert time.monotonic() - began < 2
    assert not root.exists() or list(root.iterdir()) == []


@pytest.mark.parametrize("where", ["/repos/create", "/preupload/", "/lfs-store/", "/commit/"])
def test_a_silent_server_ends_a_push_in_time(server: HubServer, root: Path, monkeypatch, where: str):
    monkeypatch.setattr(hub, "TIMEOUT_S", 0.4)
    server.fail(where, hang_s=30)
    began = time.monotonic()
    with pytest.raises(HubError, match="did not answer"):
        hub.push_adapter(make_run(root), REPO, token=TOKEN)
    assert time.monotonic() - began < 2.5


def test_a_broken_download_leaves_nothing(server: HubServer, root: Path):
    put_adapter(server)
    server.fail(f"/{WEIGHTS}", cut_at=100)
    with pytest.raises(HubError, match="connection broke"):
        hub.pull_adapter(REPO, root)
    assert list(root.iterdir()) == []
    server.heal()
    hub.pull_adapter(REPO, root)


def test_a_download_that_is_not_what_the_hub_lists_is_refused(server: HubServer, root: Path, monkeypatch):
    put_adapter(server)
    wrong = hashlib.sha256(b"other").hexdigest()
    entry = hub_server._entry
    monkeypatch.setattr(hub_server, "_entry", lambda p, c: entry(p, c) | (
        {"lfs": {"oid": wrong, "size": len(c), "pointerSize": 134}} if p == WEIGHTS else {}))
    with pytest.raises(HubError, match="arrived damaged"):
        hub.pull_adapter(REPO, root)


def test_no_network_and_offline_mode(root: Path, monkeypatch: pytest.MonkeyPatch):
    from huggingface_hub import constants

    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # the discard port: nobody listens
    with pytest.raises(HubError, match="could not be reached"):
        hub.pull_adapter(REPO, root)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE"):
        hub.pull_adapter(REPO, root)


def test_a_full_disk_is_one_sentence(server: HubServer, root: Path, monkeypatch: pytest.MonkeyPatch):
    put_adapter(server)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(adapters, "write_json", full)
    with pytest.raises(HubError, match="disk is full"):
        hub.pull_adapter(REPO, root)
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("answer", ["<html>Please log in to the Wi-Fi</html>", "[]"])
def test_an_answer_that_is_not_the_hubs(server: HubServer, root: Path, monkeypatch, answer: str):
    monkeypatch.setattr(hub_server._Handler, "_info", lambda self, **_: self._send(answer.encode()))
    with pytest.raises(HubError, match="could not be understood"):
        hub.pull_adapter(REPO, root)


def test_requests_of_others_in_the_process_keep_their_ways(server: HubServer, root: Path):
    """Another library's 503 is retried as before: only requests of ours fail at once."""
    from huggingface_hub import HfApi

    put_adapter(server)
    hub.pull_adapter(REPO, root)
    server.fail("/tree/", status=503, times=1, headers={"Retry-After": "0"})
    names = HfApi(endpoint=server.url, token=False, library_name="other").list_repo_files(REPO)
    assert WEIGHTS in names


# Deploy

FRONT = "---\ntitle: medassist\nsdk: gradio\nsdk_version: 6.31.0\napp_file: app.py\n---\n\n# medassist\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    for name, text in {
        "app.py": "print(1)\n", "README.md": FRONT, "requirements.txt": "gradio\n", "LICENSE": "Apache\n",
        "CHANGELOG.md": "# 0.1\n", "medassist/__init__.py": "", "medassist/ui/theme.py": "x = 1\n",
        "medassist/mini/model.safetensors": "weights", "vocab/medical.tsv": "fever\t1\n",
        "medassist/__pycache__/a.cpython-311.pyc": "x", "medassist/.env": "HF_TOKEN=x",
        "medassist/run.log": "x", "tests/test_a.py": "x", ".git/config": "x", ".env": "x", ".ci/run": "x",
        "notes.txt": "x",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    make_run(folder / "adapters", "starter")
    make_run(folder / "adapters", "private-run")
    (folder / "medassist" / "link.txt").symlink_to(folder / ".env")
    return folder


def test_deploy_uploads_exactly_what_a_space_needs(server: HubServer, project: Path):
    url = hub.deploy_space("ann/app", project, token=TOKEN)
    files = server.files("spaces", "ann/app")
    assert url == f"{server.url}/spaces/ann/app"
    assert set(files) == {
        "app.py", "README.md", "requirements.txt", "LICENSE", "CHANGELOG.md", "medassist/__init__.py",
        "medassist/ui/theme.py", "medassist/mini/model.safetensors", "vocab/medical.tsv",
        "adapters/starter/result.json", "adapters/starter/dataset.json",
        *(f"adapters/starter/{n}" for n in hub.PUBLISHED)}
    assert files["README.md"].decode() == FRONT
    assert server.created[0].items() >= {"sdk": "gradio", "visibility": "private", "type": "space"}.items()
    assert TOKEN.encode() not in b"".join(r.body for r in server.requests)


def test_a_second_deploy_takes_away_what_is_gone(server: HubServer, project: Path):
    hub.deploy_space("ann/app", project, token=TOKEN)
    server.add_file("spaces", "ann/app", ".gitattributes", "*.safetensors filter=lfs\n")
    (project / "medassist" / "ui" / "theme.py").unlink()
    (project / "medassist" / "new.py").write_text("y = 2\n")
    hub.deploy_space("ann/app", project, token=TOKEN)
    files = server.files("spaces", "ann/app")
    assert "medassist/new.py" in files and "medassist/ui/theme.py" not in files and ".gitattributes" in files


@pytest.mark.parametrize(("name", "text", "sentence"), [
    ("README.md", "# no front matter\n", "front matter"), ("README.md", None, "no README.md"),
    ("app.py", None, "no app.py"),
    ("medassist/key.py", "KEY = 'hf_" + "z" * 34 + "'\n", "key.py holds an access token"),
])
def test_a_project_that_would_not_run_or_leaks_is_not_deployed(server: HubServer, project: Path, name: str,
                                                               text: str | None, sentence: str):
    (project / name).unlink(missing_ok=True)
    if text is not None:
        (project / name).write_text(text)
    with pytest.raises(HubError, match=sentence):
        hub.deploy_space("ann/app", project, token=TOKEN)
    assert server.requests == []


# The command line, the card, and a client in a process of its own

def run_command(*words: str) -> int:
    parser = argparse.ArgumentParser()
    hub.add_arguments(parser)
    parser.set_defaults(run=hub.main)  # as cli.py does, so that no argument may be called `run`
    args = parser.parse_args(words)
    return args.run(args)


def test_the_command_line(server: HubServer, root: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setenv("MEDASSIST_ADAPTERS", str(root))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    make_run(root)
    assert run_command("push", "cards", REPO, "--public", "--json") == 0
    assert run_command("pull", REPO, "--json") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    url = f"{server.url}/{REPO}"
    assert rows == [{"action": "push", "repo": REPO, "run": "cards", "url": url, "private": False},
                    {"action": "pull", "repo": REPO, "run": "ann--tiny-lora", "base": "mini"}]
    assert run_command("pull", REPO) == 0
    assert "chat --adapter ann--tiny-lora" in capsys.readouterr().out
    with pytest.raises(SystemExit) as wrong:
        run_command("sell", REPO)
    assert wrong.value.code == 2


def test_a_client_in_another_process_uses_the_stand_in(server: HubServer, root: Path, tmp_path: Path):
    """What tests of base models and datasets rely on: downloads by the client's own means, with its cache."""
    server.add_file("models", "lab/base", "config.json", '{"model_type": "llama"}')
    server.add_file("datasets", "lab/cards", "data/train.parquet", b"PAR1" + b"\0" * 50)
    code = ("from huggingface_hub import hf_hub_download as d, snapshot_download as s, HfFileSystem as F\n"
            "print(open(d('lab/base', 'config.json')).read())\n"
            "import os; print(sorted(os.listdir(s('lab/base'))))\n"
            "f = F(); print(f.ls('datasets/lab/cards/data', detail=False)); "
            "print(f.open('datasets/lab/cards/data/train.parquet').read(4))\n")
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **server.env(tmp_path / "home")},
                          capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ['{"model_type": "llama"}', "['config.json']",
                                        "['datasets/lab/cards/data/train.parquet']", "b'PAR1'"]


def test_the_card_holds_the_hubs_front_matter():
    from huggingface_hub import ModelCard

    config = build_config({"base": {"id": "meta-llama/Llama-3.2-1B-Instruct"},
                           "datasets": [{"id": "medical-flashcards"}, {"id": "/home/ann/my cards.csv"}]})
    result = Result("finished", steps=9, base="meta-llama/Llama-3.2-1B-Instruct", base_sha256="12" * 32)
    report = {"splits": {"train": 9}, "dropped": {"empty": 2}}
    text = render_model_card("my-run", config, result, EVALUATION, report)
    data = ModelCard(text).data
    assert data.base_model == "meta-llama/Llama-3.2-1B-Instruct" and data.license == "llama3.2"
    assert data.library_name == "peft" and data.language == ["en"]
    assert set(data.tags) == {"lora", "medical", "medassist"}
    assert data.datasets == ["medalpaca/medical_meadow_medical_flashcards"]
    assert [(r.metric_type, r.metric_value) for r in data.eval_results] == [("perplexity", 11.25)]
    assert "/home/ann" not in text and "my cards.csv" in text
    assert "not medical advice" in text and "For education" in text
    assert "9 train" in text and "2 (empty)" in text


def test_a_card_claims_nothing_that_was_not_measured():
    text = render_model_card("r", build_config({}), None, {"metrics": {"tuned_perplexity": float("nan")}})
    head = yaml.safe_load(text.split("---\n")[1])
    assert "model-index" not in head and "base_model" not in head and "Not measured yet" in text
