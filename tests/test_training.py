"""LoRA training with a tiny real model: what changes, what must not, and how it ends when things go wrong."""

from __future__ import annotations

import csv
import json
import math
import re

import pytest
import torch

from medassist import adapters, checkpoints, models, prompts, sft, training
from medassist.data.shapes import DataReport, Example
from medassist.progress import Data, Eval, Notice, Plan, Step
from medassist.scoring import score_answers


def parameters(folder):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32)
    return {k: v.clone() for k, v in model.state_dict().items()}


def test_a_run_leaves_a_folder_that_explains_itself(train_tiny, root):
    end, folder, events = train_tiny(train__checkpoints_per_epoch=2, evaluate__budget="quick")
    assert end.outcome == "finished"
    assert {p.name for p in folder.iterdir()} == {
        "run.yaml", "progress.jsonl", "loss.csv", "loss.png", "adapter_config.json", "adapter_model.safetensors",
        "README.md", "evaluation.json", "result.json", "dataset.json", "vocabulary.tsv"}
    assert [e.step for e in events if isinstance(e, Step)] == [1, 2, 3, 4]
    assert [e.when for e in events if isinstance(e, Eval)] == ["before", "after"]
    assert "24 held-out questions" in end.verdict
    result = json.loads((folder / "result.json").read_text())
    for key in ("base_sha256", "adapter_sha256", "dataset_sha256"):
        assert len(result[key]) == 64
    rows = list(csv.DictReader((folder / "loss.csv").open()))
    assert [r["split"] for r in rows].count("train") == 4
    assert (root / "experiments.csv").read_text().count("\n") == 2


def test_run_yaml_keeps_how_the_columns_were_read(train_tiny):
    from medassist.config import load_config

    _, folder, _ = train_tiny()
    config = load_config(folder / "run.yaml")
    assert config.datasets[0].mapping == {"question": "question", "answer": "answer"}
    report = json.loads((folder / "dataset.json").read_text())
    assert report["sources"][0]["confidence"] > 0.9 and {s["name"] for s in report["steps"]} >= {"html", "near_duplicates"}


def test_no_file_of_a_run_holds_an_absolute_path_or_a_token(train_tiny, tiny_base, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecretsecret")
    _, folder, _ = train_tiny()
    for path in (p for p in folder.rglob("*") if p.is_file()):
        data = path.read_bytes()
        # A relative path (../../…) to a local base is how a run can be repeated; an absolute one is not allowed.
        assert not re.search(rb"(?<!\.\.)" + re.escape(str(tiny_base).encode()), data), path.name
        assert b"hf_secretsecretsecret" not in data, path.name


def test_the_base_is_unchanged_and_the_adapter_is_not(train_tiny, tiny_base):
    before = parameters(tiny_base)
    loaded = models.load_base(models.resolve_base(str(tiny_base)), models.plan_device("fp32", for_training=True))
    _, folder, _ = train_tiny()
    after = parameters(tiny_base)
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert all(torch.equal(before[k], v) for k, v in loaded.model.state_dict().items())
    from safetensors.torch import load_file

    weights = load_file(str(folder / adapters.WEIGHTS))
    changed = [k for k, v in weights.items() if "lora_B" in k and v.abs().max() > 0]
    assert changed and len(changed) == sum("lora_B" in k for k in weights)


def test_the_base_in_memory_is_bit_for_bit_the_same_after_training(tiny_config, tmp_path, monkeypatch):
    kept = {}
    original = models.load_base

    def remember(*args, **kwargs):
        base = original(*args, **kwargs)
        kept["base"], kept["before"] = base, {k: v.clone() for k, v in base.model.state_dict().items()}
        return base

    monkeypatch.setattr(models, "load_base", remember)
    folder = tmp_path / "run"
    folder.mkdir()
    assert training.train(tiny_config(), folder, lambda e: None).outcome == "finished"
    after = kept["base"].model.state_dict()
    assert set(after) == set(kept["before"])
    assert all(torch.equal(after[k], v) for k, v in kept["before"].items())


def test_overfitting_ten_rows_learns_them_and_stops_by_itself(root, tiny_config, tmp_path, tokenizer):
    from medassist import jobs, runs
    from medassist.generation import Ask, Engine, Sampling

    rows = [{"question": f"Say number {n}?", "answer": f"Number {n} it is."} for n in range(10)]
    path = tmp_path / "ten.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    config = tiny_config("ten", datasets=[{"id": str(path)}], data__eval_size=0, data__test_size=0, base__id="mini", train__precision="auto",
                         train__max_steps=40, train__per_device_train_batch_size=10, train__learning_rate=0.005)
    config, folder = jobs.create_run(root, config)
    assert runs.execute(config, folder).outcome == "finished"
    asks = [Ask(prompts.build_messages(r["question"]), "ten") for r in rows]
    answers = Engine(root, models.ModelSlot("fp32")).answer(asks, Sampling(max_new_tokens=40, repetition_penalty=1.0))
    right = sum(a.text == r["answer"] for a, r in zip(answers, rows))
    assert right >= 8, [a.text for a in answers]
    assert sum(a.ended for a in answers) >= 9


