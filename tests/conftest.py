"""Tiny real models, small real data, and a scripted engine; nothing here needs a network."""

from __future__ import annotations

import json
import os
import shutil
import threading
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

PROJECT = Path(__file__).resolve().parents[1]
ORGANS = ["heart", "liver", "kidney", "spleen", "lung", "brain", "stomach", "pancreas", "bladder", "skin", "colon", "eye"]
DEEDS = ["pumps blood", "makes bile", "filters plasma", "stores platelets", "takes up oxygen", "thinks", "digests food",
         "makes insulin", "holds urine", "keeps water in", "takes up salt", "sees light"]


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Prepared data of the tests is kept apart from the user's, and goes with them."""
    before = os.environ.get("MEDASSIST_CACHE")
    os.environ["MEDASSIST_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["MEDASSIST_CACHE"]
    else:
        os.environ["MEDASSIST_CACHE"] = before


@pytest.fixture(autouse=True)
def _own_adapters(tmp_path, monkeypatch):
    """No test touches the project's own adapters folder, or believes that it runs on a Space."""
    monkeypatch.setenv("MEDASSIST_ADAPTERS", str(tmp_path / "adapters"))
    for name in ("SPACE_ID", "MEDASSIST_OPEN", "HF_TOKEN", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def root(tmp_path) -> Path:
    """An adapters folder of this test's own."""
    folder = tmp_path / "adapters"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def tokenizer():
    from transformers import AutoTokenizer

    from medassist.catalog import MINI_DIR

    return AutoTokenizer.from_pretrained(str(MINI_DIR))


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory) -> Path:
    """A random Llama of 0.3 M parameters with mini's tokenizer, saved as a base model folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from medassist.catalog import MINI_DIR

    folder = tmp_path_factory.mktemp("models") / "tiny"
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=8192, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, bos_token_id=0, eos_token_id=2, pad_token_id=3,
        tie_word_embeddings=True))
    # Large enough that an untrained model does not repeat one token whatever it reads.
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(8)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(MINI_DIR / name, folder / name)
    return folder


@pytest.fixture(scope="session")
def cards_file(tmp_path_factory) -> Path:
    """Sixty question-answer rows, all different, as JSONL."""
    path = tmp_path_factory.mktemp("data") / "cards.jsonl"
    rows = [{"question": f"What does the {o} do on day {d}?", "answer": f"On day {d} the {o} {deed}."}
            for d in range(5) for o, deed in zip(ORGANS, DEEDS)]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


@pytest.fixture
def tiny_config(tiny_base, cards_file):
    """Builds a RunConfig for the tiny base; dotted settings may be given as keywords with __ for the dot."""
    from medassist.config import build_config

    def build(name: str = "tiny", **dotted):
        settings = {"name": name, "base.id": str(tiny_base), "data.eval_size": 6, "data.test_size": 24,
                    "data.max_length": 64, "train.max_steps": 4, "train.per_device_train_batch_size": 4,
                    "train.learning_rate": 0.01, "train.precision": "fp32", "train.checkpoints_per_epoch": 0,
                    "lora.dropout": 0.0, "evaluate.budget": "none"}
        settings |= {k.replace("__", "."): v for k, v in dotted.items()}
        return build_config({"datasets": [{"id": str(cards_file)}]}, dotted=settings)

    return build


@pytest.fixture
def train_tiny(root, tiny_config):
    """Trains the tiny base in this process and returns (end, folder, events)."""
    from medassist import jobs, runs

    def train(name: str = "tiny", **dotted):
        config, folder = jobs.create_run(root, tiny_config(name, **dotted))
        events: list = []
        end = runs.execute(config, folder, events.append)
        return end, folder, events

    return train


@pytest.fixture
def train_zeros(train_tiny, root):
    """Trains the tiny base, sets the adapter's B matrices to zero, and returns the run: it must act as its base."""
    from safetensors.torch import load_file, save_file

    from medassist import adapters

    def train():
        end, folder, _ = train_tiny()
        path = folder / adapters.WEIGHTS
        save_file({k: v * 0 if "lora_B" in k else v for k, v in load_file(str(path)).items()}, str(path))
        result = adapters.read_result(folder)
        adapters.write_result(folder, adapters.Result(**{**result.__dict__, "adapter_sha256": adapters.file_sha256(path)}))
        return adapters.load_run(root, end.run)

    return train


class ScriptedEngine:
    """Stands where the engine stands and remembers what it was asked; answers are given beforehand."""

    def __init__(self, root: Path, answers: dict[str | None, str] | None = None) -> None:
        self.root = root
        self.answers = answers or {}
        self.asked: list = []
        self.cancelled = False

    def stream(self, asks, sampling=None, *, base=None, cancel: threading.Event | None = None, catalogue_only=False):
        from medassist.generation import Answer

        self.asked.append(list(asks))
        texts = [self.answers.get(a.adapter, f"An answer by {a.adapter or 'the base'}.") for a in asks]
        try:
            for end in range(1, max(map(len, texts)) + 1, 8):
                yield [Answer(t[:end], end) for t in texts]
                if cancel is not None and cancel.is_set():
                    self.cancelled = True
                    return
            yield [Answer(t, len(t), True) for t in texts]
        except GeneratorExit:
            self.cancelled = True
            raise

    def warm_up(self, adapter=None) -> None:
        return


@pytest.fixture
def scripted_engine(root):
    return ScriptedEngine(root)
