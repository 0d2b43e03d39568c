"""The page without a browser: handlers with a scripted engine, the form both ways, what is drawn, what is closed."""

from __future__ import annotations

import json
import shlex
from types import SimpleNamespace

import gradio as gr
import pytest

from medassist import adapters, catalog, jobs
from medassist.chat import Assistant
from medassist.cli import build_parser, config_from_args
from medassist.config import PRESETS, build_config
from medassist.errors import ClosedError, ConfigError, DataError, JobError, MedAssistError, UsageError
from medassist.gate import OUT_OF_SCOPE_MESSAGE, load_gate
from medassist.progress import Eval, Plan, RunView, Step, to_json
from medassist.safety import STANDING_NOTICE, check_red_flags
from medassist.ui import chat_tab, compare_tab, forms, render, train_tab, uploads
from medassist.ui.app import build_app
from medassist.ui.errors import bind, toast
from medassist.ui.services import Cancels, Services, Watcher
from medassist.ui.theme import CONTENT_POLICY, CSS, HEAD

VISITOR = SimpleNamespace(session_hash="visitor")
SAMPLING = (160, 0, 0.9, 1.1, 42)


@pytest.fixture
def services(root, scripted_engine):
    return Services(root, Assistant(scripted_engine, load_gate()))


@pytest.fixture
def finished(root):
    """A run folder that loads as finished, without an adapter in it."""
    config, folder = jobs.create_run(root, build_config({"name": "done"}))
    (folder / "owner.json").unlink()
    adapters.write_result(folder, adapters.Result("finished", steps=3, base="mini", elapsed_s=65))
    adapters.write_json(
        folder / "evaluation.json",
        {
            "verdict": "Better than the base.",
            "better": True,
            "metrics": {
                "items": 40,
                "base_perplexity": 31.2,
                "tuned_perplexity": 12.4,
                "won": 30,
                "tied": 4,
                "lost": 6,
            },
        },
    )
    return folder


def form_values(config):
    return forms.setting_values(config)


# ── the whole page ──────────────────────────────────────────────────────────────────────────────────


def test_the_page_offers_chat_and_compare_to_clients_and_nothing_else(services):
    page = build_app(services)
    config = page.get_config_file()
    public = {d["api_name"] for d in config["dependencies"] if d["api_visibility"] == "public"}
    assert public == {"chat", "compare"}
    assert STANDING_NOTICE.split(":")[0] in json.dumps(config, default=str)
    assert page._queue.max_size == 32


def test_nothing_on_the_page_comes_from_elsewhere():
    for text in (CSS, HEAD, render.head(STANDING_NOTICE)):
        assert "http://" not in text and "https://" not in text and "url(" not in text and "@import" not in text
    assert "default-src 'self'" in CONTENT_POLICY and "http" not in CONTENT_POLICY


def test_the_chatbot_takes_no_html_of_others(services):
    page = build_app(services)
    (chatbot,) = [b for b in page.blocks.values() if isinstance(b, gr.Chatbot)]
    assert chatbot.sanitize_html is True and chatbot.allow_tags is False


# ── errors ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_known_error_is_told_in_its_words_and_escaped():
    shown = toast(UsageError("<b>x</b> is wrong.", "Do y."))
    assert shown.message == "&lt;b&gt;x&lt;/b&gt; is wrong. Do y."


def test_an_unknown_error_is_logged_under_a_reference_and_not_shown(caplog):
    def handler(services):
        raise RuntimeError("secret path")

    with pytest.raises(gr.Error) as caught:
        bind(handler, None)()
    assert "secret" not in caught.value.message
    reference = caught.value.message.rstrip(".").split()[-1]
    assert reference in caplog.text and "secret path" in caplog.text


def test_bound_handlers_keep_what_gradio_reads():
    bound = bind(chat_tab.edit, None)
    import inspect

    assert list(inspect.signature(bound).parameters)[:2] == ["request", "event"]
    assert bound.__annotations__["event"] is gr.EditData
    assert inspect.isgeneratorfunction(bound)


