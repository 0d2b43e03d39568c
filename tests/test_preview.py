"""What the preview shows is what is trained on, and its figures are those of the whole split."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from medassist import adapters, models, preview, prompts
from medassist.data.shapes import Example

TALK = Example("And glucagon?", "It raises blood glucose.", history=(("What is insulin?", "A hormone."),))
SHORT = Example("What does insulin do?", "It lowers blood glucose.")
CUT = Example("Tell me more?", "word " * 300)
NO_ROOM = Example("word " * 300, "An answer that is longer than eight tokens.")


def prepared(*examples):
    return SimpleNamespace(train=examples, eval=(), test=())


@pytest.fixture
def config(tiny_config):
    preview._tokenizer.cache_clear()
    return tiny_config(base__id="mini")


def test_a_single_question_has_a_read_and_a_trained_part(config):
    row, = preview.preview_examples(config, prepared(SHORT), 5)
    read = "<|im_start|>user\nWhat does insulin do?<|im_end|>\n<|im_start|>assistant\n"
    assert row.segments == ((read, False), ("It lowers blood glucose.<|im_end|>", True))
    assert (row.prompt_text, row.trained_text) == (read, "It lowers blood glucose.<|im_end|>")
    assert row.to_text() == (f"── 1 · {row.tokens} tokens, {row.trained_tokens} trained\n"
                             f"{read}»It lowers blood glucose.<|im_end|>«")
    shown = json.loads(json.dumps(row.to_json()))
    assert shown["segments"][1] == {"text": "It lowers blood glucose.<|im_end|>", "trained": True}
    assert (shown["prompt_text"], shown["number"], shown["cut"]) == (read, 1, False)


def test_each_answer_of_a_conversation_is_marked(config):
    row, = preview.preview_examples(config, prepared(TALK), 1)
    assert [text for text, trained in row.segments if trained] == [
        "A hormone.<|im_end|>", "It raises blood glucose.<|im_end|>"]
    assert row.to_text().count("»") == row.to_text().count("«") == 2
    encoded, = prompts.encode_conversation(preview._tokenizer("mini", None), TALK.question, TALK.answer,
                                           history=TALK.history, max_length=64)
    assert "".join(text for text, _ in row.segments) == preview._tokenizer("mini", None).decode(list(encoded.input_ids))
    assert (row.tokens, row.trained_tokens) == (len(encoded.input_ids), encoded.trained_tokens)


def test_a_conversation_in_several_sequences_shows_them_all(config, tokenizer, monkeypatch):
    import copy

    other = copy.deepcopy(tokenizer)
    asked = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n"
    other.chat_template = tokenizer.chat_template.replace(asked, asked + "<t>")
    assert other.chat_template != tokenizer.chat_template
    monkeypatch.setattr(preview, "_tokenizer", lambda *args: other)
    row, = preview.preview_examples(config, prepared(TALK), 1)
    assert row.trained_text == "A hormone.<|im_end|>It raises blood glucose.<|im_end|>"
    assert preview.count_tokens(config, prepared(TALK)).sequences == 2


def test_examples_without_room_are_left_out_and_numbers_stay(config):
    rows = preview.preview_examples(config, prepared(SHORT, NO_ROOM, CUT, SHORT), 2, start=1)
    assert [(r.number, r.cut) for r in rows] == [(3, True)]
    assert "(cut)" in rows[0].to_text()


def test_figures_of_a_small_split_are_exact(config, tokenizer):
    stats = preview.count_tokens(config, prepared(SHORT, TALK, CUT, NO_ROOM))
    encoded = [e for x in (SHORT, TALK, CUT) for e in prompts.encode_conversation(
        tokenizer, x.question, x.answer, history=x.history, max_length=64)]
    assert (stats.examples, stats.sequences, stats.cut, stats.too_long) == (4, 3, 1, 1)
    assert stats.tokens == sum(len(e.input_ids) for e in encoded)
    assert stats.trained == sum(e.trained_tokens for e in encoded)
    assert (stats.cut_share, stats.too_long_share) == (0.25, 0.25)
    lengths = sorted(len(e.input_ids) for x in (SHORT, TALK, CUT, NO_ROOM) for e in prompts.encode_conversation(
        tokenizer, x.question, x.answer, history=x.history, max_length=10**6))
    assert stats.longest == stats.p95 == lengths[-1] > 300  # as it is, not as it is cut
    assert stats.median == (lengths[1] + lengths[2]) / 2
    assert stats.mean == pytest.approx(sum(lengths) / 4, abs=0.06)
    assert json.dumps(stats.to_json())


def test_the_histogram_holds_every_sequence_once(config):
    stats = preview.count_tokens(config, prepared(SHORT, TALK, CUT, NO_ROOM, SHORT))
    bounds = [bound for bound, _ in stats.histogram]
    assert len(bounds) == 12 and bounds == sorted(set(bounds))
    assert bounds[7] == 64 and bounds[-1] >= stats.longest
    assert sum(count for _, count in stats.histogram) == 5
    assert sum(count for bound, count in stats.histogram if bound > 64) == 2
    assert preview._histogram([8, 8, 9, 64, 65, 10_000], 64) == [
        (8, 2), (16, 1), (24, 0), (32, 0), (40, 0), (48, 0), (56, 0), (64, 1), (96, 1), (128, 0), (256, 0), (10_000, 1)]


def test_a_large_split_is_sampled_evenly_and_scaled(config):
    class Rows:
        """Eight hundred short rows, then two hundred that are cut."""

        def __init__(self):
            self.read = []

        def __len__(self):
            return 1000

        def __getitem__(self, place):
            self.read.append(place)
            return SHORT if place < 800 else CUT

    rows = Rows()
    stats = preview.count_tokens(config, SimpleNamespace(train=rows), sample=100)
    assert rows.read == list(range(0, 1000, 10))
    assert (stats.examples, stats.sequences, stats.cut) == (1000, 1000, 200)
    one = preview.count_tokens(config, prepared(SHORT))
    assert stats.tokens == 800 * one.tokens + 200 * 64


def test_many_questions_without_room_are_warned_of(config):
    assert preview.count_tokens(config, prepared(SHORT, SHORT, NO_ROOM)).warning is None
    warning = preview.count_tokens(config, prepared(SHORT, NO_ROOM)).warning
    assert warning.startswith("50% of the questions leave no room for an answer within 64 tokens")
    assert "raise data.max_length" in warning
    assert preview.count_tokens(config, prepared()).warning is None


def test_a_template_that_is_not_the_published_one_is_noted(config, monkeypatch):
    assert preview.count_tokens(config, prepared(SHORT)).template_note is None
    other = config.model_copy(update={"base": config.base.model_copy(update={"id": "tinyllama-1.1b-chat"})})
    mini = preview._tokenizer("mini", None)
    monkeypatch.setattr(preview, "_tokenizer", lambda *args: mini)
    assert "not the one published for TinyLlama" in preview.count_tokens(other, prepared(SHORT)).template_note
    plain = other.model_copy(update={"data": other.data.model_copy(update={"prompt_format": "alpaca"})})
    assert preview.count_tokens(plain, prepared(SHORT)).template_note is None


@pytest.mark.parametrize("settings, steps", [
    ({"train__max_steps": None, "train__num_train_epochs": 2}, 12),  # 21 rows by 4: 6 batches
    ({"train__max_steps": None, "train__num_train_epochs": 2, "train__gradient_accumulation_steps": 4}, 4),
    ({"train__max_steps": None, "train__num_train_epochs": 0.5}, 3),
    ({"train__max_steps": 7}, 7)])
def test_estimated_steps_are_those_that_training_takes(tiny_config, settings, steps):
    config = tiny_config(base__id="mini", **settings)
    stats = preview.count_tokens(config, prepared(*[SHORT] * 21))
    assert preview.estimate(config, stats).steps == steps


def test_auto_batches_are_as_training_chooses_them(tiny_config):
    config = tiny_config(base__id="mini", train__per_device_train_batch_size="auto", train__max_steps=None,
                         train__num_train_epochs=1)
    batch = 8 if models.plan_device("fp32", for_training=True).device == "cpu" else 16
    assert preview.estimate(config, preview.count_tokens(config, prepared(*[SHORT] * 33))).steps == -(-33 // batch)


def test_the_time_rests_on_what_was_measured_here(config, root, monkeypatch):
    stats = preview.count_tokens(config, prepared(*[SHORT] * 40))
    reckoned = preview.estimate(config, stats)
    assert reckoned.seconds > 0 and "reckoned from the model's size" in reckoned.basis
    result = SimpleNamespace(metrics={"tokens_per_s": 1234.0})
    run = SimpleNamespace(name="earlier", base="mini", result=result)
    monkeypatch.setattr(adapters, "list_runs", lambda root: [run])
    preview.speed._rate.cache_clear()
    measured = preview.estimate(config, stats)
    preview.speed._rate.cache_clear()
    assert measured.basis == "1,234 tokens a second, as measured in an earlier run here."
    assert measured.steps == reckoned.steps


def test_nothing_is_promised_for_a_base_of_unknown_size(config, tiny_base):
    stats = preview.count_tokens(config, prepared(SHORT))
    other = config.model_copy(update={"base": config.base.model_copy(update={"id": str(tiny_base)})})
    found = preview.estimate(other, stats)
    assert found.seconds is None and found.steps == 4
    assert "not known" in found.basis


def test_the_summary_says_what_is_cut_what_is_lost_and_how_long_it_takes(config):
    stats = preview.count_tokens(config, prepared(SHORT, CUT, NO_ROOM, NO_ROOM))
    text = preview.summary_text(stats, preview.Estimate(8, 150.0, "30 tokens a second, as guessed."))
    assert f"4 examples, about {stats.tokens} tokens, {stats.trained} of them trained on" in text
    assert "data.max_length=64: 25% cut, 50% without room for an answer" in text
    assert "8 steps, about 2 min (30 tokens a second, as guessed)" in text
    assert text.endswith("note: " + stats.warning)
    assert "8 steps (not known)" in preview.summary_text(stats, preview.Estimate(8, None, "not known."))
    assert preview.Estimate(8, None, "not known.").to_json() == {"steps": 8, "seconds": None, "basis": "not known."}