HISTORY = (("What is it?", "A disease of the airways."), ("What helps?", "Rest and a spray."))


def as_row(encoded):
    return {"input_ids": list(encoded.input_ids), "labels": list(encoded.labels)}


def test_packed_and_padded_conversations_give_the_loss_of_their_answers_alone(tiny_base, tokenizer):
    """Every answer's tokens count once, and no token of a question does."""
    base = models.load_base(models.resolve_base(str(tiny_base)), models.plan_device("fp32", for_training=True))
    talk, = prompts.encode_conversation(tokenizer, "And?", "Nothing more.", history=HISTORY, max_length=200)
    short = prompts.encode_example(tokenizer, "Short?", "Yes.", max_length=64)
    losses = sft._answer_losses(base.model, sft.collate_packed([as_row(talk), as_row(short)]))
    turns = [*HISTORY, ("And?", "Nothing more.")]
    alone = [prompts.encode_example(tokenizer, q, a, history=turns[:n], max_length=200)
             for n, (q, a) in enumerate(turns)]
    expected = score_answers(base.model, [*alone, short])
    assert losses.numel() == sum(s.tokens for s in expected)
    assert losses.sum().item() == pytest.approx(sum(s.nll for s in expected), rel=1e-4)
    padded = sft.collate_padded([as_row(talk), as_row(short)], pad_id=3)
    assert int((padded["labels"] != -100).sum()) == losses.numel()
    whole = score_answers(base.model, [short, talk])
    assert whole[1].nll == pytest.approx(sum(s.nll for s in expected[:3]), rel=1e-4)


def test_rows_come_back_from_disk_as_they_went(tmp_path, tokenizer):
    encoded = [row for n in range(2500) for row in prompts.encode_conversation(
        tokenizer, f"Number {n}?", "It is. " * (n % 5 + 1), history=HISTORY[:n % 3], max_length=60)]
    rows = sft.TokenRows(iter(encoded), tmp_path / "rows.arrow")
    assert len(rows) == len(encoded) == 2500
    assert list(rows.lengths) == [len(e.input_ids) for e in encoded]
    assert (rows.trained, rows.cut) == (sum(e.trained_tokens for e in encoded), sum(e.cut for e in encoded))
    assert all(rows[n] == as_row(encoded[n]) for n in (0, 1, 999, 1000, 2499, -1))
    assert rows.dataset.cache_files == [{"filename": str(tmp_path / "rows.arrow")}]  # mapped, not held
    assert (tmp_path / "rows.arrow").stat().st_size < 8.5 * sum(rows.lengths) + 20 * len(rows)


def test_no_more_than_a_thousand_rows_wait_in_memory(tmp_path, tokenizer):
    import weakref

    alive, most = weakref.WeakSet(), 0

    class Row(prompts.EncodedExample):
        __hash__ = object.__hash__

    def produce():
        nonlocal most
        for n in range(5000):
            row = Row((n, 1, 2), ((1, 3),), False)
            alive.add(row)
            most = max(most, len(alive))
            yield row

    assert len(sft.TokenRows(produce(), tmp_path / "rows.arrow")) == 5000
    assert most < 2100


class OnceOnly:
    """Examples that may be read through once, in order, as from a file."""

    def __init__(self, examples):
        self._examples, self.reads = examples, 0

    def __len__(self):
        return len(self._examples)

    def __iter__(self):
        self.reads += 1
        yield from self._examples