# ── the form ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("recipe", [r.name for r in catalog.list_recipes()])
def test_a_recipe_survives_the_form_and_its_command_line_makes_the_same_run(services, recipe):
    under, base, dataset, more, *values = train_tab.choose_recipe(services, recipe)
    config = forms.config_from_form(under, base, dataset, more, values)
    wanted = build_config(catalog.get_recipe(recipe).settings)
    assert config.model_dump(exclude={"base", "datasets"}) == wanted.model_dump(exclude={"base", "datasets"})
    assert [d.max_rows for d in config.datasets] == [d.max_rows for d in wanted.datasets]
    for name in (recipe, None):
        words = shlex.split(forms.command_line(config, name))
        assert words[:4] == ["python", "-m", "medassist", "train"]
        again = config_from_args(build_parser().parse_args(words[3:]))
        assert _normal(again) == _normal(config)


def _normal(config):
    """With catalogue names for ids."""
    tree = config.model_dump()
    tree["base"]["id"] = catalog.check_base_id(tree["base"]["id"])
    for dataset in tree["datasets"]:
        dataset["id"] = catalog.check_dataset_id(dataset["id"])
    return tree


def test_odd_values_survive_the_command_line(cards_file):
    config = build_config(
        {"base": {"id": "mini"}, "datasets": [{"id": str(cards_file), "mapping": {"question": "a b", "answer": "c"}}]},
        dotted={
            "data.system_prompt": "Answer 'briefly': yes, \"no\"",
            "train.max_steps": 5,
            "lora.target_modules": ["q_proj", "v_proj"],
            "train.learning_rate": 0.00003,
        },
    )
    words = shlex.split(forms.command_line(config))
    assert config_from_args(build_parser().parse_args(words[3:])) == config


def test_the_form_reports_every_problem_with_its_setting():
    values = form_values(forms.recommended("mini"))
    at = {s.key: i for i, s in enumerate(forms.FIELDS)}
    values[at["train.learning_rate"]] = -1
    values[at["lora.r"]] = 0
    with pytest.raises(ConfigError) as caught:
        forms.config_from_form({}, "mini", "starter", "", values)
    assert len(caught.value.problems) == 2
    assert (
        "train.learning_rate is -1" in caught.value.problems[1]
        or "train.learning_rate is -1" in caught.value.problems[0]
    )


def test_an_emptied_number_falls_back_and_optional_ones_may_be_empty():
    values = form_values(forms.recommended("mini"))
    at = {s.key: i for i, s in enumerate(forms.FIELDS)}
    values[at["train.learning_rate"]] = None
    values[at["train.max_steps"]] = "25"
    values[at["data.test_size"]] = ""
    config = forms.config_from_form({}, "mini", "starter", "", values)
    assert (config.train.learning_rate, config.train.max_steps, config.data.test_size) == (2e-4, 25, None)


@pytest.mark.parametrize(
    "base, dataset", [("no-such-base", "starter"), ("mini", "no-such-data"), ("mini", "missing.csv")]
)
def test_unknown_names_are_one_sentence(base, dataset):
    with pytest.raises(MedAssistError) as caught:
        forms.config_from_form({}, base, dataset, "", form_values(forms.recommended("mini")))
    assert (base if base != "mini" else dataset) in str(caught.value)


def test_presets_write_into_the_settings_where_they_can_be_seen(services):
    updates = train_tab.choose_preset(services, "quick", *form_values(forms.recommended("mini")))
    at = [s.key for s in forms.FIELDS].index("train.num_train_epochs")
    assert updates[at] == PRESETS["quick"]["train.num_train_epochs"]


# ── training from the page ──────────────────────────────────────────────────────────────────────────


def test_start_hands_a_config_to_jobs_and_shows_the_run(services, monkeypatch):
    started = []

    def start(root, config):
        started.append(config)
        return jobs.create_run(root, config.model_copy(update={"name": "fresh"}))[1].name

    monkeypatch.setattr(jobs, "start", start)
    watch, *panel = train_tab.start_training(
        services, {}, "mini", "starter", "", *form_values(forms.recommended("mini"))
    )
    assert watch == {"run": "fresh"} and len(panel) == train_tab.PANEL
    assert started[0].base.id == "mini"
    assert "fresh" in panel[1]
    assert panel[-1]["interactive"] is False  # one training at a time: the button says so


def test_a_second_start_is_refused_in_one_sentence(services, monkeypatch):
    def busy(root, config):
        raise JobError("A training is already going on here: 'x'.", "Wait for it to end, or stop it first.")

    monkeypatch.setattr(jobs, "start", busy)
    bound = bind(train_tab.start_training, services)
    with pytest.raises(gr.Error, match="already going on"):
        bound({}, "mini", "starter", "", *form_values(forms.recommended("mini")))


