"""The command line: `python -m medassist …`. Arguments → config → service → text or JSON lines.

Progress goes to standard error, results to standard output. Exit status: 0 success, 1 a failure that
the message explains, 2 wrong usage. It computes nothing itself, and imports heavy libraries only for
the verbs that need them.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from medassist import __version__, access, adapters, catalog
from medassist.config import RunConfig, build_config, parse_assignments, read_layer, to_yaml
from medassist.errors import ConfigError, MedAssistError, UsageError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    _quiet_environment()
    parser = build_parser()
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO if args.verbose else logging.WARNING, stream=sys.stderr,
                        format="%(levelname)s %(name)s: %(message)s")
    if not args.verbose:
        _quiet_libraries()
    try:
        return args.run(args)
    except MedAssistError as error:
        print(f"medassist: {error}", file=sys.stderr)
        return 2 if isinstance(error, (ConfigError, UsageError)) else 1
    except KeyboardInterrupt:
        print("medassist: interrupted.", file=sys.stderr)
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _quiet_environment() -> None:
    for name, value in {"HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1", "TOKENIZERS_PARALLELISM": "false",
                        "GRADIO_ANALYTICS_ENABLED": "False"}.items():
        os.environ.setdefault(name, value)


def _quiet_libraries() -> None:
    """Progress bars and advice of the libraries would mix with ours; their errors still come through."""
    for name, value in {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error",
                        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "BITSANDBYTES_NOWELCOME": "1",
                        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1"}.items():
        os.environ.setdefault(name, value)
    import warnings

    warnings.simplefilter("ignore")
    for name in ("bitsandbytes", "transformers", "trl", "peft", "datasets", "httpx", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)


def build_parser() -> argparse.ArgumentParser:
    """All verbs and their options."""
    parser = argparse.ArgumentParser(prog="python -m medassist", description="Fine-tune, compare and chat with a "
                                     "medical assistant. Education only, not medical advice.")
    parser.add_argument("--version", action="version", version=f"medassist {__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help="also what the libraries log")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    _add_train(verbs)
    _add_data(verbs)
    _add_evaluate(verbs)
    _add_compare(verbs)
    _add_chat(verbs)
    _add_gate(verbs)
    _add_list(verbs)
    _add_module(verbs, "hub", "push, pull and deploy through the Hugging Face Hub", "medassist.hub")
    _add_module(verbs, "bench", "measure this machine and this version", "medassist.bench.main")
    _add_module(verbs, "maintain", "make the files that ship with medassist", "medassist.maintain.main")
    _add_doctor(verbs)
    return parser


def _verb(verbs: Any, name: str, text: str, run: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=text, description=text[:1].upper() + text[1:] + ".")
    parser.add_argument("--json", action="store_true", help="machine-readable lines on standard output")
    parser.set_defaults(run=run)
    return parser


def _add_module(verbs: Any, name: str, text: str, module: str) -> None:
    """A verb whose arguments and work live in a module of their own, imported only when it is asked for."""
    import importlib

    parser = verbs.add_parser(name, help=text, description=text[:1].upper() + text[1:] + ".")
    importlib.import_module(module).add_arguments(parser)
    parser.set_defaults(run=lambda args: importlib.import_module(module).main(args))


# ── settings ────────────────────────────────────────────────────────────────────────────────────────


def _add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--recipe", metavar="NAME", help="start from a recipe (see `list recipes`)")
    parser.add_argument("--config", metavar="FILE", type=Path, help="settings in YAML, such as a run's run.yaml")
    parser.add_argument("--base", metavar="NAME|ID|PATH", help="the base model")
    parser.add_argument("--dataset", metavar="NAME|ID|PATH", action="append", help="a dataset; may be repeated")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], dest="sets",
                        help="any setting, such as train.learning_rate=1e-4")


def config_from_args(args: argparse.Namespace) -> RunConfig:
    """Recipe, then file, then named flags, then --set; later wins.

    Raises:
        ConfigError, UsageError, ModelError, DataError: with every problem of the settings.
    """
    public = access.is_public()
    layers: list[dict[str, Any]] = []
    if args.recipe:
        layers.append(catalog.get_recipe(args.recipe).settings)
    if args.config:
        layers.append(read_layer(args.config))
    flags: dict[str, Any] = {}
    if args.base:
        flags["base"] = {"id": args.base, "revision": None}
    if getattr(args, "name", None):
        flags["name"] = args.name
    if getattr(args, "evaluate", None):
        flags["evaluate"] = {"budget": args.evaluate}
    if args.dataset:
        places = next((layer["datasets"] for layer in reversed(layers) if layer.get("datasets")), [])
        flags["datasets"] = catalog.replace_datasets({"datasets": places}, args.dataset)["datasets"]
    config = build_config(*layers, flags, dotted=parse_assignments(args.sets))
    base = catalog.check_base_id(config.base.id, catalogue_only=public)
    names = [catalog.check_dataset_id(d.id, catalogue_only=public) for d in config.datasets]
    return config.model_copy(update={
        "base": config.base.model_copy(update={"id": base}),
        "datasets": [d.model_copy(update={"id": n}) for d, n in zip(config.datasets, names)]})


# ── train ───────────────────────────────────────────────────────────────────────────────────────────


def _add_train(verbs: Any) -> None:
    parser = _verb(verbs, "train", "fine-tune a base model on datasets", _train)
    _add_settings(parser)
    parser.add_argument("--name", metavar="RUN", help="the run's name; made from dataset and date if left out")
    parser.add_argument("--evaluate", choices=("none", "quick", "full"), help="the comparison after training")
    parser.add_argument("--resume", metavar="RUN", help="go on with a run that was stopped or failed")
    parser.add_argument("--dry-run", action="store_true", help="show the settings that would be used, and stop")
    parser.add_argument("--run-dir", type=Path, help=argparse.SUPPRESS)  # how the page starts its own runs
    parser.add_argument("--go-on", action="store_true", help=argparse.SUPPRESS)


def _train(args: argparse.Namespace) -> int:
    access.require_open("Training")
    from medassist import jobs

    root = adapters.adapters_root()
    if args.run_dir is not None:
        root = args.run_dir.resolve().parent
        run = adapters.load_run(root, args.run_dir.name)
        if run.config is None:
            raise ConfigError([f"The run.yaml of '{run.name}' cannot be read."])
        return _execute(run.config, run.path, args.go_on, args.json)
    jobs.reconcile(root)
    if args.resume:
        if args.recipe or args.config or args.base or args.dataset or args.sets:
            raise UsageError("--resume takes the settings of the run.", "Leave out the other settings.")
        config, folder = jobs.prepare_resume(root, args.resume)
        return _execute(config, folder, True, args.json)
    config = config_from_args(args)
    if args.dry_run:
        print(json.dumps(config.model_dump()) if args.json else to_yaml(config), end="\n" if args.json else "")
        return 0
    if jobs.running(root) is not None:
        from medassist.lock import busy

        raise busy(root)
    config, folder = jobs.create_run(root, config)
    return _execute(config, folder, False, args.json)


def _execute(config: RunConfig, folder: Path, resume: bool, as_json: bool) -> int:
    from medassist import runs
    from medassist.progress import to_json

    asked = {"stop": False}

    def ask(signum: int, frame: Any) -> None:
        if asked["stop"]:  # the second time means at once
            raise KeyboardInterrupt
        asked["stop"] = True

    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, ask)
    show = (lambda e: print(json.dumps(to_json(e), ensure_ascii=False), flush=True)) if as_json else _Lines()
    end = runs.execute(config, folder, show, resume=resume, interrupted=lambda: asked["stop"],
                       catalogue_only=access.is_public())
    if not as_json and int(os.environ.get("RANK", "0")) == 0:
        print(_end_text(end))
    return 0 if end.outcome in ("finished", "stopped") else 1


def _end_text(end: Any) -> str:
    parts = [f"{end.run}: {end.outcome} after {end.steps} steps and {end.elapsed_s:.0f} s."]
    parts += [p for p in (end.reason, end.verdict, end.safety, end.next_step) if p]
    if end.outcome == "finished":
        parts.append(f"Try it: python -m medassist chat --adapter {end.run}")
    return "\n".join(parts)


class _Lines:
    """Events as lines on standard error, steps not more often than every second."""

    def __init__(self) -> None:
        self._last = 0.0

    def __call__(self, event: Any) -> None:
        import time

        from medassist import progress as p

        text = None
        match event:
            case p.Phase():
                text = event.detail or {"training": "Training"}.get(event.phase, event.phase)
            case p.Data():
                splits = ", ".join(f"{n:,} {k}" for k, n in event.splits.items())
                lost = sum(event.dropped.values())
                text = f"  {splits} · {event.train_tokens:,} tokens · {lost:,} rows dropped"
            case p.Plan():
                text = "\n".join(f"  {r}" for r in event.reasons) + f"\n  {event.total_steps} steps of " \
                    f"{event.batch_size} × {event.gradient_accumulation_steps} examples"
            case p.Step() if time.monotonic() - self._last >= 1 or event.step == event.total_steps:
                self._last = time.monotonic()
                text = f"  step {event.step} of {event.total_steps} · loss {event.loss:.3f} · " \
                    f"{event.tokens_per_s:,.0f} tokens/s · about {event.left_s:.0f} s left"
            case p.Eval():
                text = f"  eval {event.when} · loss {event.loss:.3f} · perplexity {event.perplexity:.2f}"
            case p.Notice():
                text = f"  note: {event.message}"
            case p.Evaluating() if time.monotonic() - self._last >= 1 or event.done == event.total:
                self._last = time.monotonic()
                text = f"  {event.what}: {event.done} of {event.total}"
        if text:
            print(text, file=sys.stderr, flush=True)


# ── data ────────────────────────────────────────────────────────────────────────────────────────────


def _add_data(verbs: Any) -> None:
    parser = _verb(verbs, "data", "look at a dataset as it would be trained on, check it, or export it", _data)
    parser.add_argument("action", choices=("preview", "check", "export"))
    _add_settings(parser)
    parser.add_argument("--rows", type=int, default=3, help="training rows to preview (default 3)")
    parser.add_argument("--examples", action="store_true", help="check: also rows that each step changed or dropped")
    parser.add_argument("--out", type=Path, help="folder to export to")
    parser.add_argument("--format", action="append", choices=("jsonl", "csv", "parquet", "disk"),
                        help="what to export; may be repeated (default: all four)")


def _data(args: argparse.Namespace) -> int:
    from medassist.data import export_data, prepare_data
    from medassist.data.export import FORMATS
    from medassist.data.report import report_json, report_text

    if args.action == "export" and args.out is None:
        raise UsageError("--out is missing.", "Name the folder to export to.")
    config = config_from_args(args)
    prepared = prepare_data(config, catalogue_only=access.is_public())
    if args.action == "export":
        for path in export_data(prepared, args.out, tuple(args.format or FORMATS)):
            print(json.dumps({"file": str(path)}) if args.json else path)
        return 0
    if args.action == "check":
        print(json.dumps(report_json(prepared.report, prepared.sha256), ensure_ascii=False) if args.json
              else report_text(prepared.report, examples=args.examples))
        return 0
    return _preview(config, prepared, max(1, min(args.rows, 100)), args.json)


def _preview(config: RunConfig, prepared: Any, rows: int, as_json: bool) -> int:
    """Training rows with the trained text marked, then what the whole split holds in tokens and takes in time."""
    from medassist import preview

    for row in preview.preview_examples(config, prepared, rows):
        print(json.dumps(row.to_json(), ensure_ascii=False) if as_json else row.to_text() + "\n")
    stats = preview.count_tokens(config, prepared)
    estimate = preview.estimate(config, stats)
    if as_json:
        print(json.dumps({"summary": {"tokens": stats.to_json(), "estimate": estimate.to_json(),
                                      "splits": prepared.report.splits, "rows_dropped": prepared.report.dropped}}))
    else:
        print(preview.summary_text(stats, estimate))
    return 0


# ── evaluate, compare, chat, gate ───────────────────────────────────────────────────────────────────


def _add_evaluate(verbs: Any) -> None:
    parser = _verb(verbs, "evaluate", "measure base and fine-tuned on held-out questions, and probe both for safety",
                   _evaluate)
    parser.add_argument("--adapter", metavar="RUN", required=True)
    parser.add_argument("--dataset", metavar="NAME|ID|PATH", action="append", help="other data than the run's own")
    parser.add_argument("--split", choices=("train", "eval", "test"), default="test")
    parser.add_argument("--limit", type=int, metavar="N", help="questions at most (default 64)")


def _evaluate(args: argparse.Namespace) -> int:
    from medassist import evaluation, runs

    if args.limit is not None and args.limit < 1:
        raise UsageError(f"--limit is {args.limit}; it must be at least 1.")
    quick = evaluation.BUDGETS["quick"]
    budget = evaluation.Budget(args.limit or quick.scored, min(args.limit or quick.answered, quick.answered))
    public = access.is_public()
    ids = [catalog.check_dataset_id(d, catalogue_only=public) for d in args.dataset or []]
    report = runs.evaluate_existing(adapters.adapters_root(), _adapter(args.adapter), budget=budget, split=args.split,
                                    dataset_ids=ids, on_event=_Lines())
    if args.json:
        print(json.dumps(report, ensure_ascii=False))
    else:
        print(report["verdict"])
        for name, value in report["metrics"].items():
            print(f"  {name}: {value}")
        print(report["safety"]["verdict"])
    return 0


def _adapter(name: str | None) -> str | None:
    """A run's name; a Hub id is fetched first."""
    if name is None or "/" not in name:
        return name
    from medassist.hub import resolve_adapter

    return resolve_adapter(name, adapters.adapters_root(), catalogue_only=access.is_public())


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--max-new-tokens", type=int, default=160)
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default)")
    parser.add_argument("--top-p", type=float, default=0.9)
    parser.add_argument("--repetition-penalty", type=float, default=1.1)
    parser.add_argument("--seed", type=int, default=42)


