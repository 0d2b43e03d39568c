"""Generation: one set of weights, an adapter for each row, and nobody changes anybody else's answer."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from medassist import adapters, models, prompts
from medassist.catalog import MINI_DIR
from medassist.errors import AdapterError, ModelError, UsageError
from medassist.generation import Ask, Engine, Sampling

GREEDY = Sampling(max_new_tokens=8, repetition_penalty=1.0)


@pytest.fixture(scope="module")
def engine(tmp_path_factory, cards_file):
    """An engine in fp32 over two differently trained adapters, `one` and `two`, of mini."""
    from medassist import jobs, runs
    from medassist.config import build_config

    root = tmp_path_factory.mktemp("adapters")
    for name, seed in (("one", 1), ("two", 2)):
        config = build_config({"datasets": [{"id": str(cards_file)}]}, dotted={
            "name": name, "train.seed": seed, "train.max_steps": 2 * seed, "data.max_length": 64,
            "train.learning_rate": 0.01, "train.per_device_train_batch_size": 4, "train.precision": "fp32", "evaluate.budget": "none", "data.eval_size": 4})
        config, folder = jobs.create_run(root, config)
        assert runs.execute(config, folder).outcome == "finished"
    return Engine(root, models.ModelSlot("fp32"))


def ask(text, adapter=None):
    return Ask(prompts.build_messages(text), adapter)


def test_adapter_off_equals_a_base_that_never_had_one(engine, tokenizer):
    from transformers import AutoModelForCausalLM

    untouched = AutoModelForCausalLM.from_pretrained(str(MINI_DIR), dtype=torch.float32)
    for text in ("What does the heart do?", "Why?", "Tell me of the liver."):
        engine.answer([ask(text, "one")], GREEDY)  # adapters are in memory by now
        (answer,) = engine.answer([ask(text)], GREEDY, base="mini")
        ids = torch.tensor([prompts.encode_prompt(tokenizer, prompts.build_messages(text))])
        out = untouched.generate(ids, max_new_tokens=8, do_sample=False, repetition_penalty=1.0, eos_token_id=2,
                                 pad_token_id=3)
        assert answer.text == tokenizer.decode(out[0, ids.shape[1]:], skip_special_tokens=True).strip()


def test_rows_of_one_batch_carry_their_own_adapters(engine):
    text = "What does the kidney do on day 2?"
    alone = [engine.answer([ask(text, name)], GREEDY, base="mini")[0].text for name in (None, "one", "two")]
    together = [a.text for a in engine.answer([ask(text, name) for name in (None, "one", "two")], GREEDY)]
    assert together == alone
    assert len(set(alone)) == 3, "the adapters are too alike for this test to mean anything"


@pytest.mark.slow
def test_two_hundred_interleaved_answers_equal_the_single_users(engine):
    questions = [f"What does the {o} do?" for o in ("heart", "liver", "lung", "eye")]
    expected = {(q, a): engine.answer([ask(q, a)], GREEDY)[0].text for q in questions for a in ("one", "two")}

    def talk(adapter):
        return [(q, engine.answer([ask(q, adapter)], GREEDY)[0].text) for q in questions * 25]

    with ThreadPoolExecutor(2) as pool:
        for adapter, answers in zip(("one", "two"), pool.map(talk, ("one", "two"))):
            assert len(answers) == 100
            assert all(text == expected[q, adapter] for q, text in answers)


def test_sampling_is_repeated_by_its_seed(engine):
    hot = Sampling(max_new_tokens=16, temperature=1.5, top_k=0, top_p=1.0, seed=7)
    first, again = (engine.answer([ask("Why?", "one")], hot)[0].text for _ in range(2))
    other = engine.answer([ask("Why?", "one")], Sampling(**{**hot.__dict__, "seed": 8}))[0].text
    assert first == again
    assert first != other


def test_a_cancelled_answer_stops_computing(engine):
    cancel = threading.Event()
    stream = engine.stream([ask("Why?", "one")], Sampling(max_new_tokens=200, repetition_penalty=1.5), cancel=cancel)
    next(stream)
    cancel.set()
    last = None
    for last in stream:
        pass
    assert last[0].tokens < 150


def test_a_reader_who_leaves_frees_the_model(engine):
    stream = engine.stream([ask("Why?", "one")], Sampling(max_new_tokens=220, repetition_penalty=1.5))
    next(stream)
    stream.close()
    started = time.monotonic()
    engine.answer([ask("Why?", "two")], Sampling(max_new_tokens=1))
    assert time.monotonic() - started < 20
    assert not engine.slot._lock.locked()


def test_streams_grow_and_end_with_the_whole_answer(engine):
    texts = [state[0].text for state in engine.stream([ask("Why?", "two")], GREEDY)]
    assert all(later.startswith(earlier.rstrip()) for earlier, later in zip(texts, texts[1:]))
    assert texts[-1] == engine.answer([ask("Why?", "two")], GREEDY)[0].text


def test_a_base_that_does_not_match_is_refused(engine, tiny_base):
    with pytest.raises(AdapterError, match="belongs to the base model"):
        engine.answer([ask("Why?", "one")], GREEDY, base=str(tiny_base))


def test_other_weights_under_the_same_name_are_refused(engine, tmp_path):
    import shutil

    copy = tmp_path / "adapters"
    shutil.copytree(engine.root, copy, dirs_exist_ok=True)
    path = copy / "one" / "result.json"
    result = json.loads(path.read_text()) | {"base_sha256": "0" * 64}
    path.write_text(json.dumps(result))
    with pytest.raises(AdapterError, match="other weights"):
        Engine(copy, models.ModelSlot("fp32")).answer([ask("Why?", "one")], GREEDY)


def test_shapes_that_do_not_fit_are_refused_and_the_engine_lives_on(engine, tmp_path):
    import shutil

    from test_adapters import write_safetensors

    copy = tmp_path / "adapters"
    shutil.copytree(engine.root, copy, dirs_exist_ok=True)
    shapes = {k: ([a[0], a[1] + 1], b) for k, (a, b) in adapters.lora_shapes(copy / "one" / adapters.WEIGHTS).items()}
    write_safetensors(copy / "one" / adapters.WEIGHTS,
                      {f"{k}.lora_{x}.weight": s for k, pair in shapes.items() for x, s in zip("AB", pair)})
    path = copy / "one" / "result.json"
    digest = adapters.file_sha256(copy / "one" / adapters.WEIGHTS)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"adapter_sha256": digest}))
    lonely = Engine(copy, models.ModelSlot("fp32"))
    with pytest.raises(AdapterError, match="does not fit"):
        lonely.answer([ask("Why?", "one")], GREEDY)
    expected = engine.answer([ask("Why?", "two")], GREEDY)[0].text
    assert lonely.answer([ask("Why?", "two")], GREEDY)[0].text == expected


def test_more_adapters_than_are_kept_still_answer_right(engine, monkeypatch):
    monkeypatch.setattr("medassist.generation.MAX_ADAPTERS", 1)
    fresh = Engine(engine.root, models.ModelSlot("fp32"))
    for name in ("one", "two", "one"):
        assert fresh.answer([ask("Why?", name)], GREEDY)[0].text == engine.answer([ask("Why?", name)], GREEDY)[0].text


@pytest.mark.parametrize("values", [{"max_new_tokens": 0}, {"max_new_tokens": 10**6}, {"temperature": -1}, {"top_p": 0},
                                    {"seed": -1}])
def test_sampling_out_of_range_is_refused(engine, values):
    with pytest.raises(UsageError, match=next(iter(values))):
        engine.answer([ask("Why?", "one")], Sampling(**values))


def test_a_conversation_too_long_is_one_sentence(engine):
    with pytest.raises(UsageError, match="longer than the model's 1024 tokens"):
        engine.answer([ask("word " * 1500, "one")], GREEDY)


@pytest.mark.parametrize("base, part", [("minni", "mini"), ("no/such-model-anywhere", "could not be reached")])
def test_unknown_bases_are_one_sentence(engine, base, part):
    with pytest.raises(ModelError, match=part):
        engine.answer([ask("Why?")], GREEDY, base=base)