def test_a_page_that_opens_finds_the_running_training(services, root):
    _, folder = jobs.create_run(root, build_config({"name": "going"}))  # owned by this process, so it is running
    row = to_json(Step(3, 10, 0.3, 2.5, 1e-3, 1.0, 900.0, 4.0, 9.0))
    (folder / "progress.jsonl").write_text(
        json.dumps({"event": "phase", "phase": "training"}) + "\n" + json.dumps(row) + "\n"
    )
    watch, _, status, *_ = train_tab.open_page(services)
    assert watch == {"run": "going"}
    assert "Step 3 of 10" in status and "900 tokens/s" in status and "0:09 left" in status


def test_a_tick_changes_nothing_while_nothing_has_changed(services, root):
    assert all(_skipped(u) for u in train_tab.tick(services, {}))
    jobs.create_run(root, build_config({"name": "going"}))
    watch, *_ = train_tab.tick(services, {"run": "going"})
    assert watch["run"] == "going"
    assert all(_skipped(u) for u in train_tab.tick(services, watch))


def _skipped(update) -> bool:
    return isinstance(update, dict) and update.get("__type__") == "update" and len(update) == 1


def test_a_run_that_was_killed_is_shown_as_failed_with_resume(services, root):
    _, folder = jobs.create_run(root, build_config({"name": "killed"}))
    (folder / "owner.json").unlink()
    _, _, status, _, _, stop, resume, compare, *_ = train_tab.tick(services, {"run": "killed"})
    assert "Failed" in status and "bad" in status
    assert (stop["visible"], resume["visible"], compare["visible"]) == (False, True, False)


def test_the_verdict_is_green_only_when_better(finished, root):
    run = adapters.load_run(root, "done")
    assert "ma-end good" in render.run_end(run) and "31.2 → 12.4" in render.run_end(run)
    for metrics, words in (
        ({"difference_low": -0.1, "difference_high": 0.1}, "No difference"),
        ({"difference_low": 0.1, "difference_high": 0.2}, "Worse than"),
    ):
        adapters.write_json(finished / "evaluation.json", {"verdict": "v", "better": False, "metrics": metrics})
        text = render.run_end(adapters.load_run(root, "done"))
        assert "ma-end warn" in text and words in text and "ma-end good" not in text


def test_earlier_runs_can_be_used_as_settings_and_deleted(services, finished):
    table, names = train_tab.refresh_history(services)
    assert "done" in table and names["choices"] == ["done"]
    recipe, under, base, dataset, more, *values = train_tab.use_settings(services, "done")
    assert forms.config_from_form(under, base, dataset, more, values).name is None
    train_tab.delete_chosen(services, "done", {"run": "done"})
    assert not finished.exists()
    with pytest.raises(UsageError):
        train_tab.delete_chosen(services, None, {})


def seen(services, dataset="starter", *, fetch=False, number=1, base="mini", **changed):
    """What the preview shows at the end: each output's last value."""
    values = form_values(forms.recommended("mini"))
    for key, value in changed.items():
        values[[s.key for s in forms.FIELDS].index(key.replace("__", "."))] = value
    shown = {}
    for step in train_tab.show_preview(services, VISITOR, fetch, number, {}, base, str(dataset), "", *values):
        shown |= {n: v for n, v in zip(train_tab.SEEN, step, strict=True) if v != gr.skip()}
    return shown


def test_the_preview_shows_rows_licence_and_the_trained_tokens(services):
    shown = seen(services, number=2)
    assert "rows are used" in shown["facts"] and "licence" in shown["facts"] and "steps" in shown["facts"]
    assert "<mark>" in shown["example"] and "&lt;|im_end|&gt;</mark>" in shown["example"]
    assert shown["number"] == 2 and shown["count"].startswith("2 of") and shown["tokens"]["tokens"] > 100
    assert "<svg" in shown["histogram"] and "limit 256" in shown["histogram"]
    assert "near duplicates" in shown["cleaning"] and "0 rows left out" in shown["cleaning_box"]["label"]
    assert "as it came" in shown["rows"] and "What" in shown["rows"]


