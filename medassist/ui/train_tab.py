"""The Train tab: what to train, what it will learn from, a run as it goes, how it ended, and the earlier ones.

Handlers turn widgets into a `RunConfig` and hand it to `jobs`; a run is only ever looked at through its folder, on
a timer and when a page opens. Nothing is trained, counted or decided here.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from medassist import access, adapters, catalog, jobs, lock, preview
from medassist.config import PRESETS, RunConfig, to_yaml
from medassist.data import PreparedData, preview_rows
from medassist.data.report import confidence_words, shape_words
from medassist.errors import ColumnsError, ConfigError, JobError, MedAssistError, UsageError
from medassist.ui import forms, render, render_data, uploads
from medassist.ui.errors import bind, quiet
from medassist.ui.services import Services, import_tokenizers

RECENT_S = 3600  # a page that opens shows a run that ended within this time
LOG_BYTES = 6_000
ROWS_SHOWN = 4  # as they came and as they are used
MAX_FILES = 8  # uploaded at once
MAX_COLUMNS = 7  # offered in pairs as question and answer
NOTHING_YET = render.empty("Nothing yet", "Choose a dataset above, and what is done to its rows appears here.")
_PRESET_NAMES = {"quick": "Quick", "standard": "Standard", "thorough": "Thorough"}


@dataclass
class TrainTab:
    """What other tabs need of this one."""

    compare_button: gr.Button
    chat_button: gr.Button
    watch: gr.State
    load: Any
    load_outputs: list[Any]
    look: dict[str, Any]  # the event that fills the preview
    describing: dict[str, Any]  # the event that sums up the form


# ── handlers: the form ──────────────────────────────────────────────────────────────────────────────


def describe(
    services: Services, recipe: str, under: dict, tokens: dict, base: str, dataset: str, more: str, *values: Any
) -> tuple:
    """What the form amounts to: the presets' times, the label over the settings, command, file, problems."""
    try:
        config = forms.config_from_form(under, base, dataset, more, values)
    except MedAssistError as error:
        problems = error.problems if isinstance(error, ConfigError) else [str(error)]
        return gr.skip(), gr.skip(), gr.skip(), gr.skip(), "".join(render.note(p, "bad") for p in problems)
    known = catalog.get_recipe(recipe).name if recipe and recipe != forms.RECOMMENDED else None
    choices, info = _preset_choices(config, tokens, services.root)
    radio = gr.update(choices=choices, value=forms.preset_of(config), info=info)
    return (
        radio,
        gr.update(label=forms.summary(config)),
        forms.command_line(config, known),
        to_yaml(config),
        _advice(config),
    )


def _advice(config: RunConfig) -> str:
    entry = catalog.find_base(config.base.id)
    if entry is None:
        return ""
    if entry.gated:
        return render.note(
            f"{entry.title} is gated: accept its licence on the Hub and set HF_TOKEN first. "
            f"It needs about {entry.memory_4bit_gb:g} GB in 4-bit, {entry.memory_bf16_gb:g} GB in bf16."
        )
    if entry.memory_bf16_gb > 8:
        return render.note(
            f"{entry.title} needs about {entry.memory_4bit_gb:g} GB in 4-bit, {entry.memory_bf16_gb:g} GB in bf16."
        )
    return ""


def _preset_choices(config: RunConfig, tokens: dict, root: Path) -> tuple[list[tuple[str, str]], str]:
    """The presets with their times on this machine, and the time of the settings as they are."""
    choices = []
    for name in PRESETS:
        left = _estimate(forms.with_preset(config, name), tokens, root)
        label = _PRESET_NAMES.get(name, name.title())
        choices.append((f"{label} · {render.about(left)}" if left else label, name))
    now = _estimate(config, tokens, root)
    if forms.preset_of(config) is None:
        text = f"As set below: {config.train.num_train_epochs:g} epochs" + (f", {render.about(now)}" if now else "")
    elif now:
        text = "Times are for this machine, the comparison at the end included."
    else:
        text = "Passes over the data: " + ", ".join(f"{v['train.num_train_epochs']:g}" for v in PRESETS.values())
    return choices, text


def _estimate(config: RunConfig, tokens: dict, root: Path) -> float | None:
    count = (tokens or {}).get("tokens")
    if not count:
        return None
    from medassist.speed import estimate_seconds

    return estimate_seconds(config, count, root)


