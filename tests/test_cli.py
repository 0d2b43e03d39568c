"""The command line, which people script against: streams, statuses, and one sentence for each mistake."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from medassist import catalog, cli

PROJECT = Path(__file__).resolve().parents[1]


def run(capsys, *argv):
    """Status, standard output and standard error of one command, in this process."""
    try:
        status = cli.main([str(a) for a in argv])
    except SystemExit as stop:  # argparse
        status = stop.code
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.mark.parametrize("what", ["models", "datasets", "recipes"])
def test_list_prints_json_lines(capsys, what):
    status, out, _ = run(capsys, "list", what, "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert status == 0
    assert {r["name"] for r in rows} & {"mini", "starter", "quick"}


@pytest.mark.parametrize("name", [r.name for r in catalog.list_recipes()])
def test_every_recipe_takes_mini_and_a_local_file(capsys, cards_file, name):
    status, out, err = run(capsys, "train", "--recipe", name, "--base", "mini", "--dataset", cards_file, "--dry-run", "--json")
    assert status == 0, err
    config = json.loads(out)
    assert config["base"]["id"] == "mini"
    assert len(config["datasets"]) == 1


def test_dry_run_shows_what_the_layers_give(capsys, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("train: {learning_rate: 3.0e-4, seed: 5}\n")
    status, out, _ = run(capsys, "train", "--recipe", "quick", "--config", path, "--set", "train.seed=6", "--dry-run", "--json")
    config = json.loads(out)
    assert (status, config["train"]["learning_rate"], config["train"]["seed"]) == (0, 3e-4, 6)
    assert not (Path(tmp_path) / "adapters").exists() or not list((tmp_path / "adapters").iterdir())


BAD = [
    (["train", "--recipe", "quik"], 2, "quick"),
    (["train", "--base", "minni"], 1, "mini"),
    (["train", "--dataset", "startr"], 1, "starter"),
    (["train", "--dataset", "absent.csv"], 1, "absent.csv"),
    (["train", "--config", "absent.yaml"], 2, "absent.yaml"),
    (["train", "--set", "train.learning_rate=-1"], 2, "train.learning_rate is -1"),
    (["train", "--set", "train.learning_rate"], 2, "key=value"),
    (["train", "--name", "../x"], 2, "../x"),
    (["train", "--resume", "absent"], 1, "absent"),
    (["train", "--resume", "../x"], 1, "not a run name"),
    (["train", "--resume", "x", "--recipe", "quick"], 2, "--resume takes"),
    (["train", "--nonsense"], 2, "unrecognized"),
    (["chat", "--adapter", "absent", "--question", "What is asthma?"], 1, "no run 'absent'"),
    (["chat", "--question", " "], 2, "no question"),
    (["chat", "--question", "x", "--max-new-tokens", "0"], 2, "max_new_tokens"),
    (["compare", "--adapter", "absent", "--question", "What is asthma?"], 1, "absent"),
    (["compare", "--held-out", "0"], 2, "--held-out is 0"),
    (["evaluate", "--adapter", "absent"], 1, "absent"),
    (["evaluate", "--adapter", "x", "--limit", "0"], 2, "--limit is 0"),
    (["gate"], 2, "either a TEXT or --file"),
    (["gate", "--file", "absent.txt"], 2, "absent.txt"),
    (["data", "export"], 2, "--out"),
    (["data", "check", "--set", "data.clean=[htlm]"], 2, "did you mean 'html'"),
    (["data", "check", "--set", "data.benchmarks=[nowhere.parquet]"], 1, "There is no file or folder 'nowhere.parquet'"),
    (["data", "check", "--set", "datasets.0.mapping={question: q, answer: answer}"], 1, "has no column 'q'"),
    (["hub", "push-data", "nowhere", "ann/cards"], 1, "not a folder that `data export` wrote"),
    (["fly"], 2, "invalid choice")]


@pytest.mark.parametrize("argv, status, part", BAD, ids=[" ".join(b[0]) for b in BAD])
def test_mistakes_get_one_sentence_and_a_status(capsys, tmp_path, monkeypatch, argv, status, part):
    monkeypatch.chdir(tmp_path)
    got, out, err = run(capsys, *argv)
    assert got == status, err
    assert part in err
    assert out == ""
    assert "Traceback" not in err
    assert len([line for line in err.splitlines() if line.startswith("medassist:")]) <= 1


@pytest.mark.parametrize("content, part", [("", "empty"), ("a,b\n1,2\n", "column"), ("question,answer\n,\n", "")])
def test_files_that_cannot_be_trained_on_fail_with_a_sentence(capsys, tmp_path, content, part):
    path = tmp_path / "bad.csv"
    path.write_text(content)
    status, out, err = run(capsys, "train", "--dataset", path, "--name", "bad", "--json")
    assert status == 1
    text = err + out
    assert "Traceback" not in text and part in text


def test_no_network_for_a_hub_id_is_one_sentence(capsys):
    status, out, err = run(capsys, "train", "--base", "someone/some-model", "--name", "far", "--json")
    assert status == 1
    last = json.loads(out.splitlines()[-1])
    assert (last["event"], last["outcome"], last["run"]) == ("result", "failed", "far")
    assert "could not be reached" in last["reason"] and last["next_step"]


def test_train_prints_one_event_a_line_and_the_result_last(capsys, tiny_base, cards_file):
    status, out, err = run(capsys, "train", "--base", tiny_base, "--dataset", cards_file, "--name", "t", "--evaluate",
                           "none", "--set", "train.max_steps=2", "--set", "train.precision=fp32", "--json")
    events = [json.loads(line) for line in out.splitlines()]
    assert status == 0, err
    assert [e["event"] for e in events][-1] == "result"
    assert {"phase", "plan", "data", "step", "result"} <= {e["event"] for e in events}
    assert events[-1]["outcome"] == "finished"
    status, out, _ = run(capsys, "list", "adapters", "--json")
    assert [json.loads(line)["state"] for line in out.splitlines()] == ["finished"]
    status, out, _ = run(capsys, "compare", "--adapter", "t", "--held-out", 2, "--max-new-tokens", 4, "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert len(rows) == 2 and all(r["reference"] and set(r) >= {"question", "base", "tuned", "settings"} for r in rows)
    status, out, _ = run(capsys, "chat", "--adapter", "t", "--question", "What does the heart do?", "--max-new-tokens", 4, "--json")
    reply = json.loads(out)
    assert status == 0 and reply["route"] == "answer" and reply["adapter"] == "t" and reply["sources"] == []


@pytest.mark.parametrize("question, route", [("What is the capital of France?", "out_of_scope"),
                                             ("I have crushing chest pain and can't breathe", "emergency")])
def test_chat_refuses_without_loading_a_model(question, route):
    code = ("import sys, json, io, contextlib\nfrom medassist import cli\nout = io.StringIO()\n"
            f"with contextlib.redirect_stdout(out):\n    cli.main(['chat', '--adapter', 'none', '--question', {question!r}, '--json'])\n"
            "assert 'torch' not in sys.modules\nprint(json.loads(out.getvalue())['route'])")
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == route, done.stderr


def test_gate_prints_one_decision_for_each_line(capsys, tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text("What is asthma?\n\nWhat is the capital of France?\n")
    status, out, _ = run(capsys, "gate", "--file", path, "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert [r["text"] for r in rows] == ["What is asthma?", "", "What is the capital of France?"]
    assert rows[0]["allowed"] and not rows[2]["allowed"]
    assert set(rows[0]) >= {"text", "route", "allowed", "score", "matched_terms"}


def test_gate_takes_history_from_jsonl(capsys, tmp_path):
    history = [{"role": "user", "content": "How is asthma treated?"}, {"role": "assistant", "content": "With inhalers."}]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in (
        {"text": "What about children?", "history": history}, {"text": "What about children?"})))
    status, out, _ = run(capsys, "gate", "--file", path, "--json")
    assert [json.loads(line)["allowed"] for line in out.splitlines()] == [True, False]
    path.write_text('{"text": 1}\n{nonsense\n')
    assert run(capsys, "gate", "--file", path, "--json")[0] == 2


def test_training_is_closed_on_a_space(capsys, monkeypatch):
    monkeypatch.setenv("SPACE_ID", "a/b")
    status, _, err = run(capsys, "train", "--recipe", "quick")
    assert status == 1 and "closed on this public Space" in err


def test_data_verbs_show_check_and_export(capsys, cards_file, tmp_path):
    status, out, _ = run(capsys, "data", "preview", "--dataset", cards_file, "--rows", 2)
    assert status == 0 and out.count("»") == 2 and "<|im_end|>«" in out
    assert "without room for an answer" in out and "steps" in out
    status, out, _ = run(capsys, "data", "preview", "--dataset", cards_file, "--rows", 2, "--json")
    *rows, summary = [json.loads(line) for line in out.splitlines()]
    assert len(rows) == 2 and [s["trained"] for s in rows[0]["segments"]] == [False, True]
    tokens = summary["summary"]["tokens"]
    assert tokens["trained"] > 100 and sum(n for _, n in tokens["histogram"]) == tokens["sequences"]
    assert summary["summary"]["estimate"]["steps"] > 0
    status, out, _ = run(capsys, "data", "check", "--dataset", cards_file, "--examples", "--set", "data.clean=[-html]")
    assert "read as questions and answers, sure (0.9" in out and "cleaning: HTML: off" in out
    status, out, _ = run(capsys, "data", "check", "--dataset", cards_file, "--json")
    report = json.loads(out)
    assert sum(report["splits"].values()) == 60 and len(report["dataset_sha256"]) == 64
    status, out, _ = run(capsys, "data", "export", "--dataset", cards_file, "--out", tmp_path / "out", "--format", "jsonl", "--json")
    assert all(Path(json.loads(line)["file"]).is_file() for line in out.splitlines())


def test_doctor_says_what_and_why(capsys):
    status, out, _ = run(capsys, "doctor", "--json")
    report = json.loads(out)
    assert status == 0 and report["training because"] and "torch" in report["versions"]
