"""The verdict says yes, no, or that it cannot tell."""

from __future__ import annotations

import math
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest

from medassist import evaluation, models, prompts, scoring
from medassist.data import prepare_data
from medassist.data.shapes import Example
from medassist.errors import DataError
from medassist.generation import Answer, Engine
from medassist.models import ModelSlot
from medassist.scoring import Score, perplexity, score_answers


def scores(values, tokens=10):
    return [Score(v * tokens, tokens) for v in values]


def verdict(base, tuned):
    return evaluation.verdict(evaluation.summarise(scores(base), scores(tuned)))


def test_a_clear_gain_is_better():
    assert verdict([3.0, 3.2] * 20, [2.0, 2.1] * 20).startswith("Better than the base on 40")


def test_a_clear_loss_is_worse():
    assert verdict([2.0, 2.1] * 20, [3.0, 3.2] * 20).startswith("Worse than the base on 40")


def test_gains_and_losses_that_cancel_are_no_difference():
    assert verdict([3.0] * 40, [2.0, 4.0] * 20).startswith("No measurable difference")


def test_few_items_are_no_claim_however_large_the_gain():
    assert verdict([9.0] * 19, [1.0] * 19).startswith("Too few held-out questions for a claim: 19")


def test_figures_equal_those_by_hand():
    base, tuned = [Score(30.0, 10), Score(10.0, 5)], [Score(20.0, 10), Score(10.01, 5)]
    m = evaluation.summarise(base, tuned)
    assert m["base_perplexity"] == pytest.approx(math.exp(40 / 15), abs=1e-3)
    assert m["tuned_perplexity"] == pytest.approx(math.exp(30.01 / 15), abs=1e-3)
    assert m["difference"] == pytest.approx((30.01 - 40) / 15, abs=1e-4)
    assert (m["won"], m["tied"], m["lost"]) == (1, 1, 0)
    assert perplexity([]) != perplexity([])


@pytest.mark.parametrize("reference, answer, value", [
    ("the heart pumps blood", "the heart pumps blood", 1.0), ("the heart pumps blood", "liver", 0.0),
    ("the heart pumps blood", "the heart", 2 * 1.0 * 0.5 / 1.5)])
def test_rouge_l_is_the_librarys(reference, answer, value):
    assert evaluation.rouge_l(reference, answer) == pytest.approx(value, abs=1e-4)


def test_an_adapter_of_zeros_makes_no_measurable_difference(train_zeros, root):
    run = train_zeros()
    report = evaluation.evaluate_run(Engine(root, ModelSlot("fp32")), run, prepare_data(run.config),
                                     budget=evaluation.Budget(24, 4))
    assert report["verdict"].startswith("No measurable difference on 24")
    assert report["metrics"]["difference"] == 0
    assert all(i["base_answer"] == i["tuned_answer"] for i in report["items"][:4])
    assert not report["better"]


def test_training_that_helps_is_called_better(train_tiny, root):
    end, folder, _ = train_tiny(train__max_steps=30, evaluate__budget="quick")
    assert end.verdict.startswith("Better than the base on 24 held-out questions")


def test_held_out_falls_back_to_eval_and_says_so(tiny_config):
    prepared = prepare_data(tiny_config(data__test_size=0))
    assert evaluation.held_out(prepared)[1] == "eval"
    with pytest.raises(DataError, match="no test split"):
        evaluation.held_out(prepare_data(tiny_config(data__test_size=0, data__eval_size=0)))


TALK = Example("And glucagon?", "It raises blood glucose.",
               history=(("What is insulin?", "A hormone of the pancreas."),))


class BrokenEngine:
    def scoring_model(self, name):
        raise RuntimeError("scoring begins")


class FakeEngine:
    """One model, whichever is asked for; remembers what it was asked."""

    def __init__(self, loaded):
        self.loaded, self.asked = loaded, []

    @contextmanager
    def scoring_model(self, name):
        yield self.loaded, lambda tuned: nullcontext(self.loaded.model)

    def answer(self, asks, sampling):
        self.asked += asks
        return [Answer("An answer.", 3, True) for _ in asks]


def test_a_conversation_is_measured_on_its_last_answer_behind_what_went_before(tiny_base, tiny_config, tokenizer,
                                                                              monkeypatch):
    loaded = models.load_base(models.resolve_base(str(tiny_base)), models.plan_device("fp32", for_training=False))
    engine = FakeEngine(loaded)
    prepared = SimpleNamespace(test=[TALK], eval=(), sha256="0" * 64)
    run = SimpleNamespace(name="tiny", config=tiny_config(data__system_prompt="Be brief."))
    scored = []
    monkeypatch.setattr(scoring, "score_answers", lambda model, rows, **kwargs: scored.extend(rows) or
                        score_answers(model, rows, **kwargs))
    report = evaluation.evaluate_run(engine, run, prepared, budget=evaluation.Budget(5, 5))
    encoded = prompts.encode_example(tokenizer, TALK.question, TALK.answer, history=TALK.history, max_length=64,
                                     system_prompt="Be brief.")
    assert scored == [encoded, encoded]  # under the base, and fine-tuned
    alone = score_answers(loaded.model, [encoded])[0]
    item, = report["items"]
    assert item["tokens"] == alone.tokens == len(tokenizer(TALK.answer + "<|im_end|>")["input_ids"])
    assert item["base_nll"] == pytest.approx(alone.nll / alone.tokens, rel=1e-3)
    assert [m["content"] for m in engine.asked[0].messages] == [
        "Be brief.", "What is insulin?", "A hormone of the pancreas.", "And glucagon?"]
    assert [a.adapter for a in engine.asked] == [None, "tiny"]


def test_no_more_held_out_rows_are_read_than_are_scored():
    class Endless:
        def __len__(self):
            return 10**6

        def __iter__(self):
            for n in range(10**6):
                assert n < 3, "read on"
                yield TALK

    rows, used = evaluation.held_out(SimpleNamespace(test=Endless(), eval=()))
    assert used == "test" and len(rows) == 10**6
    run = SimpleNamespace(name="x", config=SimpleNamespace(data=None))
    with pytest.raises(RuntimeError, match="scoring"):
        evaluation.evaluate_run(BrokenEngine(), run,
                                SimpleNamespace(test=Endless(), eval=()), budget=evaluation.Budget(3, 0))