def choose_base(services: Services, recipe: str, base: str) -> list:
    """Settings that suit the base, unless a recipe was chosen: then its settings stay."""
    entry = catalog.find_base(base or "")
    if recipe != forms.RECOMMENDED:
        return [gr.skip()] * (1 + len(forms.FIELDS))
    config = forms.recommended(entry.name if entry else base or "mini")
    config = forms.with_preset(config, "standard")
    return [{}, *forms.setting_values(config)]


def choose_recipe(services: Services, recipe: str) -> list:
    """A recipe fills the whole form."""
    if recipe == forms.RECOMMENDED:
        config = forms.with_preset(forms.recommended("mini"), "standard")
        return _fill_form({}, config)
    from medassist.config import build_config

    settings = catalog.get_recipe(recipe).settings
    return _fill_form(settings, build_config(settings))


def choose_preset(services: Services, preset: str, *values: Any) -> list:
    """A preset writes into the folded settings, where it can be seen."""
    changed = PRESETS.get(preset or "", {})
    return [changed.get(s.key, gr.skip()) for s in forms.FIELDS]


def _fill_form(under: dict, config: RunConfig) -> list:
    """Outputs: under, base, dataset, more, settings."""
    names = []
    for dataset in config.datasets:
        entry = catalog.find_dataset(dataset.id)
        names.append(entry.name if entry else dataset.id)
    base = catalog.find_base(config.base.id)
    return [under, base.name if base else config.base.id, names[0], "\n".join(names[1:]), *forms.setting_values(config)]


def take_upload(services: Services, paths: list[str] | str | None, more: str) -> tuple:
    """Files from the visitor's machine become datasets that can be chosen. Outputs: dataset, more datasets."""
    access.require_open("Uploading")
    paths = [paths] if isinstance(paths, str) else list(paths or [])
    if not paths:
        raise UsageError("No file arrived.", "Choose a CSV, TSV, JSON or JSONL file.")
    kept = [str(uploads.keep_upload(services.root, Path(path))) for path in paths[:MAX_FILES]]
    others = "\n".join(kept[1:])
    return gr.update(choices=_dataset_choices(services.root), value=kept[0]), others if len(kept) > 1 else more


# What `show_preview` fills, in this order.
SEEN = ("facts", "reading", "histogram", "example", "number", "count", "tokens", "fetch", "cleaning_box", "cleaning", "rows")


def _seen(**values: Any) -> tuple:
    """The preview's outputs; those not named stay as they are."""
    return tuple(values.get(name, gr.skip()) for name in SEEN)


def _seen_only(facts: str, *, fetch: bool = False) -> tuple:
    """The preview with nothing but a sentence in it."""
    return _seen(facts=facts, reading=gr.update(visible=False), histogram="", example="", number=1, count="", tokens={},
                 fetch=gr.update(visible=fetch), cleaning_box=gr.update(label=render_data.cleaning_title(None)),
                 cleaning=NOTHING_YET, rows=NOTHING_YET)


def show_preview(
    services: Services,
    request: gr.Request,
    fetch: bool,
    number: int,
    under: dict,
    base: str,
    dataset: str,
    more: str,
    *values: Any,
) -> Iterator[tuple]:
    """Facts about the dataset and what cleaning did, then one example as it is trained on. Outputs: SEEN."""
    session = getattr(request, "session_hash", None)
    mine = services.cancels.begin(session, "preview")
    try:
        for seen in _preview(services, fetch, number, under, base, dataset, more, values):
            if mine.superseded:  # another dataset was chosen meanwhile: what is known of this one must not cover it
                break
            yield seen
        if mine.superseded:
            yield _seen()  # what a generator yields last is sent once more when it ends
    finally:
        services.cancels.end(session, "preview", mine)


