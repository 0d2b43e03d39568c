"""What is picked for which machine and why; 4-bit; and base models that come from the Hub, or do not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hub_server import HubServer

from medassist import catalog, models
from medassist.errors import ModelError

PROJECT = Path(__file__).resolve().parents[1]


def as_gpu(monkeypatch, real_bf16):
    """Makes torch say that there is a card, one that computes bf16 itself or only pretends to."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *a: "a card")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or real_bf16)


@pytest.mark.parametrize("real_bf16, wanted, dtype", [
    (True, "auto", "bfloat16"), (False, "auto", "float16"), (False, "bf16", "float16"), (True, "fp32", "float32"),
    (True, "fp16", "float16")])
def test_a_card_gets_what_it_really_computes_in(monkeypatch, real_bf16, wanted, dtype):
    as_gpu(monkeypatch, real_bf16)
    plan = models.plan_device(wanted, load_in_4bit=True, for_training=True)
    assert (plan.device, plan.dtype, plan.attention, plan.load_in_4bit) == ("cuda", dtype, "sdpa", True)
    assert all(plan.reasons)


@pytest.mark.parametrize("ratio, dtype", [(2.8, "bfloat16"), (0.6, "float32")])
def test_a_cpu_gets_what_is_really_faster(monkeypatch, ratio, dtype):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(models, "bf16_speedup", lambda: ratio)
    assert models.plan_device(for_training=True).dtype == dtype
    assert models.plan_device("fp16", for_training=True).dtype == dtype


@pytest.mark.parametrize("parameters, four_bit", [(8_000_000, False), (10**15, True)])
def test_4bit_on_cpu_only_where_nothing_else_fits(monkeypatch, parameters, four_bit):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(models, "has_bitsandbytes", lambda: True)
    plan = models.plan_device(load_in_4bit=True, for_training=True, parameters=parameters)
    assert plan.load_in_4bit is four_bit
    assert any("4-bit" in r for r in plan.reasons)


def test_without_bitsandbytes_there_is_no_4bit(monkeypatch):
    as_gpu(monkeypatch, True)
    monkeypatch.setattr(models, "has_bitsandbytes", lambda: False)
    plan = models.plan_device(load_in_4bit=True, for_training=True)
    assert not plan.load_in_4bit and any("not installed" in r for r in plan.reasons)


def test_a_base_too_large_is_refused_before_it_is_fetched(monkeypatch):
    ref = models.resolve_base("meta-llama/Llama-3.1-8B-Instruct")
    monkeypatch.setattr(models.psutil, "virtual_memory", lambda: type("M", (), {"available": 4e9})())
    with pytest.raises(ModelError, match="GB of memory"):
        models.load_base(ref, models.DevicePlan("cpu", "float32", "sdpa", False, ()))


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ModelError, match="no config.json"):
        models.resolve_base(str(tmp_path))


def test_pickled_weights_are_not_loaded(tiny_base, tmp_path):
    import shutil

    folder = tmp_path / "pickled"
    shutil.copytree(tiny_base, folder)
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="safetensors"):
        models.load_base(models.resolve_base(str(folder)), models.plan_device("fp32", for_training=False))


def test_the_hash_of_a_base_follows_its_weights(tiny_base, tmp_path):
    import shutil

    folder = tmp_path / "other"
    shutil.copytree(tiny_base, folder)
    before = models.base_sha256(models.resolve_base(str(folder)))
    assert before == models.base_sha256(models.resolve_base(str(tiny_base)))
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    assert models.base_sha256(models.resolve_base(str(folder))) != before


def test_another_base_takes_the_place_of_the_one_in_memory(tiny_base):
    slot = models.ModelSlot("fp32")
    with slot.use(models.resolve_base("mini")) as first:
        assert first.ref.name == "mini"
    with slot.use(models.resolve_base(str(tiny_base))) as second:
        assert second.model.config.hidden_size == 32
    assert slot.generation == 2


def test_mini_is_what_its_card_says():
    config = json.loads((catalog.MINI_DIR / "config.json").read_text())
    assert config["model_type"] == "llama"
    sizes = sum(p.stat().st_size for p in catalog.MINI_DIR.glob("*.safetensors"))
    assert sizes < 28_000_000
    assert catalog.find_base("mini").parameters == pytest.approx(7_999_744, rel=0.01)


@pytest.mark.slow
def test_a_4bit_base_trains_on_cpu(tiny_config, tmp_path, monkeypatch):
    """What bitsandbytes does on CPU: slow, and it works."""
    pytest.importorskip("bitsandbytes")
    from medassist import training

    monkeypatch.setattr(models, "plan_device", lambda *a, **k: models.DevicePlan("cpu", "bfloat16", "eager", True, ("test",)))
    kept = {}
    original = models.load_base
    monkeypatch.setattr(models, "load_base", lambda *a, **k: kept.setdefault("base", original(*a, **k)))
    folder = tmp_path / "run"
    folder.mkdir()
    result = training.train(tiny_config(base__id="mini", train__precision="auto", base__load_in_4bit=True), folder, lambda e: None)
    assert result.outcome == "finished", result.reason
    assert any(type(m).__name__ == "Linear4bit" for m in kept["base"].model.modules())


def command(server, home, *argv):
    env = {**os.environ, **server.env(home), "MEDASSIST_ADAPTERS": str(home / "adapters")}
    env.pop("HF_HUB_OFFLINE", None)
    return subprocess.run([sys.executable, "-m", "medassist", "train", *argv, "--name", "far", "--evaluate", "none", "--json",
                           "--set", "train.max_steps=2", "--set", "train.precision=fp32"],
                          cwd=PROJECT, env=env, capture_output=True, text=True, timeout=240, check=False)


@pytest.mark.slow
def test_base_and_dataset_from_the_hub(tmp_path, tiny_base, cards_file):
    with HubServer(tmp_path / "hub") as server:
        for path in tiny_base.iterdir():
            server.add_file("models", "someone/tiny", path.name, path.read_bytes())
        server.add_file("datasets", "someone/cards", "cards.jsonl", cards_file.read_bytes())
        done = command(server, tmp_path, "--base", "someone/tiny", "--dataset", "someone/cards")
        last = json.loads(done.stdout.splitlines()[-1])
        assert last["outcome"] == "finished", last
        result = json.loads((tmp_path / "adapters" / "far" / "result.json").read_text())
        assert result["base"] == "someone/tiny" and len(result["base_sha256"]) == 64


@pytest.mark.slow
@pytest.mark.parametrize("failure, part", [("gated", "gated"), ("missing", "no base model"), ("down", "could not be reached")])
def test_a_hub_that_refuses_is_one_sentence(tmp_path, tiny_base, failure, part):
    with HubServer(tmp_path / "hub") as server:
        if failure == "gated":
            for path in tiny_base.iterdir():
                server.add_file("models", "someone/tiny", path.name, path.read_bytes())
            server.fail("someone/tiny", code="GatedRepo")
        elif failure == "down":
            server.fail("someone/tiny", status=503)
        done = command(server, tmp_path, "--base", "someone/tiny")
        last = json.loads(done.stdout.splitlines()[-1])
        assert done.returncode == 1
        assert last["outcome"] == "failed" and part in last["reason"] and last["next_step"]
        assert "Traceback" not in done.stdout + done.stderr