@pytest.fixture
def train_examples(tiny_config, tmp_path, monkeypatch):
    """Trains on examples made by hand; returns (result, folder, events)."""
    from types import SimpleNamespace

    def train(examples, evals=(), **dotted):
        prepared = SimpleNamespace(train=examples, eval=evals, test=(), sha256="0" * 64,
                                   report=DataReport((), {}, {}, ()))
        monkeypatch.setattr(training, "prepare_data", lambda *args, **kwargs: prepared)
        folder, events = tmp_path / "run", []
        folder.mkdir()
        return training.train(tiny_config(**dotted), folder, events.append), folder, events

    return train


def test_conversations_are_trained_on_in_one_pass_and_leave_no_rows_behind(train_examples, tokenizer):
    examples = OnceOnly([Example(f"And {n}?", "Nothing more.", history=HISTORY) for n in range(12)])
    end, folder, events = train_examples(examples, OnceOnly(examples._examples[:2]), data__max_length=128)
    assert end.outcome == "finished", end.reason
    assert examples.reads == 1
    answers = sum(len(tokenizer(a + "<|im_end|>")["input_ids"]) for a in (*(a for _, a in HISTORY), "Nothing more."))
    data, = (e for e in events if isinstance(e, Data))
    assert (data.splits["train"], data.answer_tokens, data.cut) == (12, 12 * answers, 0)
    assert {e.tokens for e in events if isinstance(e, Eval)} == {2 * answers}
    assert not list(folder.glob(".rows*"))


def test_a_failed_run_leaves_no_rows_behind(train_examples):
    end, folder, _ = train_examples([Example("word " * 200, "So.")])
    assert (end.outcome, end.next_step) == ("failed", "Raise data.max_length.")
    assert not list(folder.glob(".rows*"))


def test_a_chat_template_that_is_not_the_published_one_is_said_and_ends_no_run(train_examples, tiny_base, tmp_path):
    import shutil

    base = tmp_path / "TinyLlama-1.1B-Chat-v1.0"
    shutil.copytree(tiny_base, base)
    examples = [Example(f"Question {n}?", f"Answer {n}.") for n in range(8)]
    end, _, events = train_examples(examples, base__id=str(base))
    assert end.outcome == "finished"
    assert sum("not the one published for TinyLlama" in e.message for e in events if isinstance(e, Notice)) == 1


def test_packed_rows_give_the_loss_of_padded_ones(tiny_base, tokenizer):
    base = models.load_base(models.resolve_base(str(tiny_base)), models.plan_device("fp32", for_training=True))
    rows = [prompts.encode_example(tokenizer, q, a, max_length=64)
            for q, a in (("Short?", "Yes."), ("A longer question than that?", "A longer answer, with more words in it."))]
    packed = sft.collate_packed([as_row(r) for r in rows])
    together = sft._answer_losses(base.model, packed)
    apart = score_answers(base.model, rows)
    assert together.sum().item() == pytest.approx(sum(s.nll for s in apart), rel=1e-4)
    assert together.numel() == sum(s.tokens for s in apart)
    assert sft.packed_rows_stay_apart(base.model, *map(as_row, rows))


def test_a_model_that_mixes_packed_rows_is_found_out(tokenizer, monkeypatch):
    base = models.load_base(models.resolve_base("mini"), models.plan_device("fp32", for_training=True))
    rows = [prompts.encode_example(tokenizer, q, a, max_length=64)
            for q, a in (("What is asthma?", "A disease of the airways."), ("What is insulin?", "A hormone of the pancreas."))]
    rows = [as_row(r) for r in rows]
    assert sft.packed_rows_stay_apart(base.model, *rows)
    original = base.model.forward

    def without_positions(*args, position_ids=None, **kwargs):
        return original(*args, **kwargs)

    without_positions.__signature__ = __import__("inspect").signature(original)
    monkeypatch.setattr(base.model, "forward", without_positions)
    assert not sft.packed_rows_stay_apart(base.model, *rows)