def _preview(
    services: Services, fetch: bool, number: int, under: dict, base: str, dataset: str, more: str, values: tuple
) -> Iterator[tuple]:
    try:
        config = forms.config_from_form(under, base, dataset, more, values)
    except MedAssistError as error:
        yield _seen_only(render.note(str(error), "bad"))
        return
    if not fetch and not forms.has_local_data(config):
        yield _seen_only(_not_fetched(config), fetch=True)
        return
    access.require_open("Looking at a dataset")
    yield _seen(count="reading…", fetch=gr.update(visible=False))
    try:
        prepared = services.prepared.get(config)
        if not fetch and not forms.has_local_base(config):
            needed = render.note("One example as the model reads it needs the base model's tokenizer from the Hub.")
            yield _seen(**_data_seen(config, prepared), facts=render_data.facts(prepared, None, None), histogram="",
                        example=needed, number=1, count="", tokens={}, fetch=gr.update(visible=True))
            return
        yield _seen(**_data_seen(config, prepared), facts=render_data.facts(prepared, None, None))
        yield _seen(**_example_seen(services, config, prepared, number))
    except ColumnsError as error:
        said = f"{error.message} Choose below which column is asked and which is answered."
        yield (*_seen_only(render.note(said, "bad"))[:1], _pairs_of(error.columns, "auto"), *_seen_only("")[2:])
    except MedAssistError as error:
        local = forms.has_local_data(config) and forms.has_local_base(config)
        yield _seen_only(render.note(str(error), "bad"), fetch=not local)


def _data_seen(config: RunConfig, prepared: PreparedData) -> dict[str, Any]:
    """Outputs that need no tokenizer: how columns are read, what cleaning did, the first rows."""
    report = prepared.report
    shown = preview_rows(config.datasets[0], ROWS_SHOWN, data=config.data)
    return {"reading": _reading(config, prepared), "cleaning_box": gr.update(label=render_data.cleaning_title(report)),
            "cleaning": render_data.cleaning(report), "rows": render_data.rows(shown)}


def _reading(config: RunConfig, prepared: PreparedData) -> Any:
    """The list of ways to read the first dataset's columns; hidden where there is only one."""
    source = prepared.report.sources[0]
    readings = [(f"{r.label} · {confidence_words(r.confidence)}", json.dumps(r.mapping)) for r in source.readings]
    asked = config.datasets[0].mapping
    found = f"As found: {shape_words(source.mapping_kind)} · {confidence_words(source.confidence)}" if asked == "auto" \
        else "Find the columns by looking"
    chosen = "auto" if asked == "auto" else json.dumps(asked)
    choices = [(found, "auto"), *readings]
    if chosen not in [value for _, value in choices]:
        choices.append(("As said under All settings, Data", chosen))
    known = {label for label, _ in readings}
    others = [(label, value) for label, value in _pairs(source.all_columns) if not any(k.startswith(label) for k in known)]
    return gr.update(choices=choices + others, value=chosen, visible=len(choices) > 2 or bool(others))


def _pairs(columns: Sequence[str]) -> list[tuple[str, str]]:
    """Every way to ask one column and answer with another: label and mapping."""
    return [(f"'{q}' → '{a}'", json.dumps({"question": q, "answer": a}))
            for q in columns[:MAX_COLUMNS] for a in columns[:MAX_COLUMNS] if q != a]


def _pairs_of(columns: Sequence[str], chosen: str) -> Any:
    """The list of readings where none was found."""
    pairs = _pairs(columns)
    return gr.update(choices=[("Not found", "auto"), *pairs], value=chosen, visible=bool(pairs))


def _example_seen(services: Services, config: RunConfig, prepared: PreparedData, number: int) -> dict[str, Any]:
    """Outputs with one example of the training split, its tokens counted."""
    import_tokenizers()
    stats, total = services.prepared.stats(config, prepared), len(prepared.train)
    estimate = preview.estimate(config, stats)
    number = (int(number) - 1) % max(total, 1) + 1
    rows = preview.preview_examples(config, prepared, 1, number - 1)
    shown = render_data.example(rows[0]) if rows else render.note("This example is too long to leave room for an answer.")
    return {"facts": render_data.facts(prepared, stats, estimate), "histogram": render_data.histogram(stats),
            "example": shown, "number": number, "count": f"{number:,} of {total:,}", "tokens": {"tokens": stats.tokens},
            "fetch": gr.update(visible=False)}


def choose_reading(services: Services, reading: str) -> Any:
    """Another way to read the columns goes into the folded settings, where it can be seen and changed."""
    return reading or "auto"


def _not_fetched(config: RunConfig) -> str:
    lines = []
    for dataset in config.datasets:
        entry = catalog.find_dataset(dataset.id)
        lines.append(
            f"{entry.title}: {entry.rows or 0:,} rows, licence {entry.license}. {entry.note}"
            if entry
            else f"{dataset.id}: from the Hugging Face Hub."
        )
    return "".join(render.note(line) for line in lines)