def test_a_hub_dataset_is_not_fetched_before_it_is_asked_for(services):
    shown = seen(services, "medical-flashcards")
    assert "33,955 rows" in shown["facts"] and shown["fetch"]["visible"] is True and shown["reading"]["visible"] is False


def write_data(tmp_path, rows):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def test_another_reading_of_the_columns_is_one_choice_away(services, tmp_path):
    rows = [{"question": f"What is sign {w}?", "answer": f"A {w} pain.", "response": f"Sign {w} needs rest."}
            for w in ("alpha", "beta", "gamma", "delta", "zeta", "eta", "theta", "iota", "kappa", "mu", "nu", "xi")]
    path = write_data(tmp_path, rows)
    shown = seen(services, path)
    labels = [label for label, _ in shown["reading"]["choices"]]
    assert shown["reading"]["value"] == "auto" and labels[0].startswith("As found: questions and answers · sure")
    other = next(v for label, v in shown["reading"]["choices"] if label.startswith("'question' → 'response'"))
    again = seen(services, path, **{"datasets.0.mapping": train_tab.choose_reading(services, other)})
    assert again["reading"]["value"] == other and "needs rest" in again["example"] and "pain" not in again["example"]


def test_where_no_columns_are_found_they_are_offered(services, tmp_path):
    rows = [{"label": f"{w}itis", "parent": f"illness of the {w}"} for w in ("alpha", "beta", "gamma", "delta", "zeta", "eta")]
    path = write_data(tmp_path, rows)
    shown = seen(services, path)
    assert "Choose below" in shown["facts"] and shown["reading"]["visible"] and shown["example"] == ""
    mapping = next(v for label, v in shown["reading"]["choices"] if label == "'label' → 'parent'")
    again = seen(services, path, **{"datasets.0.mapping": mapping})
    assert "illness of the" in again["example"] and again["reading"]["value"] == mapping


def test_a_conversation_shows_each_answer_as_learned(services, tmp_path):
    talk = [{"messages": [{"role": r, "content": f"{t} {i}"} for r, t in (
        ("user", "Is it gout"), ("assistant", "It may be"), ("user", "And now"), ("assistant", "Rest helps"))]} for i in range(12)]
    shown = seen(services, write_data(tmp_path, talk))
    assert shown["example"].count("<mark>") == 3 and "2 answers" in shown["example"]  # one mark is the legend's


def test_personal_data_is_named_and_covered_in_the_preview(services, tmp_path):
    rows = [{"question": f"Who helps with sign {w}?", "answer": f"Write to ann.lee@example.org about {w}."} for w in "abcdefghijkl"]
    shown = seen(services, write_data(tmp_path, rows))
    assert "12 with a likely e-mail address" in shown["facts"]
    assert not [n for n, v in shown.items() if "ann.lee" in str(v)]


def test_too_long_questions_are_warned_of(services, tmp_path):
    rows = [{"question": f"{w} " * 300 + "?", "answer": "It is a sign."} for w in ("alpha", "beta", "gamma", "delta", "zeta", "eta")]
    shown = seen(services, write_data(tmp_path, rows))
    assert "would train on nothing" in shown["facts"] and "raise data.max_length" in shown["facts"]


def test_cleaning_steps_are_switched_on_the_form(services, tmp_path):
    rows = [{"question": f"What is sign {w}?", "answer": f"A &amp; {w}."} for w in ("alpha", "beta", "gamma", "delta", "zeta", "eta")]
    path = write_data(tmp_path, rows)
    steps = list(forms.setting_values(forms.recommended("mini"))[[s.key for s in forms.FIELDS].index("data.clean")])
    assert "6 texts mended" in seen(services, path)["cleaning_box"]["label"]
    off = seen(services, path, **{"data.clean": [s for s in steps if s != "html"]})
    assert "0 texts mended" in off["cleaning_box"]["label"] and "&amp;amp;" in off["example"]


def test_several_files_are_taken_at_once(services, tmp_path):
    files = []
    for name in ("one", "two"):
        path = tmp_path / f"{name}.csv"
        path.write_text(f"question,answer\nWhat is {name}?,It is {name}.\n")
        files.append(str(path))
    dataset, more = train_tab.take_upload(services, files, "")
    assert "one-" in dataset["value"] and "two-" in more and more.count("\n") == 0


