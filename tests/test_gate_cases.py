"""The gate on cases written without knowledge of its vocabulary: the part it was mended with, and the part kept aside.

Each line of cases/gate_*.jsonl has text, label (medical, everyday, follow_up, greeting), class, lang and perhaps a history.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from medassist.bench.gate import RIGHT_ROUTES
from medassist.gate import load_gate

CASES = Path(__file__).parent / "cases"
# Shares decided right, a little under what was measured. Of gate_held, gate_held_2 and gate_held_3 only the totals were looked at.
LEAST = {
    "gate_dev": {"medical": 0.97, "everyday": 0.97, "follow_up": 0.95, "greeting": 0.9},
    "gate_hard": {"medical": 0.93, "everyday": 0.96, "follow_up": 0.97, "greeting": 0.97},
    "gate_more": {"medical": 0.96, "everyday": 0.96, "follow_up": 0.97, "greeting": 0.95},
    "gate_held": {"medical": 0.95, "everyday": 0.92, "follow_up": 0.8, "greeting": 0.6},
    "gate_held_3": {"medical": 0.96, "everyday": 0.96, "follow_up": 0.93, "greeting": 0.9},
    "gate_held_2": {"medical": 0.91, "everyday": 0.95, "follow_up": 0.9, "greeting": 0.75},
}


def read(name):
    return [json.loads(line) for line in (CASES / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("name", LEAST)
def test_cases_are_decided_right(name):
    gate, right, count, wrong = load_gate(), Counter(), Counter(), []
    for case in read(name):
        decision = gate.check(case["text"], case.get("history", ()))
        count[case["label"]] += 1
        if decision.route in RIGHT_ROUTES[case["label"]]:
            right[case["label"]] += 1
        else:
            wrong.append(f"{case['label']} → {decision.route}: {case['text'][:90]}")
    shares = {label: right[label] / count[label] for label in count}
    low = {label: share for label, share in shares.items() if share < LEAST[name][label]}
    assert not low, "\n".join([str(shares), *wrong])


def test_the_cases_are_many_and_different():
    cases = [case for name in LEAST for case in read(name)]
    different = {(c["text"], str(c.get("history"))) for c in cases}
    assert len(cases) >= 2000 and len(different) >= 0.995 * len(cases)  # "!!!" and the like stand in several files
    assert len(read("gate_held")) >= 300
    assert len({c["class"] for c in cases}) >= 30


# Shares of everyday requests that stay blocked after a medical question, a little under what was measured.
@pytest.mark.parametrize(("name", "least"), [("gate_more", 0.95), ("gate_held", 0.88), ("gate_held_2", 0.92)])
def test_a_new_topic_after_a_medical_question_is_no_follow_up(name, least):
    gate = load_gate()
    history = [{"role": "user", "content": "What are the symptoms of gout?"}, {"role": "assistant", "content": "Pain."}]
    texts = [case["text"] for case in read(name) if case["label"] == "everyday" and not case.get("history")]
    routes = [gate.check(text, history).route for text in texts]
    assert sum(route in RIGHT_ROUTES["everyday"] for route in routes) / len(routes) >= least