def next_number(number: int) -> int:
    return int(number or 1) + 1


def previous_number(number: int) -> int:
    return int(number or 1) - 1


# ── handlers: a run ─────────────────────────────────────────────────────────────────────────────────


def start_training(services: Services, under: dict, base: str, dataset: str, more: str, *values: Any) -> tuple:
    """Starts a run in a process of its own and shows it. Outputs: watch, panel."""
    access.require_open("Training")
    config = forms.config_from_form(under, base, dataset, more, values)
    name = jobs.start(services.root, config)
    return {"run": name}, *_panel(services, name)


def stop_training(services: Services, watch: dict) -> tuple:
    """Asks the run to save and end."""
    access.require_open("Stopping a training")
    jobs.stop(services.root, _name(watch))
    return _panel(services, _name(watch))


def resume_training(services: Services, watch: dict) -> tuple:
    """Goes on with the run that is shown."""
    access.require_open("Resuming a training")
    name = jobs.resume(services.root, _name(watch))
    return {"run": name}, *_panel(services, name)


def close_run(services: Services, watch: dict) -> tuple:
    """Takes an ended run out of view."""
    return {}, *_panel(services, None)


def _name(watch: dict | None) -> str:
    name = (watch or {}).get("run")
    if not isinstance(name, str):
        raise JobError("No run is shown here.", "Choose one under Earlier runs.")
    return name


def open_page(services: Services) -> tuple:
    """A page that opens or reloads: the run that is going on, or the one that has just ended."""
    name = jobs.running(services.root) or _recent(services.root)
    return (
        {"run": name} if name else {},
        *_panel(services, name),
        *_history(services),
        gr.update(choices=_dataset_choices(services.root)),
    )


def _recent(root: Path) -> str | None:
    for run in adapters.list_runs(root):
        log_file, end = run.path / "progress.jsonl", run.path / "result.json"
        if run.name != "starter" and log_file.exists() and end.exists():
            return run.name if time.time() - end.stat().st_mtime < RECENT_S else None
    return None


def tick(services: Services, watch: dict) -> tuple:
    """Every second: nothing, unless the run in view or the machine's training has changed.

    Outputs: watch, panel, history.
    """
    watch = watch or {}
    name = watch.get("run")
    owner = lock.current_owner(services.root)
    if owner is not None and owner.run and owner.run != name:
        name = owner.run
    if not name:
        return tuple(gr.skip() for _ in range(1 + PANEL + HISTORY))
    stamp = _run_stamp(services.root, name)
    if watch.get("run") == name and watch.get("stamp") == stamp:
        return tuple(gr.skip() for _ in range(1 + PANEL + HISTORY))
    ended = stamp.startswith("ended")
    news = ended and not str(watch.get("stamp", "")).startswith("ended")
    history = _history(services) if news else tuple(gr.skip() for _ in range(HISTORY))
    return {"run": name, "stamp": stamp}, *_panel(services, name), *history


def _run_stamp(root: Path, name: str) -> str:
    """Changes when there is something new to show about a run."""
    path = adapters.run_path(root, name)
    if not path.is_dir():
        return "gone"
    running = adapters.is_running(path)
    if not running and not (path / "result.json").exists():
        jobs.reconcile(root)
    file = path / "progress.jsonl"
    size = file.stat().st_size if file.exists() else 0
    return f"{'running' if running else 'ended'} {size} {(path / jobs.STOP_FILE).exists()}"


PANEL = 10  # outputs of _panel
HISTORY = 2  # outputs of _history