def test_uploads_are_checked_named_by_us_and_refused_ones_are_gone(root, tmp_path):
    good = tmp_path / "My Cards; rm -rf.csv"
    good.write_text("question,answer\nWhat is x?,It is y.\n" * 3)
    kept = uploads.keep_upload(root, good)
    assert kept.parent == root / ".uploads" and kept.name.startswith("my-cards-rm-rf-") and not good.exists()
    assert uploads.list_uploads(root) == [kept]
    assert adapters.list_runs(root) == []
    for name, content in (("bad.csv", b"\x1f\x8b\x08\x00gzip"), ("bad.pkl", b"\x80\x04.")):
        bad = tmp_path / name
        bad.write_bytes(content)
        with pytest.raises(DataError):
            uploads.keep_upload(root, bad)
        assert not bad.exists()
    assert uploads.list_uploads(root) == [kept]


# ── a public Space ──────────────────────────────────────────────────────────────────────────────────


def test_on_a_public_space_every_handler_that_changes_something_refuses(services, finished, monkeypatch):
    monkeypatch.setenv("SPACE_ID", "someone/medassist")
    values = form_values(forms.recommended("mini"))
    calls = [
        lambda: train_tab.start_training(services, {}, "mini", "starter", "", *values),
        lambda: train_tab.stop_training(services, {"run": "done"}),
        lambda: train_tab.resume_training(services, {"run": "done"}),
        lambda: train_tab.resume_chosen(services, "done"),
        lambda: train_tab.delete_chosen(services, "done", {}),
        lambda: train_tab.take_upload(services, ["x.csv"], ""),
        lambda: compare_tab.resolve(services, "owner/adapter"),
        lambda: list(train_tab.show_preview(services, VISITOR, True, 1, {}, "mini", "starter", "", *values)),
    ]
    for call in calls:
        with pytest.raises(ClosedError, match="duplicate|Duplicate"):
            call()
    assert finished.exists()
    monkeypatch.setenv("MEDASSIST_OPEN", "1")
    assert compare_tab.resolve(services, "done") == "done"


def test_on_a_public_space_the_train_tab_explains_and_has_no_form(services, monkeypatch):
    monkeypatch.setenv("SPACE_ID", "someone/medassist")
    page = build_app(services)
    ids = {getattr(b, "elem_id", None) for b in page.blocks.values()}
    assert "start" not in ids and "chat-input" in ids
    assert any("closed on this public Space" in str(getattr(b, "value", "")) for b in page.blocks.values())


# ── chat ────────────────────────────────────────────────────────────────────────────────────────────


def chat(services, question, turns=(), chosen="base:mini"):
    return list(chat_tab.send(services, VISITOR, question, list(turns), chosen, "balanced", *SAMPLING))


def test_a_medical_question_streams_and_is_kept(services, scripted_engine):
    steps = chat(services, "What does insulin do?")
    shown, turns, typed, *_ = steps[0]
    assert shown[0]["content"] == "What does insulin do?" and "ma-typing" in shown[1]["content"] and typed == ""
    shown, turns, _, gate, send, stop, _ = steps[-1]
    assert turns[-1]["content"] == "An answer by the base."
    assert "In scope" in gate and "insulin" in gate
    assert (send["visible"], stop["visible"]) == (True, False)
    assert len(scripted_engine.asked) == 1


def test_off_topic_looks_quiet_and_an_emergency_does_not(services, scripted_engine):
    shown, turns, *_ = chat(services, "What is the capital of France?")[-1]
    assert OUT_OF_SCOPE_MESSAGE in turns[-1]["content"] and "ma-quiet" in shown[-1]["content"]
    shown, *_ = chat(services, "My dad has crushing chest pain and is sweating")[-1]
    card = shown[-1]["content"]
    assert 'role="alert"' in card and 'aria-live="assertive"' in card and 'href="tel:112"' in card and "\n" not in card
    assert scripted_engine.asked == []


def test_what_was_typed_comes_back_on_an_error(services):
    steps = chat_tab.send(services, VISITOR, "What does insulin do?", [], "no-such-run", "balanced", *SAMPLING)
    seen = []
    with pytest.raises(MedAssistError, match="no-such-run"):
        for step in steps:
            seen.append(step)
    shown, turns, typed, *_ = seen[-1]
    assert (shown, turns, typed) == ([], [], "What does insulin do?")