def test_scores_in_batches_equal_those_one_by_one_and_by_hand(tiny_base, tokenizer):
    base = models.load_base(models.resolve_base(str(tiny_base)), models.plan_device("fp32", for_training=False))
    rows = [prompts.encode_example(tokenizer, "Q" * n, "word " * n, max_length=64) for n in range(1, 12)]
    rows += prompts.encode_conversation(tokenizer, "And?", "Last.", history=HISTORY, max_length=200)
    assert len(rows[-1].spans) == 3
    together = score_answers(base.model, rows)
    alone = [score_answers(base.model, [r])[0] for r in rows]
    for row, a, b in zip(rows, together, alone):
        logits = base.model(torch.tensor([row.input_ids])).logits[0].double().log_softmax(-1)
        by_hand = -sum(float(logits[t - 1, row.input_ids[t]]) for s in row.spans for t in range(*s))
        assert a.nll == pytest.approx(b.nll, rel=1e-4)
        assert a.nll == pytest.approx(by_hand, rel=1e-4)
        assert a.tokens == row.trained_tokens == sum(x != -100 for x in row.labels)


def test_a_loss_that_is_not_finite_ends_the_run_at_that_step(train_tiny, monkeypatch):
    original, calls = sft._answer_losses, []

    def broken(model, batch):
        losses = original(model, batch)
        if model.training:
            calls.append(1)
        return losses * math.nan if len(calls) == 3 else losses

    monkeypatch.setattr(sft, "_answer_losses", broken)
    end, folder, _ = train_tiny()
    assert end.outcome == "failed"
    assert "not a finite number at step 3" in end.reason
    assert "learning rate" in end.next_step
    assert not (folder / adapters.WEIGHTS).exists()


def test_gradients_that_are_not_finite_end_the_run(train_tiny, monkeypatch):
    def poisoned(self, args, state, control, model=None, **kwargs):
        next(p for p in model.parameters() if p.grad is not None).grad.fill_(math.inf)
        return original(self, args, state, control, model=model, **kwargs)

    original = sft.RunCallback.on_pre_optimizer_step
    monkeypatch.setattr(sft.RunCallback, "on_pre_optimizer_step", poisoned)
    end, _, _ = train_tiny()
    assert (end.outcome, end.steps) == ("failed", 0)
    assert "gradient was not a finite number at step 1" in end.reason


