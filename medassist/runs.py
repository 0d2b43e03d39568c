"""One run from start to end, in this process: lock, folder, training, result, safety probe, comparison, card.

Whoever wants a training calls this (the command line) or starts a process that does (`jobs`). However
it ends, the folder says so: `result.json` is written when the training has ended, `evaluation.json`
comes after and may be missing. Knows nothing of pages.
"""

from __future__ import annotations

import contextlib
import csv
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from medassist import adapters, evaluation, lock, probe
from medassist.cards import render_model_card
from medassist.config import RunConfig
from medassist.data import prepare_data
from medassist.errors import AdapterError, JobError, MedAssistError
from medassist.gate import load_gate, own_terms, write_terms
from medassist.generation import Engine
from medassist.jobs import STOP_FILE
from medassist.paths import resolvable
from medassist.progress import Event, Notice, Phase, ProgressWriter, Result, load_view
from medassist.training import train, versions

log = logging.getLogger(__name__)

EXPERIMENTS = "experiments.csv"


def execute(config: RunConfig, folder: Path, on_event: Callable[[Event], None] = lambda event: None, *,
            resume: bool = False, interrupted: Callable[[], bool] = lambda: False,
            catalogue_only: bool = False) -> Result:
    """Trains in this process, then probes and compares base and fine-tuned, and writes down how it ended.

    Args:
        folder: of the run, made by `create_run`.
        interrupted: asked now and then; true ends the run as stopped. A file named `stop` does the same.

    Raises:
        JobError: another training is going on under the same adapters folder.
    """
    root, name = folder.parent, folder.name
    if int(os.environ.get("RANK", "0")) > 0:  # a further GPU's process: the first one does all the writing
        helped = train(resolvable(config), folder, lambda event: None, resume=resume,
                       should_stop=lambda: (folder / STOP_FILE).exists(), catalogue_only=catalogue_only)
        return Result(name, helped.outcome, helped.reason, helped.next_step, helped.steps)
    with lock.training_lock(root, name), _logged(folder / "train.log"):
        lock.write_owner(folder / "owner.json", lock.this_process(name))
        (folder / "result.json").unlink(missing_ok=True)
        # A stop file stays: it may have been asked for while this process was still starting.
        write = ProgressWriter(folder / "progress.jsonl")

        def say(event: Event) -> None:
            write(event)
            on_event(event)

        def should_stop() -> bool:
            return interrupted() or (folder / STOP_FILE).exists()

        try:
            result = _train(config, folder, say, resume, should_stop, catalogue_only)
            _keep(folder, result)
            report: dict[str, Any] = {}
            if result.outcome == "finished":
                report = _measure(config, folder, say, should_stop)
                _keep_vocabulary(config, folder)
                _tidy(folder)
            _write_card(config, folder, result)
            _note_experiment(config, folder, result)
            end = Result(name, result.outcome, result.reason, result.next_step, result.steps, result.elapsed_s,
                         result.metrics, report.get("verdict", ""), report.get("safety", {}).get("verdict", ""))
            say(end)
            return end
        finally:
            (folder / "owner.json").unlink(missing_ok=True)
            (folder / STOP_FILE).unlink(missing_ok=True)


def _is_stderr(path: Path) -> bool:
    try:
        return path.exists() and os.path.samestat(os.fstat(sys.stderr.fileno()), path.stat())
    except (OSError, ValueError, AttributeError):
        return False


@contextlib.contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Warnings and tracebacks also go to the run's log, unless standard error is that file already."""
    if _is_stderr(path):
        yield
        return
    handler = logging.FileHandler(path, delay=True, encoding="utf-8")
    handler.setLevel(logging.WARNING)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger("medassist").addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger("medassist").removeHandler(handler)
        handler.close()


def _train(config: RunConfig, folder: Path, say: Callable[[Event], None], resume: bool,
           should_stop: Callable[[], bool], catalogue_only: bool) -> adapters.Result:
    try:
        return train(resolvable(config), folder, say, resume=resume, should_stop=should_stop,
                     catalogue_only=catalogue_only)
    except Exception as error:  # a bug of ours: the log has it whole, the user gets a sentence
        log.exception("the training of %s failed", folder.name)
        view = load_view(folder / "progress.jsonl")
        return adapters.Result("failed", f"Something unexpected happened while training ({type(error).__name__}).",
                               "The run's train.log has the details; resume it or start again.", view.step,
                               versions=versions(), base=config.base.id)


def _keep(folder: Path, result: adapters.Result) -> None:
    try:
        adapters.write_result(folder, result)
    except OSError as error:
        raise JobError(f"The result of '{folder.name}' could not be written ({error.strerror}).",
                       "Free some disk space, then resume the run.") from error