def test_model_text_brings_no_html_and_no_image(services, scripted_engine):
    scripted_engine.answers[None] = 'See ![x](http://evil/p.png) <img src="http://evil/q"> <script>alert(1)</script>'
    content = chat(services, "What does insulin do?")[-1][0][-1]["content"]
    assert "![" not in content and "<img" not in content and "<script" not in content


def test_stop_ends_the_answer_and_keeps_what_came(services, scripted_engine):
    scripted_engine.answers[None] = "word " * 200
    steps = chat_tab.send(services, VISITOR, "What does insulin do?", [], "base:mini", "balanced", *SAMPLING)
    next(steps)
    next(steps)
    chat_tab.stop_answer(services, VISITOR)
    *_, last = steps
    assert scripted_engine.cancelled
    assert 0 < len(last[1][-1]["content"]) < 500


def test_closing_the_tab_cancels(services, scripted_engine):
    scripted_engine.answers[None] = "word " * 200
    steps = chat_tab.send(services, VISITOR, "What does insulin do?", [], "base:mini", "balanced", *SAMPLING)
    next(steps)
    next(steps)
    steps.close()
    assert scripted_engine.cancelled


def test_a_newer_question_takes_the_place_of_an_answer_that_still_runs(services, scripted_engine):
    scripted_engine.answers[None] = "word " * 200
    older = chat_tab.send(services, VISITOR, "What does insulin do?", [], "base:mini", "balanced", *SAMPLING)
    next(older)
    next(older)
    shown = chat(services, "I took a whole bottle of paracetamol")[-1][0]
    assert "ma-emergency" in shown[-1]["content"]
    assert all(_skipped(u) for step in older for u in step)  # it has nothing more to show


def test_retry_asks_the_last_question_again_and_edit_drops_what_followed(services, scripted_engine):
    turns = chat(services, "What does insulin do?")[-1][1]
    turns = chat(services, "What is anaemia?", turns)[-1][1]
    again = list(chat_tab.retry(services, VISITOR, turns, "base:mini", "balanced", *SAMPLING))[-1][1]
    assert [t["role"] for t in again] == ["user", "assistant"] * 2
    event = SimpleNamespace(index=0, value="What does the liver do if BP &lt; 90?")
    edited = list(chat_tab.edit(services, VISITOR, event, turns, "base:mini", "balanced", *SAMPLING))[-1][1]
    assert [t["role"] for t in edited] == ["user", "assistant"]
    assert edited[0]["content"] == "What does the liver do if BP < 90?"


def test_the_chat_endpoint_takes_history_and_refuses_what_is_none(services):
    row = chat_tab.chat_api(services, "What does insulin do?", '[{"role": "system", "content": "x"}]', "base:mini")
    assert row["route"] == "answer" and row["answer"] and row["sources"] == []
    with pytest.raises(UsageError, match="history"):
        chat_tab.chat_api(services, "What does insulin do?", "{nonsense", "base:mini")


# ── compare ─────────────────────────────────────────────────────────────────────────────────────────


def ask(services, question, held_out=None):
    return list(compare_tab.ask_both(services, VISITOR, "done", question, held_out or {}, *SAMPLING))


def test_both_answers_stand_side_by_side_with_shared_words_marked(services, finished, scripted_engine):
    scripted_engine.answers = {None: "Plasma", "done": "The kidney filters blood"}
    base, tuned, _, mark, *_ = ask(
        services, "What do kidneys do?", {"question": "What do kidneys do?", "answer": "They filter blood."}
    )[-1]
    assert "Plasma" in base["value"] and "<mark>blood</mark>" in tuned["value"] and mark == ""


def test_compare_checks_red_flags_first_and_marks_what_the_gate_would_refuse(
    services, finished, scripted_engine, monkeypatch
):
    *_, last = ask(services, "I took a whole bottle of paracetamol")
    assert "ma-emergency" in last[3] and scripted_engine.asked == []
    *_, last = ask(services, "What is the capital of France?")
    assert "would not answer this in Chat" in last[3] and len(scripted_engine.asked) == 1
    monkeypatch.setenv("SPACE_ID", "someone/medassist")
    *_, last = ask(services, "What is the capital of France?")
    assert OUT_OF_SCOPE_MESSAGE in last[3] and len(scripted_engine.asked) == 1