def test_out_of_memory_goes_on_with_half_the_batch(train_tiny, monkeypatch):
    original = sft.AnswerTrainer.compute_loss

    def hungry(self, model, inputs, *args, **kwargs):
        if int((inputs["position_ids"] == 0).sum()) > 1:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
        return original(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(sft.AnswerTrainer, "compute_loss", hungry)
    end, _, events = train_tiny()
    assert end.outcome == "finished"
    plans = [(e.batch_size, e.gradient_accumulation_steps) for e in events if isinstance(e, Plan)]
    assert plans == [(4, 1), (2, 2), (1, 4)]
    assert sum("Memory ran out" in e.message for e in events if isinstance(e, Notice)) == 2


def test_out_of_memory_with_a_batch_of_one_is_one_sentence(train_tiny, monkeypatch):
    def hungry(self, *args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(sft.AnswerTrainer, "compute_loss", hungry)
    end, _, _ = train_tiny()
    assert end.outcome == "failed"
    assert "memory ran out" in end.reason and end.next_step


def test_a_full_disk_at_a_checkpoint_does_not_end_the_run(train_tiny, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "seal", full)
    end, _, events = train_tiny(train__checkpoints_per_epoch=10)
    assert end.outcome == "finished"
    assert any("No space left on device" in e.message for e in events if isinstance(e, Notice))


def test_a_disk_too_small_is_found_before_training(train_tiny, monkeypatch):
    monkeypatch.setattr(training.shutil, "disk_usage", lambda path: type("U", (), {"free": 1000})())
    end, _, _ = train_tiny()
    assert (end.outcome, end.steps) == ("failed", 0)
    assert "disk has 0 MB free" in end.reason


def test_the_best_adapter_is_kept_when_training_goes_past_it(train_tiny, monkeypatch):
    losses = iter([5.0, 2.0, 3.0])
    monkeypatch.setattr(training, "mean_nll", lambda scores: next(losses))
    end, folder, events = train_tiny(train__max_steps=16, train__checkpoints_per_epoch=1)
    assert end.metrics["kept_step"] == 8, [e for e in events if isinstance(e, Eval)]
    assert any("adapter of step 8 is kept" in e.message for e in events if isinstance(e, Notice))


def test_the_last_adapter_is_kept_on_wish(train_tiny, monkeypatch):
    losses = iter([5.0, 2.0, 3.0])
    monkeypatch.setattr(training, "mean_nll", lambda scores: next(losses))
    end, _, _ = train_tiny(train__max_steps=16, train__keep="last")
    assert "kept_step" not in end.metrics


def test_a_learning_rate_that_changes_nothing_is_not_called_done(train_tiny):
    end, folder, _ = train_tiny(train__learning_rate=1e-30)
    assert end.outcome == "failed"
    assert "does not change the model's output" in end.reason
    assert not (folder / adapters.WEIGHTS).exists()


@pytest.mark.parametrize("dotted, part", [
    ({"lora__target_modules": ["no_such_layer"]}, "none of the layers"),
    ({"data__max_length": 16}, "max_length")])
def test_settings_that_cannot_work_fail_with_a_sentence(train_tiny, dotted, part):
    end, _, _ = train_tiny(**dotted)
    assert end.outcome == "failed"
    assert part in end.reason
    assert end.next_step


def test_a_changed_dataset_is_not_resumed(root, tiny_config, tmp_path):
    from medassist import jobs, runs

    path = tmp_path / "data.jsonl"
    rows = [json.dumps({"question": f"Q{n}?", "answer": f"Answer number {n}."}) + "\n" for n in range(40)]
    path.write_text("".join(rows))
    config, folder = jobs.create_run(root, tiny_config(datasets=[{"id": str(path)}]))
    steps = []
    end = runs.execute(config, folder, steps.append, interrupted=lambda: any(isinstance(e, Step) for e in steps))
    assert end.outcome == "stopped"
    path.write_text("".join(rows[:36]))
    end = runs.execute(*jobs.prepare_resume(root, "tiny"), resume=True)
    assert end.outcome == "failed"
    assert "dataset has changed" in end.reason


def test_a_stopped_run_resumes_to_what_an_unbroken_one_gives(root, tiny_config):
    from medassist import jobs, runs

    config, whole = jobs.create_run(root, tiny_config("whole", train__max_steps=8))
    assert runs.execute(config, whole).outcome == "finished"
    config, folder = jobs.create_run(root, tiny_config("parts", train__max_steps=8))
    seen = []
    end = runs.execute(config, folder, seen.append, interrupted=lambda: sum(isinstance(e, Step) for e in seen) >= 3)
    assert end.outcome == "stopped"
    assert 3 <= end.steps < 8
    assert checkpoints.newest_valid(folder / "checkpoints")[1] == end.steps
    end = runs.execute(*jobs.prepare_resume(root, "parts"), resume=True)
    assert (end.outcome, end.steps) == ("finished", 8)
    from safetensors.torch import load_file

    a, b = (load_file(str(f / adapters.WEIGHTS)) for f in (whole, folder))
    assert all(torch.allclose(a[k], b[k], atol=1e-5) for k in a)


def test_a_stop_asked_for_while_the_process_starts_is_not_lost(root, tiny_config):
    from medassist import jobs, runs

    config, folder = jobs.create_run(root, tiny_config())
    (folder / jobs.STOP_FILE).touch()
    end = runs.execute(config, folder)
    assert (end.outcome, end.steps) == ("stopped", 0)
    assert not (folder / jobs.STOP_FILE).exists()
    assert runs.execute(*jobs.prepare_resume(root, "tiny"), resume=True).outcome == "finished"


def test_a_stop_during_the_comparison_leaves_a_finished_run_without_half_a_verdict(root, tiny_config):
    from medassist import jobs, runs
    from medassist.progress import Evaluating

    config, folder = jobs.create_run(root, tiny_config(evaluate__budget="quick"))
    seen = []
    end = runs.execute(config, folder, seen.append, interrupted=lambda: any(isinstance(e, Evaluating) for e in seen))
    assert (end.outcome, end.verdict) == ("finished", "")
    assert not (folder / "evaluation.json").exists()
    assert any("comparison was stopped" in e.message for e in seen if isinstance(e, Notice))
    assert [r.name for r in adapters.list_usable(root)] == ["tiny"]