def _panel(services: Services, name: str | None) -> tuple:
    """Outputs: panel, status, plot, log, stop, resume, compare, chat, close, start."""
    free = gr.update(value="Start training", interactive=True)
    hidden = gr.update(visible=False)
    if name is None:
        return hidden, "", "", "", hidden, hidden, hidden, hidden, hidden, free
    try:
        run = adapters.load_run(services.root, name)
    except MedAssistError:  # deleted meanwhile
        return hidden, "", "", "", hidden, hidden, hidden, hidden, hidden, free
    running = adapters.is_running(run.path)
    watched = services.watcher.look(run.path)
    stopping = (run.path / jobs.STOP_FILE).exists()
    status = render.run_progress(name, watched.view, stopping) if running else render.run_end(run)
    usable = not running and run.state == "finished"
    resumable = not running and run.state in ("stopped", "failed", "interrupted")
    start = gr.update(value="A training is running", interactive=False) if running else free
    return (
        gr.update(visible=True),
        status,
        render.loss_plot(watched.view),
        render.log_text(watched.rows, _tail(run.path / "train.log")),
        gr.update(visible=running, interactive=not stopping, value="Stopping…" if stopping else "Stop and save"),
        gr.update(visible=resumable),
        gr.update(visible=usable),
        gr.update(visible=usable),
        gr.update(visible=not running),
        start,
    )


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - LOG_BYTES))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""


# ── handlers: earlier runs ──────────────────────────────────────────────────────────────────────────


def _history(services: Services) -> tuple:
    """Outputs: table, run to act on."""
    runs = adapters.list_runs(services.root)
    names = [r.name for r in runs]
    return render.history(runs), gr.update(choices=names)


def refresh_history(services: Services) -> tuple:
    return _history(services)


def resume_chosen(services: Services, name: str | None) -> tuple:
    """Goes on with a run of the table."""
    access.require_open("Resuming a training")
    name = jobs.resume(services.root, _chosen(name))
    return {"run": name}, *_panel(services, name)


def show_chosen(services: Services, name: str | None) -> tuple:
    """Shows a run of the table above the form."""
    name = adapters.load_run(services.root, _chosen(name)).name
    return {"run": name}, *_panel(services, name)


def use_settings(services: Services, name: str | None) -> list:
    """Fills the form with an earlier run's settings, for a run of a new name."""
    run = adapters.load_run(services.root, _chosen(name))
    if run.config is None:
        raise UsageError(f"The settings of '{run.name}' cannot be read.", "Choose another run.")
    from medassist.paths import resolvable

    config = resolvable(run.config).model_copy(update={"name": None})
    gr.Info(f"The form has the settings of {run.name} now.", duration=4)
    return [forms.RECOMMENDED, *_fill_form(config.model_dump(), config)]


def ask_delete(services: Services, name: str | None) -> tuple:
    """Asks once more. Outputs: the question's row, its text."""
    return gr.update(visible=True), render.note(
        f"Delete {_chosen(name)} with its adapter, log and figures? This cannot be undone.", "bad"
    )


def delete_chosen(services: Services, name: str | None, watch: dict) -> tuple:
    """Deletes a run. Outputs: the question's row, watch, panel, history, run to act on."""
    access.require_open("Deleting a run")
    gone = _chosen(name)
    jobs.delete(services.root, gone)
    if (watch or {}).get("run") == gone:
        watch = {}
    table, names = _history(services)
    return (
        gr.update(visible=False),
        watch,
        *_panel(services, (watch or {}).get("run")),
        table,
        gr.update(choices=names["choices"], value=None),
    )


def keep_chosen() -> Any:
    return gr.update(visible=False)


def _chosen(name: str | None) -> str:
    if not name:
        raise UsageError("No run is chosen.", "Choose one in the list beside the buttons.")
    return name


# ── layout ──────────────────────────────────────────────────────────────────────────────────────────


def _base_choices() -> list[tuple[str, str]]:
    choices = []
    for entry in catalog.list_base_models():
        size = f"{entry.parameters / 1e9:.1f} B" if entry.parameters >= 1e9 else f"{entry.parameters / 1e6:.0f} M"
        where = " · gated" if entry.gated else ""
        choices.append((f"{entry.title} · {size}{where}", entry.name))
    return choices


def _dataset_choices(root: Path) -> list[tuple[str, str]]:
    choices = [(f"{e.title}" + (f" · {e.rows:,} rows" if e.rows else ""), e.name) for e in catalog.list_datasets()]
    return [(f"{p.name} · uploaded", str(p)) for p in uploads.list_uploads(root)] + choices


