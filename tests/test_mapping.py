"""Columns: every reading found, with a confidence; a wrong guess mended by hand; the choice kept."""

from __future__ import annotations

import json

import pytest

from medassist.config import build_config
from medassist.data import prepare_data
from medassist.data.choice import index_base
from medassist.data.mapping import choose_mapping, detect, list_readings
from medassist.data.rows import rendered_exchanges
from medassist.errors import DataError

WORDS = [f"{a}{b}" for a in ("liver", "heart", "skin", "ear") for b in ("ache", "itis", "oma", "osis", "pathy")]


def table(**columns):
    """Twenty rows; a column is a text with {w} for a word that differs from row to row."""
    return [{name: text.format(w=w) if isinstance(text, str) else text for name, text in columns.items()} for w in WORDS]


def found(**columns):
    rows = table(**columns)
    return detect(rows, list(rows[0]), "x")


@pytest.mark.parametrize(("columns", "kind", "roles"), [
    ({"front": "What is {w}?", "back": "A {w} of the body."}, "question_answer", {"question": "front", "answer": "back"}),
    ({"term": "{w}", "meaning": "a state of {w}"}, "term", {"term": "term", "meaning": "meaning"}),
    ({"name": "{w}", "definition": "a state of {w}"}, "term", {"term": "name", "meaning": "definition"}),
    ({"title": "{w}", "text": "About {w}. It hurts."}, "text", {"title": "title", "text": "text"}),
    ({"text": "A {w} is a thing that hurts a lot. It goes away by itself."}, "text", {"text": "text"}),
    ({"one": "What is {w}, and why?", "two": "A {w} is a state of the body that comes and goes."}, "question_answer",
     {"question": "one", "answer": "two"}),
    ({"id": "{w}", "kind": "x", "Medical Question": "What is {w}?", "Final Answer": "A {w}."}, "question_answer",
     {"question": "Medical Question", "answer": "Final Answer"}),
])
def test_columns_are_found(columns, kind, roles):
    columns_map = found(**columns)
    assert columns_map.kind == kind and columns_map.roles == roles


def test_readings_come_with_confidence_and_evidence():
    rows = table(instruction="Answer truthfully.", input="What is {w}?", output="A {w}.")
    readings = list_readings(rows, list(rows[0]))
    assert readings[0].label == "'instruction' with 'input' → 'output'" and readings[0].confidence > 0.9
    assert readings[1].label == "'input' → 'output'" and 0.5 < readings[1].confidence < readings[0].confidence
    wrong = next(r for r in readings if r.label == "'instruction' → 'output'")
    assert wrong.confidence < 0.3 and "the questions are nearly all the same" in wrong.evidence
    assert all(0 <= r.confidence <= 1 and r.evidence for r in readings)
    assert len({r.label for r in readings}) == len(readings)


def test_a_guess_by_content_is_less_sure_than_a_name():
    by_name = found(question="What is {w}?", answer="A {w} is a state of the body that comes and goes.")
    guessed = found(u="What is {w}?", v="A {w} is a state of the body that comes and goes.")
    assert guessed.confidence < 0.6 < by_name.confidence
    assert "a guess by content" in guessed.evidence


@pytest.mark.parametrize("columns", [
    {"chq": "Could my {w} be dangerous, doctor?", "faq": "What are the complications of {w}?"},
    {"question": "What is {w}?", "qtype": "information", "focus": "{w}"},
    {"label": "{w}", "parent": "disease"}, {"text": "hello {w}", "intent": "greet"}])
def test_what_has_no_answers_is_refused(columns):
    with pytest.raises(DataError, match=r"none for the answer|no columns that look like"):
        found(**columns)


def test_a_catalogue_mapping_is_sure_and_a_hand_made_one_wins():
    rows = table(question="What is {w}?", answer="A {w}.", note="Also {w}.")
    hint = {"question": "question", "answer": "answer"}
    assert choose_mapping("auto", hint, rows, list(rows[0]), "x").confidence == 1.0
    by_hand = choose_mapping({"question": "question", "answer": "note"}, hint, rows, list(rows[0]), "x")
    assert by_hand.roles["answer"] == "note" and by_hand.evidence == ("said by hand",)


def test_the_index_base_can_be_said_by_hand():
    rows = [{"question": f"Which {w}?", "opa": "a1", "opb": "b2", "opc": "c3", "opd": "d4", "cop": 1 + i % 3}
            for i, w in enumerate(WORDS)]
    roles = {"question": "question", "option_a": "opa", "option_b": "opb", "option_c": "opc", "option_d": "opd",
             "correct": "cop"}
    assert index_base(rows, roles)[0] == 0 and "does not settle it" in index_base(rows, roles)[1]
    by_hand = choose_mapping({**roles, "counts_from": "1"}, None, rows, list(rows[0]), "x")
    assert by_hand.index_base == 1 and "as said by hand" in by_hand.notes[0]
    with pytest.raises(DataError, match="count from 0 or from 1"):
        choose_mapping({**roles, "counts_from": "2"}, None, rows, list(rows[0]), "x")