def test_a_changed_held_out_question_counts_as_typed(services, finished, scripted_engine):
    held_out = {"question": "I took a whole bottle of paracetamol", "answer": "x"}
    ask(services, "I took a whole bottle of paracetamol today", held_out)
    assert scripted_engine.asked == []


# ── small parts ─────────────────────────────────────────────────────────────────────────────────────


def test_everything_written_by_others_is_escaped(finished, root):
    evil = "<script>alert(1)</script>"
    view = RunView(phase="training", detail=evil)
    decision = load_gate().check("What does insulin do?")
    for text in (
        render.run_progress(evil, view, False),
        render.note(evil),
        render.reference_card(evil),
        render.marked(evil, frozenset({"alert"})),
        render.gate_state(decision),
        render.quiet_reply(evil),
        render.model_markdown(evil),
    ):
        assert "<script" not in text


def test_the_plot_keeps_its_box_and_thins_long_runs():
    view = RunView()
    assert "appears with the first step" in render.loss_plot(view)
    view.add(to_json(Plan("cpu", "float32", "eager", 8, 1, False, 5000)))
    view.add(to_json(Eval(0, "before", 3.9, 49.0, 30, 900)))
    for step in range(1, 5001):
        view.add(to_json(Step(step, 5000, 1.0, 4 - step / 2000, 1e-3, 1.0, 1e3, 1.0, 1.0)))
    text = render.loss_plot(view)
    assert text.count("polyline") == 2 and len(text) < 20_000
    assert "training loss from" in text


def test_durations_read_as_people_say_them():
    assert (render.duration(48), render.duration(7384)) == ("0:48", "2:03:04")
    assert (render.about(42), render.about(480), render.about(9000)) == ("about 40 s", "about 8 min", "about 2 h")


def test_the_watcher_reads_on_where_it_stopped_and_starts_over_for_a_new_file(tmp_path):
    watcher, file = Watcher(), tmp_path / "progress.jsonl"
    rows = [json.dumps(to_json(Step(n, 9, 0.1, 3.0, 1e-3, 1.0, 1e3, 1.0, 1.0))) + "\n" for n in (1, 2, 3)]
    file.write_text(rows[0] + rows[1][:20])
    assert watcher.look(tmp_path).view.step == 1
    file.write_text("".join(rows))
    assert watcher.look(tmp_path).view.step == 3
    file.write_text(rows[0])
    assert watcher.look(tmp_path).view.step == 1


def test_cancels_know_their_session():
    cancels = Cancels()
    mine, other = cancels.begin("a", "chat"), cancels.begin("b", "chat")
    cancels.stop("a", "chat")
    assert mine.is_set() and not other.is_set() and not mine.superseded
    newer = cancels.begin("b", "chat")
    assert other.superseded and not newer.is_set()


def test_the_emergency_card_shows_all_actions_and_numbers():
    card = render.emergency(check_red_flags("I want to kill myself"))
    assert "988" in card and "findahelpline" in card


def test_estimates_tolerate_a_missing_count(root):
    choices, _ = train_tab._preset_choices(build_config({}), {}, root)
    assert [name for _, name in choices] == ["quick", "standard", "thorough"]


def test_data_is_not_looked_at_while_the_libraries_are_half_loaded(services, monkeypatch):
    order = []
    monkeypatch.setattr("medassist.ui.services.import_tokenizers", lambda: order.append("libraries"))
    monkeypatch.setattr("medassist.data.prepare_data", lambda config: order.append("data"))
    services.prepared.get(forms.recommended("mini"))
    assert order == ["libraries", "data"]


def test_a_preview_that_was_overtaken_shows_nothing_more(services, tmp_path):
    rows = [{"question": f"What is sign {w}?", "answer": f"A {w} pain."} for w in ("alpha", "beta", "gamma", "delta", "zeta", "eta")]
    values = form_values(forms.recommended("mini"))
    slow = train_tab.show_preview(services, VISITOR, False, 1, {}, "mini", "starter", "", *values)
    next(slow)
    shown = seen(services, write_data(tmp_path, rows))
    assert "6 of 6" in shown["facts"].replace("<b>", "").replace("</b>", "")
    assert [v for step in slow for v in step if v != gr.skip()] == []