def _sampling(args: argparse.Namespace) -> Any:
    from medassist.generation import Sampling

    return Sampling(args.max_new_tokens, args.temperature, args.top_p,
                    repetition_penalty=args.repetition_penalty, seed=args.seed).checked()


def _add_compare(verbs: Any) -> None:
    parser = _verb(verbs, "compare", "base and fine-tuned answers side by side", _compare)
    parser.add_argument("--adapter", metavar="RUN", default="starter")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--question", metavar="TEXT")
    what.add_argument("--held-out", metavar="N", type=int, help="N questions of the test split, with their answers")
    _add_sampling(parser)


def _compare(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    sampling, name = _sampling(args), _adapter(args.adapter)
    assistant = _assistant()
    if args.question is not None:
        questions = [(args.question, None, ())]
    else:
        if args.held_out < 1:
            raise UsageError(f"--held-out is {args.held_out}; it must be at least 1.")
        questions = _held_out(name, args.held_out)
    for question, reference, earlier in questions:
        pair = None
        for pair in assistant.stream_pair(question, adapter=name, sampling=sampling, gate_holds=access.is_public(),
                                          typed=reference is None, earlier=earlier):
            pass
        row = {"question": question, "reference": reference, "base": pair.base.text, "tuned": pair.tuned.text,
               "settings": {**asdict(sampling), "adapter": name}, "gate": pair.decision.route, "refused": pair.refused,
               **({"earlier": earlier} if earlier else {})}
        print(json.dumps(row, ensure_ascii=False) if args.json else _pair_text(row, pair), flush=True)
    return 0


def _pair_text(row: dict[str, Any], pair: Any) -> str:
    from medassist.chat import refusal_text

    lines = [f"{who}    {text}" for exchange in row.get("earlier", ()) for who, text in zip(("Asked:  ", "Answered:"), exchange)]
    lines.append(f"Question:   {row['question']}")
    if row["reference"]:
        lines.append(f"Reference:  {row['reference']}")
    if pair.refused:
        return "\n".join([*lines, refusal_text(pair), ""])
    mark = " (the gate would not answer this in chat)" if row["gate"] == "out_of_scope" else ""
    return "\n".join([*lines, f"Base:       {row['base']}", f"Fine-tuned: {row['tuned']}{mark}", ""])


def _held_out(name: str, count: int) -> list[tuple[str, str, Sequence[tuple[str, str]]]]:
    from medassist import evaluation
    from medassist.data import prepare_data
    from medassist.paths import resolvable

    run = adapters.load_run(adapters.adapters_root(), name)
    if run.config is None:
        raise UsageError(f"'{name}' has no readable run.yaml, so its held-out questions are not known.")
    rows, _ = evaluation.held_out(prepare_data(resolvable(run.config)))
    return [(e.question, e.answer, e.history) for e in rows[:count]]


def _assistant() -> Any:
    from medassist.chat import Assistant
    from medassist.gate import load_gate
    from medassist.generation import Engine

    return Assistant(Engine(adapters.adapters_root()), load_gate())


def _add_chat(verbs: Any) -> None:
    parser = _verb(verbs, "chat", "talk to the medical assistant", _chat)
    parser.add_argument("--adapter", metavar="RUN", default="starter", help="a run, a Hub id, or 'none' for the base")
    parser.add_argument("--question", metavar="TEXT", help="one question; without it a conversation begins")
    parser.add_argument("--strictness", choices=("lenient", "balanced", "strict"), default="balanced", help="of the gate")
    _add_sampling(parser)


def _chat(args: argparse.Namespace) -> int:
    sampling = _sampling(args)
    name = None if args.adapter == "none" else _adapter(args.adapter)
    assistant = _assistant()
    if args.question is not None:
        _turn(assistant, args.question, [], name, sampling, args)
        return 0
    from medassist.safety import STANDING_NOTICE

    print(f"{STANDING_NOTICE}\nAn empty line ends the conversation.", file=sys.stderr)
    history: list[dict[str, str]] = []
    while True:
        try:
            question = input("> " if sys.stdin.isatty() else "").strip()
        except EOFError:
            return 0
        if not question:
            return 0
        text = _turn(assistant, question, history, name, sampling, args)
        history += [{"role": "user", "content": question}, {"role": "assistant", "content": text}]


def _turn(assistant: Any, question: str, history: list[dict[str, str]], name: str | None, sampling: Any,
          args: argparse.Namespace) -> str:
    """One question and its reply, printed as it grows; returns the reply's text."""
    shown, reply = 0, None
    for reply in assistant.stream(question, history, adapter=name, sampling=sampling, strictness=args.strictness):
        if not args.json:
            text = reply.full_text if reply.done else "\n\n".join(p for p in (reply.note, reply.text) if p)
            print(text[shown:], end="", flush=True)
            shown = len(text)
    if args.json:
        print(json.dumps(reply.to_json(), ensure_ascii=False), flush=True)
    else:
        print()
    return reply.text


def _add_gate(verbs: Any) -> None:
    parser = _verb(verbs, "gate", "what the gate decides about a text", _gate)
    parser.add_argument("text", nargs="?", metavar="TEXT")
    parser.add_argument("--file", type=Path, help="a line each; .jsonl: rows with text and optional history")
    parser.add_argument("--strictness", choices=("lenient", "balanced", "strict"), default="balanced")


def _gate(args: argparse.Namespace) -> int:
    from medassist.gate import load_gate

    if (args.text is None) == (args.file is None):
        raise UsageError("Give either a TEXT or --file FILE.")
    gate = load_gate(strictness=args.strictness)
    for text, history in ([(args.text, [])] if args.file is None else _gate_rows(args.file)):
        decision = gate.check(text, history)
        if args.json:
            print(json.dumps({"text": text, **decision.to_json()}, ensure_ascii=False))
        else:
            terms = ", ".join(f"{t.term} {t.weight:+.1f}" for t in decision.matched_terms[:6])
            print(f"{decision.route:<12} {decision.score:+6.2f}  {text[:80]!r}  {terms}")
    return 0


def _gate_rows(path: Path) -> list[tuple[str, list[dict[str, str]]]]:
    """Texts with their histories, one for each line of the file."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}).", "Check the path given to --file.") from None
    if lines and lines[-1] == "":
        lines.pop()
    if path.suffix != ".jsonl":
        return [(line.rstrip("\r"), []) for line in lines]
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            rows.append((str(row["text"]), row.get("history") or []))
        except (ValueError, KeyError, TypeError, RecursionError, AttributeError):
            raise UsageError(f"Line {number} of {path.name} is not a JSON object with a text.") from None
    return rows


# ── list, doctor ────────────────────────────────────────────────────────────────────────────────────


def _add_list(verbs: Any) -> None:
    parser = _verb(verbs, "list", "what can be chosen", _list)
    parser.add_argument("what", choices=("models", "datasets", "recipes", "adapters"))


def _list(args: argparse.Namespace) -> int:
    rows = {"models": _model_rows, "datasets": _dataset_rows, "recipes": _recipe_rows,
            "adapters": _adapter_rows}[args.what]()
    if args.json:
        for row in rows:
            print(json.dumps(row, ensure_ascii=False))
    else:
        _table(rows)
    return 0


def _model_rows() -> list[dict[str, Any]]:
    return [{"name": m.name, "id": m.id, "parameters": m.parameters, "license": m.license, "gated": m.gated,
             "memory_bf16_gb": m.memory_bf16_gb, "memory_4bit_gb": m.memory_4bit_gb} for m in catalog.list_base_models()]


def _dataset_rows() -> list[dict[str, Any]]:
    return [{"name": d.name, "id": d.id, "rows": d.rows, "license": d.license, "kind": d.kind}
            for d in catalog.list_datasets()]


def _recipe_rows() -> list[dict[str, Any]]:
    return [{"name": r.name, "title": r.title} for r in catalog.list_recipes()]


def _adapter_rows() -> list[dict[str, Any]]:
    from medassist import jobs

    root = adapters.adapters_root()
    jobs.reconcile(root)
    return [{"name": r.name, "state": r.state, "base": r.base, "steps": r.result.steps if r.result else None,
             "verdict": r.verdict or (r.result.reason if r.result else "")} for r in adapters.list_runs(root)]


def _table(rows: list[dict[str, Any]]) -> None:
    if not rows:
        print("Nothing here yet.")
        return
    cells = [[str(k) for k in rows[0]]] + [["" if v is None else f"{v:,}" if isinstance(v, int)
                                            and not isinstance(v, bool) else str(v) for v in r.values()] for r in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    for line in cells:
        print("  ".join(c.ljust(w) for c, w in zip(line, widths)).rstrip())


def _add_doctor(verbs: Any) -> None:
    _verb(verbs, "doctor", "what this machine can do, and what it would pick and why", _doctor)


def _doctor(args: argparse.Namespace) -> int:
    from medassist.doctor import diagnose

    report = diagnose()
    if args.json:
        print(json.dumps(report, ensure_ascii=False))
        return 0
    for name, value in report.items():
        if isinstance(value, list):
            print(f"{name}:")
            for line in value:
                print(f"  {line}")
        else:
            print(f"{name}: {value}")
    return 0
