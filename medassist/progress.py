"""What a run reports while it goes: typed events, one JSON object a line in `progress.jsonl`.

The training process appends; everybody else only reads. `RunView` folds the events into what a
page or a terminal shows. This module knows nothing about models, datasets or processes.

    tail -f adapters/<run>/progress.jsonl
"""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar


@dataclass(frozen=True)
class Event:
    """Base of all events; `kind` is what stands under "event" in the file."""

    kind: ClassVar[str] = "event"


@dataclass(frozen=True)
class Phase(Event):
    """The run has entered a phase: queued, data, model, training, checking, evaluating, ended."""

    kind: ClassVar[str] = "phase"
    phase: str
    detail: str = ""


@dataclass(frozen=True)
class Plan(Event):
    """What the program decided by itself, each with its reason."""

    kind: ClassVar[str] = "plan"
    device: str
    dtype: str
    attention: str
    batch_size: int
    gradient_accumulation_steps: int
    gradient_checkpointing: bool
    total_steps: int
    reasons: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Data(Event):
    """The data as it will be trained on: rows in each split, rows dropped by reason, tokens."""

    kind: ClassVar[str] = "data"
    splits: dict[str, int]
    dropped: dict[str, int]
    dataset_sha256: str
    train_tokens: int = 0
    answer_tokens: int = 0
    cut: int = 0


@dataclass(frozen=True)
class Step(Event):
    """One or more optimiser steps; loss is the mean over the answer tokens since the last event."""

    kind: ClassVar[str] = "step"
    step: int
    total_steps: int
    epoch: float
    loss: float
    learning_rate: float
    grad_norm: float | None
    tokens_per_s: float
    elapsed_s: float
    left_s: float


@dataclass(frozen=True)
class Eval(Event):
    """Loss on the answers of the eval split, in nats a token; `when` is before, during or after."""

    kind: ClassVar[str] = "eval"
    step: int
    when: str
    loss: float
    perplexity: float
    examples: int
    tokens: int


@dataclass(frozen=True)
class Checkpoint(Event):
    """A checkpoint was sealed."""

    kind: ClassVar[str] = "checkpoint"
    step: int


@dataclass(frozen=True)
class Notice(Event):
    """Something worth knowing that does not end the run."""

    kind: ClassVar[str] = "notice"
    message: str


@dataclass(frozen=True)
class Evaluating(Event):
    """How far a comparison of base and fine-tuned has come."""

    kind: ClassVar[str] = "evaluating"
    done: int
    total: int
    what: str


@dataclass(frozen=True)
class Result(Event):
    """The end of a run; the same facts as in `result.json`, and the verdicts where there are any."""

    kind: ClassVar[str] = "result"
    run: str
    outcome: str
    reason: str = ""
    next_step: str = ""
    steps: int = 0
    elapsed_s: float = 0.0
    metrics: dict[str, Any] = field(default_factory=dict)
    verdict: str = ""
    safety: str = ""  # what the safety probe says


_KINDS = {cls.kind: cls for cls in (Phase, Plan, Data, Step, Eval, Checkpoint, Notice, Evaluating, Result)}


def to_json(event: Event, now: float | None = None) -> dict[str, Any]:
    """An event as a plain dict; numbers that are not finite become null, so that it stays JSON."""
    row = {"event": event.kind, "time": round(time.time() if now is None else now, 3), **asdict(event)}
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}


def from_json(row: dict[str, Any]) -> Event | None:
    """The event in a row, or None for a kind or shape of another version."""
    cls = _KINDS.get(row.get("event", ""))
    if cls is None:
        return None
    known = {f.name for f in fields(cls)}
    try:
        return cls(**{k: v for k, v in row.items() if k in known})
    except TypeError:
        return None


class ProgressWriter:
    """Appends events to a file, each with one write, so that readers meet whole lines but for the last."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, event: Event) -> None:
        line = json.dumps(to_json(event), ensure_ascii=False) + "\n"
        try:
            handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                os.write(handle, line.encode("utf-8"))
            finally:
                os.close(handle)
        except OSError:
            # A full disk must not end a run that is otherwise fine; the next event tries again.
            return

    __call__ = write


def read_rows(path: Path, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
    """Rows from byte `offset` on, and the offset behind the last whole line. A missing file has none."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            chunk = file.read()
    except OSError:
        return [], offset
    end = chunk.rfind(b"\n") + 1
    rows = []
    for line in chunk[:end].splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue  # a line torn by a crash
        if isinstance(row, dict):
            rows.append(row)
    return rows, offset + end


@dataclass
class RunView:
    """What the events of a run add up to."""

    phase: str = ""
    detail: str = ""
    step: int = 0
    total_steps: int = 0
    tokens_per_s: float = 0.0
    elapsed_s: float = 0.0
    left_s: float | None = None
    plan: Plan | None = None
    data: Data | None = None
    losses: list[tuple[int, float]] = field(default_factory=list)  # (step, nats a token)
    evals: list[tuple[int, str, float]] = field(default_factory=list)  # (step, when, nats a token)
    notices: list[str] = field(default_factory=list)
    evaluating: tuple[int, int, str] | None = None
    result: Result | None = None
    started_at: float | None = None
    updated_at: float | None = None

    def add(self, row: dict[str, Any]) -> None:
        """Takes in one row of the file."""
        event = from_json(row)
        if event is None:
            return
        self.updated_at = row.get("time", self.updated_at)
        if self.started_at is None:
            self.started_at = self.updated_at
        match event:
            case Phase():
                self.phase, self.detail = event.phase, event.detail
                self.evaluating = None
                if event.phase == "data":  # a resumed run starts over here
                    self.result = None
            case Plan():
                self.plan, self.total_steps = event, event.total_steps
            case Data():
                self.data = event
            case Step():
                self._add_step(event)
            case Eval():
                self.evals = [e for e in self.evals if e[0] < event.step or e[1] == "before"]
                self.evals.append((event.step, event.when, event.loss))
            case Notice():
                self.notices.append(event.message)
            case Evaluating():
                self.evaluating = (event.done, event.total, event.what)
            case Result():
                self.result, self.phase = event, "ended"

    def _add_step(self, event: Step) -> None:
        self.step, self.total_steps = event.step, event.total_steps
        self.tokens_per_s, self.elapsed_s, self.left_s = event.tokens_per_s, event.elapsed_s, event.left_s
        if event.loss is not None:
            # After a resume from an earlier checkpoint the steps run again: the newer value counts.
            while self.losses and self.losses[-1][0] >= event.step:
                self.losses.pop()
            self.losses.append((event.step, event.loss))


def load_view(path: Path) -> RunView:
    """The view of a whole `progress.jsonl`."""
    view = RunView()
    for row in read_rows(path)[0]:
        view.add(row)
    return view