RENDERED = {
    "Llama 2": "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nQ1? [/INST] A1. </s><s>[INST] Q2? [/INST] A2. </s>",
    "Mistral": "<s>[INST] Q1? [/INST] A1.</s> [INST] Q2? [/INST] A2.</s>",
    "ChatML": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nQ1?<|im_end|>\n<|im_start|>assistant\nA1.<|im_end|>\n"
              "<|im_start|>user\nQ2?<|im_end|>\n<|im_start|>assistant\nA2.<|im_end|>\n",
    "Gemma": "<bos><start_of_turn>user\nQ1?<end_of_turn>\n<start_of_turn>model\nA1.<end_of_turn>\n<start_of_turn>user\nQ2?"
             "<end_of_turn>\n<start_of_turn>model\nA2.<end_of_turn><eos>",
    "Llama 3": "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nQ1?<|eot_id|><|start_header_id|>assistant"
               "<|end_header_id|>\n\nA1.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nQ2?<|eot_id|>"
               "<|start_header_id|>assistant<|end_header_id|>\n\nA2.<|eot_id|>",
    "Zephyr": "<|user|>\nQ1?</s>\n<|assistant|>\nA1.</s>\n<|user|>\nQ2?</s>\n<|assistant|>\nA2.</s>",
    "headings": "### Question:\nQ1?\n\n### Answer:\nA1.\n\n### Question:\nQ2?\n\n### Answer:\nA2.",
    "Alpaca": "Below is an instruction.\n\n### Instruction:\nQ1?\n\n### Response:\nA1.\n\n### Instruction: Q2?\n### Response: A2.",
    "plain": "Q: Q1?\nA: A1.\nQ: Q2?\nA: A2.", "words": "Patient: Q1?\nDoctor: A1.\nPatient: Q2?\nDoctor: A2.",
}


@pytest.mark.parametrize("name", RENDERED)
def test_prompts_that_others_rendered_are_read_back(name):
    assert rendered_exchanges(RENDERED[name]) == [("Q1?", "A1."), ("Q2?", "A2.")]


@pytest.mark.parametrize("text", ["Note: a question. Answer: none.", "# Heading\nText: more", "A dose of 5 mg: take it.", "",
                                  "[INST] only asked", "### Response:\nonly told"])
def test_plain_text_is_not_taken_for_a_prompt(text):
    assert rendered_exchanges(text) == []


def test_a_text_column_becomes_first_sentence_and_rest(tmp_path):
    path = tmp_path / "x.jsonl"
    rows = [{"text": f"The {w} is a part that hurts. It heals. Rest helps."} for w in WORDS]
    rows += [{"text": "One sentence only"}, {"text": RENDERED["Llama 2"]}]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    prepared = prepare_data(build_config({"datasets": [{"id": str(path)}], "data": {"test_size": 0, "eval_size": 0}}))
    first, last = prepared.train[0], prepared.train[-1]
    assert (first.question, first.answer) == (f"The {WORDS[0]} is a part that hurts.", "It heals. Rest helps.")
    assert (last.question, last.answer, last.history) == ("Q2?", "A2.", (("Q1?", "A1."),))
    assert prepared.report.dropped == {"a text of one sentence": 1}


def test_a_conversation_as_python_text_or_plain_lines_is_read(tmp_path):
    talk = [{"from": "human", "value": "Q1?"}, {"from": "gpt", "value": "A1."}]
    rows = [{"conversations": repr(talk)}, {"conversations": ["Is it gout?", "It may be gout.", "Sure?", "Not quite."]},
            {"conversations": [{"role": "assistant", "content": "Hello!"}, {"role": "user", "content": "Part one"},
                               {"role": "user", "content": "and two?"}, {"role": "assistant", "content": "Both do."},
                               {"role": "user", "content": "Thanks"}]}]
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    prepared = prepare_data(build_config({"datasets": [{"id": str(path)}], "data": {"test_size": 0, "eval_size": 0}}))
    assert [(e.question, e.answer, e.history) for e in prepared.train] == [
        ("Q1?", "A1.", ()), ("Sure?", "Not quite.", (("Is it gout?", "It may be gout."),)),
        ("Part one\n\nand two?", "Both do.", ())]


def test_the_report_names_the_mapping_that_repeats_it(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in table(instruction="Answer.", input="What is {w}?", output="A {w} pain.")))
    once = prepare_data(build_config({"datasets": [{"id": str(path)}]}))
    again = prepare_data(build_config({"datasets": [{"id": str(path), "mapping": once.mappings[0]}]}))
    assert again.sha256 == once.sha256 and once.mappings[0] == {"instruction": "instruction", "input": "input", "answer": "output"}
    assert once.report.sources[0].confidence > 0.9 and len(once.report.sources[0].readings) > 1