def build_train_tab(services: Services) -> TrainTab | None:
    """The tab's layout and its events; None on a public Space, where it only explains."""
    if access.is_public():
        gr.HTML(render.closed_train())
        return None
    config = forms.with_preset(forms.recommended("mini"), "standard")
    watch, under, tokens = gr.State({}), gr.State({}), gr.State({})
    panel = _build_panel()
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=320):
            form = _build_form(services, config)
        with gr.Column(scale=6, min_width=320):
            seen = _build_preview()
    seen |= _build_rows()
    form |= _build_settings(config)
    shown = _build_same_thing(config)
    past = _build_history()
    _wire_form(services, form, seen, shown, under, tokens)
    _wire_run(services, form, panel, past, watch)
    load_outputs = [watch, *panel.values(), form["start"], *past["outputs"], form["dataset"]]
    _wire_history(services, form, panel, past, watch)
    return TrainTab(
        panel["compare"],
        panel["chat"],
        watch,
        bind(open_page, services),
        load_outputs,
        form["look"],
        form["describing"],
    )


def _build_panel() -> dict[str, Any]:
    with gr.Column(visible=False, elem_id="run-panel") as box:
        status = gr.HTML(elem_id="run-status")
        with gr.Row(elem_classes="ma-actions"):
            stop = gr.Button("Stop and save", visible=False, elem_id="stop", size="md")
            resume = gr.Button("Resume", variant="primary", visible=False, elem_id="resume", size="md")
            compare = gr.Button("Compare answers", variant="primary", visible=False, elem_id="to-compare", size="md")
            chat = gr.Button("Chat with it", variant="primary", visible=False, elem_id="to-chat", size="md")
            close = gr.Button("Close", visible=False, elem_id="close-run", size="md")
        plot = gr.HTML(elem_id="run-plot")
        with gr.Accordion("Log", open=False):
            log = gr.Textbox(
                show_label=False,
                lines=10,
                max_lines=10,
                interactive=False,
                elem_id="ma-log",
                container=False,
                placeholder="What the run decides and does is listed here.",
            )
    return {
        "box": box,
        "status": status,
        "plot": plot,
        "log": log,
        "stop": stop,
        "resume": resume,
        "compare": compare,
        "chat": chat,
        "close": close,
    }


def _build_form(services: Services, config: RunConfig) -> dict[str, Any]:
    gr.HTML(
        '<p class="ma-lead"><b>Teach a small language model medicine.</b> The choices are made: press Start, '
        "or change them.</p>"
    )
    base = gr.Dropdown(
        _base_choices(),
        value="mini",
        allow_custom_value=True,
        label="Base model",
        elem_id="base",
        info="From the list, a Hub id (owner/name) or a local folder.",
    )
    dataset = gr.Dropdown(
        _dataset_choices(services.root),
        value="starter",
        allow_custom_value=True,
        label="Dataset",
        elem_id="dataset",
        info="From the list, a Hub id, or the path of a local file.",
    )
    upload = gr.UploadButton(
        "Upload datasets: CSV, TSV, JSON, JSONL",
        file_types=list(uploads.SUFFIXES),
        file_count="multiple",
        size="md",
        elem_id="upload",
    )
    choices, info = _preset_choices(config, {}, services.root)
    preset = gr.Radio(choices, value=forms.preset_of(config), label="How long", info=info, elem_id="preset")
    problems = gr.HTML(elem_id="problems")
    start = gr.Button("Start training", variant="primary", elem_id="start")
    return {"base": base, "dataset": dataset, "upload": upload, "preset": preset, "problems": problems, "start": start}


def _build_settings(config: RunConfig) -> dict[str, Any]:
    """Everything else, folded away under its values."""
    with gr.Accordion(forms.summary(config), open=False, elem_id="settings") as folded, gr.Row():
        recipe = gr.Dropdown(
            [
                ("Recommended for the base model", forms.RECOMMENDED),
                *[(f"{r.title} ({r.name})", r.name) for r in catalog.list_recipes()],
            ],
            value=forms.RECOMMENDED,
            label="Recipe",
            info="A recipe fills the whole form.",
            elem_id="recipe",
            min_width=260,
        )
        more = gr.Textbox(
            label="More datasets", info="One a line, to train on several at once.", max_lines=4, min_width=260
        )
    widgets = []
    tree = config.model_dump()
    with folded, gr.Tabs():
        for title, settings in forms.SETTINGS.items():
            with gr.Tab(title), gr.Row(elem_classes="ma-grid"):
                widgets += [forms.build_setting(s, forms.get_dotted(tree, s.key)) for s in settings]
    return {"folded": folded, "recipe": recipe, "more": more, "widgets": widgets}