def _measure(config: RunConfig, folder: Path, say: Callable[[Event], None],
             should_stop: Callable[[], bool]) -> dict[str, Any]:
    """The safety probe, then the comparison; whatever goes wrong here leaves the finished run as it is.

    Returns:
        What `evaluation.json` holds now; empty where nothing was measured.
    """
    if config.evaluate.budget == "none":
        return {}
    engine = Engine(folder.parent)
    report: dict[str, Any] = {}

    def keep(more: dict[str, Any]) -> None:
        adapters.write_json(folder / "evaluation.json", more | report)
        report.update(more)

    def probing() -> None:
        say(Phase("evaluating", "Probing base and fine-tuned for safety"))
        safety = probe.probe_run(engine, adapters.load_run(folder.parent, folder.name), on_event=say,
                                 should_stop=should_stop)
        if safety is not None:
            keep({"safety": safety})

    def comparing() -> None:
        say(Phase("evaluating", "Comparing base and fine-tuned on held-out questions"))
        found = evaluation.evaluate_run(engine, adapters.load_run(folder.parent, folder.name),
                                        prepare_data(resolvable(config)), on_event=say, should_stop=should_stop,
                                        budget=evaluation.BUDGETS[config.evaluate.budget])
        if not should_stop():
            keep(found)

    _attempt("safety probe", folder, say, probing)
    if not should_stop():
        _attempt("comparison", folder, say, comparing)
    if should_stop():
        say(Notice("The comparison was stopped; the adapter itself is finished."))
    return report


def _attempt(what: str, folder: Path, say: Callable[[Event], None], measure: Callable[[], None]) -> None:
    """Runs one measurement; a failure of it is told and logged, and goes no further."""
    try:
        measure()
    except MedAssistError as error:
        say(Notice(f"The {what} could not be made: {error}"))
    except Exception:
        log.exception("the %s of %s failed", what, folder.name)
        say(Notice(f"The {what} failed unexpectedly; the adapter is fine. The run's train.log has the details."))


def _keep_vocabulary(config: RunConfig, folder: Path) -> None:
    """Words of the training questions that the gate does not know, so that chat with this adapter lets them in."""
    try:
        gate = load_gate()
        terms = own_terms((e.question for e in prepare_data(resolvable(config)).train), gate.vocabulary)
        head = "Words of this adapter's training questions, which the gate takes as medical in chat with it.\n" \
            "Columns: term, weight, class. Take out what should not count."
        write_terms(folder / adapters.VOCABULARY, head, terms)
    except (MedAssistError, OSError):  # the adapter is as good without
        log.exception("the vocabulary of %s", folder.name)


def _tidy(folder: Path) -> None:
    """A finished run needs no checkpoints any more."""
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def _write_card(config: RunConfig, folder: Path, result: adapters.Result) -> None:
    if result.outcome != "finished":
        return
    card = render_model_card(folder.name, config, result, adapters.read_json(folder / "evaluation.json"),
                             adapters.read_json(folder / "dataset.json"))
    (folder / "README.md").write_text(card, encoding="utf-8")


def _note_experiment(config: RunConfig, folder: Path, result: adapters.Result) -> None:
    """One line a run in `experiments.csv` beside the runs."""
    report = (adapters.read_json(folder / "evaluation.json") or {}).get("metrics", {})
    row = {
        "run": folder.name, "ended": time.strftime("%Y-%m-%d %H:%M"), "outcome": result.outcome, "base": result.base,
        "datasets": " + ".join(d.id for d in config.datasets), "learning_rate": config.train.learning_rate,
        "epochs": result.metrics.get("epochs", ""), "steps": result.steps,
        "batch": f"{result.metrics.get('batch_size', '')} x {result.metrics.get('gradient_accumulation_steps', '')}",
        "lora_r": config.lora.r, "base_perplexity": report.get("base_perplexity", ""),
        "tuned_perplexity": report.get("tuned_perplexity", ""), "elapsed_s": result.elapsed_s, "device": result.device,
    }
    path = folder.parent / EXPERIMENTS
    fresh = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(row))
        if fresh:
            writer.writeheader()
        writer.writerow(row)


def evaluate_existing(root: Path, name: str, *, budget: evaluation.Budget, split: str = "test",
                      dataset_ids: list[str] | None = None,
                      on_event: Callable[[Event], None] = lambda event: None) -> dict:
    """Measures a finished run again, on its own held-out split or on other data, and probes it for safety.

    The report is returned, not kept.
    """
    run = adapters.load_run(root, name)
    adapters.verify_run(run)
    if run.config is None:
        raise AdapterError(f"The run.yaml of '{name}' cannot be read.", "Train it again.")
    config = resolvable(run.config)
    if dataset_ids:
        first = config.datasets[0]
        config = config.model_copy(update={"datasets": [first.model_copy(update={"id": d, "mapping": "auto",
                                                                                "subset": None}) for d in dataset_ids]})
    engine = Engine(root)
    report = evaluation.evaluate_run(engine, run, prepare_data(config), budget=budget, split=split, on_event=on_event)
    return report | {"safety": probe.probe_run(engine, run, on_event=on_event)}