def _build_preview() -> dict[str, Any]:
    """The right-hand column: what the run will learn from."""
    gr.HTML('<p class="ma-sub">What it will learn from</p>')
    facts = gr.HTML(
        render.empty("Reading the dataset", "Its rows, licence and one example appear here."), elem_id="facts"
    )
    fetch = gr.Button("Fetch it and look", visible=False, size="md", elem_id="fetch")
    reading = gr.Dropdown(
        [("As found", "auto")],
        value="auto",
        label="How the columns are read",
        info="If question and answer below look wrong, choose another way.",
        visible=False,
        elem_id="reading",
    )
    example = gr.HTML(elem_id="example")
    number = gr.State(1)
    with gr.Row(elem_classes="ma-nav"):
        before = gr.Button("‹", size="md", elem_id="example-before")
        count = gr.Markdown(elem_classes="ma-count")
        after = gr.Button("›", size="md", elem_id="example-after")
    histogram = gr.HTML(elem_id="histogram")
    return {"facts": facts, "fetch": fetch, "reading": reading, "example": example, "number": number, "before": before,
            "count": count, "after": after, "histogram": histogram}


def _build_rows() -> dict[str, Any]:
    """Below both columns: what cleaning did, and the first rows before and after."""
    with gr.Accordion(render_data.cleaning_title(None), open=False, elem_id="cleaning") as box:
        cleaning = gr.HTML(NOTHING_YET)
    with gr.Accordion("The first rows, as they came and as they are used", open=False, elem_id="first-rows"):
        rows = gr.HTML(NOTHING_YET)
    return {"cleaning_box": box, "cleaning": cleaning, "rows": rows}


def _build_same_thing(config: RunConfig) -> dict[str, Any]:
    with gr.Accordion("The same run on the command line, or as a file", open=False):
        command = gr.Code(
            forms.command_line(config),
            language="shell",
            label="Command",
            interactive=False,
            lines=1,
            wrap_lines=True,
            show_line_numbers=False,
            buttons=["copy"],
            elem_id="command",
            elem_classes="ma-code",
        )
        text = gr.Code(
            to_yaml(config),
            language="yaml",
            label="run.yaml, for train --config",
            interactive=False,
            lines=8,
            max_lines=16,
            show_line_numbers=False,
            buttons=["copy", "download"],
            elem_classes="ma-code",
        )
    return {"command": command, "yaml": text}


def _build_history() -> dict[str, Any]:
    with gr.Accordion("Earlier runs", open=False, elem_id="history"):
        table = gr.HTML()
        with gr.Row(elem_classes="ma-tools"):
            chosen = gr.Dropdown(
                [], value=None, label="Choose a run of the table", elem_id="chosen-run", scale=3, min_width=260
            )
            show = gr.Button("Show", size="md", min_width=90)
            resume = gr.Button("Resume", size="md", min_width=90)
            use = gr.Button("Use its settings", size="md", min_width=140)
            delete = gr.Button("Delete", size="md", min_width=90, elem_id="delete-run")
        with gr.Row(visible=False, elem_classes="ma-tools") as sure:
            question = gr.HTML()
            yes = gr.Button("Delete for good", variant="stop", size="md", min_width=140, elem_id="delete-yes")
            no = gr.Button("Keep it", size="md", min_width=110)
    return {
        "table": table,
        "chosen": chosen,
        "show": show,
        "resume": resume,
        "use": use,
        "delete": delete,
        "sure": sure,
        "question": question,
        "yes": yes,
        "no": no,
        "outputs": [table, chosen],
    }


# Handlers that only read: no queue in front of them, nothing drawn over the page while they run.
_CALM: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
# Handlers that change something: through the queue, which direct requests cannot go round; they return at once.
_ACT: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}


def _wire_form(services: Services, form: dict, seen: dict, shown: dict, under: gr.State, tokens: gr.State) -> None:
    values = form["widgets"]
    source = [under, form["base"], form["dataset"], form["more"], *values]
    filled = [under, form["base"], form["dataset"], form["more"], *values]
    describing = {
        "fn": bind(describe, services),
        "inputs": [form["recipe"], under, tokens, *source[1:]],
        "outputs": [form["preset"], form["folded"], shown["command"], shown["yaml"], form["problems"]],
        **_CALM,
    }
    form["describing"], form["filled"], form["source"] = describing, filled, source
    look = {
        "fn": bind(show_preview, services),
        "inputs": [gr.State(False), seen["number"], *source],
        "outputs": [tokens if name == "tokens" else seen[name] for name in SEEN],
        "show_progress": "hidden",
        "api_visibility": "private",
        "concurrency_limit": 2,
        "concurrency_id": "preview",
    }
    fetching = {**look, "inputs": [gr.State(True), *look["inputs"][1:]], "show_progress": "minimal"}
    form["look"] = look
    first = {"fn": lambda: 1, "outputs": [seen["number"]], **_CALM}

    def follow(event: Any, data_changed: bool) -> None:
        event = event.then(**describing)
        if data_changed:
            event.then(**first).then(**look).then(**describing)

    follow(
        form["base"].input(bind(choose_base, services), [form["recipe"], form["base"]], [under, *values], **_CALM), True
    )
    follow(form["recipe"].input(bind(choose_recipe, services), [form["recipe"]], filled, **_CALM), True)
    follow(form["preset"].input(bind(choose_preset, services), [form["preset"], *values], values, **_CALM), False)
    follow(
        form["upload"].upload(
            bind(take_upload, services),
            [form["upload"], form["more"]],
            [form["dataset"], form["more"]],
            show_progress="minimal",
            api_visibility="private",
            concurrency_limit=2,
        ),
        True,
    )
    data_keys = {s.key for s in forms.FIELDS if s.key.startswith("data")}
    for setting, widget in zip(forms.FIELDS, values, strict=True):
        # A Textbox tells of keys by "input", of pasted text only by "change".
        changed = widget.change if isinstance(widget, gr.Textbox) else widget.input
        event = changed(**describing, trigger_mode="always_last")
        if (
            setting.key in data_keys
        ):  # a dataset may be large: it is read again when the field is left, not with each key
            (widget.blur(**look) if hasattr(widget, "blur") and setting.kind != "choice" else event.then(**look))
    gr.on([form["dataset"].input, form["more"].change], **describing).then(**first).then(**look).then(**describing)
    for button, move in ((seen["before"], previous_number), (seen["after"], next_number)):
        button.click(move, [seen["number"]], [seen["number"]], **_CALM).then(**look)
    seen["fetch"].click(**fetching).then(**describing)
    mapping = values[[s.key for s in forms.FIELDS].index("datasets.0.mapping")]
    follow(seen["reading"].input(bind(choose_reading, services), [seen["reading"]], [mapping], **_CALM), True)


def _wire_run(services: Services, form: dict, panel: dict, past: dict, watch: gr.State) -> None:
    outputs = [*panel.values(), form["start"]]
    up = "() => { window.scrollTo({top: 0, behavior: 'smooth'}); }"
    form["start"].click(bind(start_training, services), form["source"], [watch, *outputs], **_ACT).success(
        fn=None, js=up
    )
    panel["stop"].click(bind(stop_training, services), [watch], outputs, **_ACT)
    panel["resume"].click(bind(resume_training, services), [watch], [watch, *outputs], **_ACT)
    panel["close"].click(bind(close_run, services), [watch], [watch, *outputs], **_CALM)
    gr.Timer(1.0).tick(quiet(bind(tick, services)), [watch], [watch, *outputs, *past["outputs"]], **_CALM)


def _wire_history(services: Services, form: dict, panel: dict, past: dict, watch: gr.State) -> None:
    outputs = [*panel.values(), form["start"]]
    chosen = past["chosen"]
    chosen.focus(bind(refresh_history, services), None, past["outputs"], **_CALM)
    past["show"].click(bind(show_chosen, services), [chosen], [watch, *outputs], **_ACT)
    past["resume"].click(bind(resume_chosen, services), [chosen], [watch, *outputs], **_ACT)
    past["use"].click(
        bind(use_settings, services),
        [chosen],
        [form["recipe"], *form["filled"]],
        show_progress="hidden",
        api_visibility="private",
    ).then(**form["describing"]).then(**form["look"])
    past["delete"].click(bind(ask_delete, services), [chosen], [past["sure"], past["question"]], **_ACT)
    past["no"].click(keep_chosen, None, [past["sure"]], **_CALM)
    past["yes"].click(
        bind(delete_chosen, services), [chosen, watch], [past["sure"], watch, *outputs, *past["outputs"]], **_ACT
    )
