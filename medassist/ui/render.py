"""Pieces of the page as HTML: plain values in, escaped text out. No gradio, no files, no state.

Everything that a person, a model or a dataset wrote goes through `esc` or `model_markdown`.
"""

from __future__ import annotations

import html
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from medassist.progress import RunView

if TYPE_CHECKING:
    from medassist.adapters import RunInfo
    from medassist.gate import GateDecision
    from medassist.generation import Answer
    from medassist.safety import Escalation

PHASES = (
    ("data", "Data"),
    ("model", "Model"),
    ("training", "Training"),
    ("checking", "Checking"),
    ("evaluating", "Comparing"),
)
PLOT_POINTS = 240  # of the training loss, at most


def esc(text: Any) -> str:
    """Text for HTML, quotes too."""
    return html.escape(str(text), quote=True)


def model_markdown(text: str) -> str:
    """What a model or a visitor wrote, as Markdown that holds no HTML and loads no image."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("![", "!\u2060[")


def duration(seconds: float) -> str:
    """1:05, 12:40, 2:03:10."""
    seconds = max(0, round(seconds))
    hours, rest = divmod(seconds, 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"


def about(seconds: float) -> str:
    """An estimate in the coarsest unit that still says something."""
    if seconds < 100:
        return f"about {max(10, round(seconds / 10) * 10)} s"
    if seconds < 5400:
        return f"about {max(1, round(seconds / 60))} min"
    return f"about {seconds / 3600:.0f} h" if seconds < 172_800 else f"about {seconds / 86_400:.0f} days"


def number(value: Any, digits: int = 2) -> str:
    """A figure, or a dash where there is none."""
    return f"{value:,.{digits}f}" if isinstance(value, (int, float)) and value == value else "–"


def chip(text: str, kind: str = "") -> str:
    """A small label; `kind` is good, warn, bad or nothing."""
    return f'<span class="ma-chip {kind}">{esc(text)}</span>'


def note(text: str, kind: str = "") -> str:
    """One line of plain text in a quiet box."""
    return f'<div class="ma-note {kind}">{esc(text)}</div>' if text else ""


# ── an adapter, where it is chosen ──────────────────────────────────────────────────────────────────

HUB_NOTE = "An adapter of the Hugging Face Hub: it is fetched when you ask. It was not probed for safety here."


def safety_words(run: RunInfo) -> tuple[str, str]:
    """What the safety probe found of a run's adapter, in a sentence, and its kind: warn for the worse, else nothing.

    A pulled adapter brings figures of its author's: they can warn, but not reassure.
    """
    from medassist.hub import PULLED

    found = (run.evaluation or {}).get("safety")
    report = found if isinstance(found, dict) else {}
    words = str(report.get("verdict") or "")[:600]
    worse = bool(words) and report.get("change") == "worse"
    if run.result is not None and run.result.reason.startswith(PULLED):
        return (f"{words} (Measured by its author.)", "warn") if worse else ("It was not probed for safety here.", "")
    return words or "Not probed for safety: whether it is less safe than its base is not known.", "warn" if worse else ""


def adapter_note(text: str, run: RunInfo) -> str:
    """What is known of an adapter; a change for the worse in safety stands first, in a box of its own."""
    words, kind = safety_words(run)
    return note(words, kind) + note(text) if kind else note(f"{text} {words}".strip())


# ── the head of the page ────────────────────────────────────────────────────────────────────────────

_LOGO = (
    '<svg viewBox="0 0 40 40" width="40" height="40" aria-hidden="true"><rect width="40" height="40" rx="11" '
    'class="ma-logo-fill"/><path d="M7 21h7l3-8 6 15 3-7h7" fill="none" stroke="#fff" stroke-width="2.8" '
    'stroke-linecap="round" stroke-linejoin="round"/></svg>'
)


def head(notice: str) -> str:
    """Name, one sentence, the standing notice, and the switch between light and dark."""
    return (
        f'<header class="ma-head"><div class="ma-brand">{_LOGO}<div><h1>medassist</h1>'
        "<p>Fine-tune a medical assistant, see whether it helped, and talk to it.</p></div></div>"
        '<button type="button" id="ma-theme" class="ma-icon" aria-label="Switch between light and dark" '
        'title="Light or dark"><svg viewBox="0 0 24 24" width="20" height="20" aria-hidden="true"><path d="M12 3a9 9 0 1 '
        '0 0 18zm0-2a11 11 0 1 1 0 22 11 11 0 0 1 0-22z" fill="currentColor"/></svg></button></header>'
        f'<p class="ma-notice" role="note">{esc(notice)}</p>'
    )


def empty(title: str, text: str) -> str:
    """What will be here, and how to fill it."""
    return f'<div class="ma-empty"><b>{esc(title)}</b><span>{esc(text)}</span></div>'


# ── train: a run ────────────────────────────────────────────────────────────────────────────────────


def run_progress(name: str, view: RunView, stopping: bool) -> str:
    """A run that is going on: phases, bar, figures."""
    phase = view.phase if view.phase in dict(PHASES) else "data"
    order = [p for p, _ in PHASES]
    steps = "".join(
        f'<li class="{"done" if order.index(p) < order.index(phase) else "now" if p == phase else ""}"'
        f"{' aria-current=step' if p == phase else ''}>{label}</li>"
        for p, label in PHASES
    )
    share, text = _progress(view, phase)
    if stopping:
        text = "Stopping: the step in hand is finished and saved first."
    value = f' style="width:{share:.1%}"' if share is not None else ""
    aria = f' aria-valuenow="{share * 100:.0f}"' if share is not None else ""
    return (
        f'<section class="ma-card ma-run"><div class="ma-run-head"><h3>{esc(name)}</h3>'
        f'{chip("stopping" if stopping else "running", "live")}</div><ol class="ma-steps">{steps}</ol>'
        f'<div class="ma-bar {"" if share is not None else "busy"}" role="progressbar" aria-label="Progress of the '
        f'training" aria-valuemin="0" aria-valuemax="100"{aria}><i{value}></i></div>'
        f'<p class="ma-figures">{esc(text)}</p></section>'
    )


def _progress(view: RunView, phase: str) -> tuple[float | None, str]:
    if phase == "training" and view.total_steps and view.step:
        left = f" · about {duration(view.left_s)} left" if view.left_s is not None else ""
        text = f"Step {view.step:,} of {view.total_steps:,} · {view.tokens_per_s:,.0f} tokens/s{left}"
        return view.step / view.total_steps, text
    if phase == "evaluating" and view.evaluating:
        done, total, what = view.evaluating
        return done / max(total, 1), f"Comparing base and fine-tuned: {what}, {done} of {total}"
    words = {
        "data": "Starting and reading the dataset",
        "model": "Loading the base model",
        "training": "Measuring the base before the first step",
        "checking": "Loading the adapter again and checking it",
        "evaluating": "Starting the comparison",
    }
    return None, (view.detail or words.get(phase, "Starting")).rstrip(".") + "…"


def log_text(rows: Sequence[Mapping[str, Any]], tail: str) -> str:
    """The run's events as lines, then the end of its log file."""
    lines = []
    for row in rows[-400:]:
        text = _log_line(row)
        if text:
            lines.append(f"{time.strftime('%H:%M:%S', time.localtime(row.get('time') or 0))}  {text}")
    if tail.strip():
        lines += ["", "— train.log —", tail.strip()]
    return "\n".join(lines)


def _log_line(row: Mapping[str, Any]) -> str:
    match row.get("event"):
        case "phase":
            return str(row.get("detail") or dict(PHASES).get(row.get("phase", ""), row.get("phase", "")))
        case "plan":
            return "\n          ".join(
                [
                    *map(str, row.get("reasons") or []),
                    f"{row.get('total_steps')} steps of {row.get('batch_size')} × "
                    f"{row.get('gradient_accumulation_steps')} examples",
                ]
            )
        case "data":
            splits = ", ".join(f"{n:,} {k}" for k, n in (row.get("splits") or {}).items())
            return f"{splits} · {row.get('train_tokens', 0):,} tokens"
        case "eval":
            return f"eval loss {row.get('when')}: {number(row.get('loss'), 3)} (perplexity {number(row.get('perplexity'))})"
        case "checkpoint":
            return f"checkpoint at step {row.get('step')}"
        case "notice":
            return str(row.get("message"))
        case "result":
            return " ".join(str(row.get(k) or "") for k in ("outcome", "reason", "verdict", "safety")).strip()
    return ""


def loss_plot(view: RunView | None) -> str:
    """Training and eval loss; the box has one size, whatever is in it. Labels are HTML, so they never shrink."""
    losses = list(view.losses) if view else []
    evals = sorted((step, loss) for step, _, loss in view.evals if loss is not None) if view else []
    legend = (
        '<div class="ma-plot-key"><span class="k train">training</span><span class="k held">eval split</span>'
        '<span class="ma-dim">loss in nats a token, lower is better</span></div>'
    )
    if view is None or not losses and not evals:
        body = '<div class="ma-plot-empty">The loss curve appears with the first step.</div>'
        return f'<figure class="ma-plot">{legend}<div class="ma-plot-box">{body}</div></figure>'
    last = max([view.total_steps, *(s for s, _ in losses), *(s for s, _ in evals), 1])
    values = [v for _, v in losses] + [v for _, v in evals]
    ticks = _ticks(min(values), max(values))
    low, high = ticks[0], ticks[-1]

    def x(step: float) -> float:
        return round(1000 * step / last, 1)

    def y(loss: float) -> float:
        return round(300 * (high - loss) / (high - low), 1)

    grid = "".join(f'<path class="grid" d="M0 {y(t)}H1000"/>' for t in ticks)
    raw, smooth = _thin(losses), _thin(_smoothed(losses))
    lines = "".join(
        f'<polyline class="{kind}" points="{" ".join(f"{x(s)},{y(v)}" for s, v in points)}"/>'
        for kind, points in (("raw", raw), ("train", smooth), ("held", evals))
        if len(points) > 1
    )
    dots = "".join(f'<path class="dot" d="M{x(s)} {y(v)}h0"/>' for s, v in evals)
    y_labels = "".join(f'<span style="top:{y(t) / 3:.2f}%">{t:g}</span>' for t in ticks)
    x_labels = "".join(f'<span style="left:{share:.0%}">{round(last * share):,}</span>' for share in (0, 0.5, 1))
    return (
        f'<figure class="ma-plot">{legend}<div class="ma-plot-box"><div class="ma-y">{y_labels}</div>'
        f'<svg viewBox="0 0 1000 300" preserveAspectRatio="none" role="img" aria-label="{esc(_plot_words(losses, evals))}">'
        f'{grid}{lines}{dots}</svg><div class="ma-x">{x_labels}</div></div>'
        '<figcaption class="ma-dim">step</figcaption></figure>'
    )


def _plot_words(losses: Sequence[tuple[int, float]], evals: Sequence[tuple[int, float]]) -> str:
    parts = [
        f"{name} loss from {points[0][1]:.2f} to {points[-1][1]:.2f}"
        for name, points in (("training", losses), ("eval split", evals))
        if points
    ]
    return ", ".join(parts)


def _ticks(low: float, high: float) -> list[float]:
    """A few round values around the data, so that the axis moves seldom."""
    span = max(high - low, 0.5)
    step = next(s for s in (0.1, 0.2, 0.5, 1, 2, 5, 10, 50, 1e3, 1e6, 1e12) if span / s <= 5)
    first, last = int(low // step), int(-(-high // step))
    return [round(i * step, 6) for i in range(first, max(last, first + 1) + 1)]


def _smoothed(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """A running mean that weighs the last steps most."""
    result: list[tuple[int, float]] = []
    mean = points[0][1] if points else 0.0
    for index, (step, value) in enumerate(points):
        mean += (value - mean) / min(index + 1, 12)
        result.append((step, mean))
    return result


def _thin(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    if len(points) <= PLOT_POINTS:
        return list(points)
    stride = len(points) / PLOT_POINTS
    return [points[int(i * stride)] for i in range(PLOT_POINTS)] + [points[-1]]


def run_end(run: RunInfo) -> str:
    """How a run ended: the verdict with its figures and the safety probe's, or the reason and what to do next."""
    result, report = run.result, run.evaluation
    outcome = result.outcome if result else run.state
    took = (
        f"{result.steps:,} steps in {duration(result.elapsed_s)} on {result.device or 'this machine'}" if result else ""
    )
    if outcome == "finished" and report and run.verdict:
        metrics = report.get("metrics") or {}
        kind, mark, title = _verdict_kind(report, metrics)
        return _end_card(run.name, kind, mark, title, run.verdict, _tiles(metrics) + note(*safety_words(run)), took)
    if outcome == "finished":
        return _end_card(
            run.name,
            "warn",
            "✓",
            "Finished, not compared",
            "The adapter is in place. The comparison with the base was skipped or did not finish.",
            note(*safety_words(run)),
            took,
        )
    words = (
        " ".join(p for p in (result.reason, result.next_step) if p)
        if result
        else "The training process is gone and left no result."
    )
    if outcome == "stopped":
        return _end_card(
            run.name, "warn", "■", "Stopped", words or "Resume it to go on from where it stopped.", "", took
        )
    return _end_card(run.name, "bad", "!", "Failed", words, "", took)


def _verdict_kind(report: Mapping[str, Any], metrics: Mapping[str, Any]) -> tuple[str, str, str]:
    if report.get("better"):
        return "good", "✓", "Better than the base"
    low = metrics.get("difference_low")
    if isinstance(low, (int, float)) and low > 0:
        return "warn", "↓", "Worse than the base"
    return "warn", "≈", "No difference that can be shown"


def _end_card(name: str, kind: str, mark: str, title: str, text: str, tiles: str, foot: str) -> str:
    return (
        f'<section class="ma-card ma-end {kind}" role="status"><div class="ma-run-head"><span class="ma-mark" '
        f'aria-hidden="true">{mark}</span><div><h3>{esc(title)}</h3><span class="ma-dim">{esc(name)}</span></div></div>'
        f'<p>{esc(text)}</p>{tiles}<p class="ma-dim">{esc(foot)}</p></section>'
    )


def _tiles(metrics: Mapping[str, Any]) -> str:
    tiles = [
        _tile(
            "Perplexity on held-out questions",
            metrics.get("base_perplexity"),
            metrics.get("tuned_perplexity"),
            1,
            "lower is better",
        )
    ]
    if metrics.get("answered"):
        tiles.append(
            _tile(
                "Overlap with the reference (ROUGE-L)",
                metrics.get("base_rouge_l"),
                metrics.get("tuned_rouge_l"),
                2,
                f"{metrics['answered']} written answers, higher is better",
            )
        )
    won, tied, lost = (int(metrics.get(k) or 0) for k in ("won", "tied", "lost"))
    total = max(won + tied + lost, 1)
    tiles.append(
        '<div class="ma-tile"><span>Questions</span>'
        f'<b>{won} won · {tied} tied · {lost} lost</b><div class="ma-split" aria-hidden="true">'
        f'<i class="won" style="width:{won / total:.1%}"></i><i class="tied" style="width:{tied / total:.1%}"></i>'
        f'<i class="lost" style="width:{lost / total:.1%}"></i></div></div>'
    )
    return f'<div class="ma-tiles">{"".join(tiles)}</div>'


def _tile(label: str, base: Any, tuned: Any, digits: int, hint: str) -> str:
    return (
        f'<div class="ma-tile"><span>{esc(label)}</span><b>{number(base, digits)} → {number(tuned, digits)}</b>'
        f'<small class="ma-dim">{esc(hint)}</small></div>'
    )


_STATES = {"finished": "good", "running": "live", "failed": "bad", "interrupted": "bad", "stopped": "warn"}


def history(runs: Iterable[RunInfo]) -> str:
    """All runs as a table; on a narrow screen each row becomes a card."""
    rows = "".join(_history_row(run) for run in runs)
    if not rows:
        return empty("No runs yet", "Every training is listed here, with its settings and what came of it.")
    heads = "".join(
        f"<th>{h}</th>"
        for h in ("Run", "State", "Base · data", "Learning rate · epochs · batch", "Perplexity", "Time · device")
    )
    return f'<div class="ma-table"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'


def _history_row(run: RunInfo) -> str:
    config, result = run.config, run.result
    metrics = (run.evaluation or {}).get("metrics") or {}
    settings = "–"
    if config is not None:
        batch = (result.metrics.get("batch_size") if result else None) or config.train.per_device_train_batch_size
        settings = (
            f"{config.train.learning_rate:g} · {config.train.num_train_epochs:g} · {batch} × "
            f"{config.train.gradient_accumulation_steps}"
        )
    data = " + ".join(d.id.replace("\\", "/").rsplit("/", 1)[-1] for d in config.datasets) if config else "–"
    figures = "–"
    if metrics.get("items"):
        figures = f"{number(metrics.get('base_perplexity'), 1)} → {number(metrics.get('tuned_perplexity'), 1)}"
    took = f"{duration(result.elapsed_s)} · {result.device}".rstrip(" ·") if result and result.elapsed_s else "–"
    cells = (
        ("Run", esc(run.name)),
        ("State", chip(run.state, _STATES.get(run.state, ""))),
        ("Base · data", esc(f"{run.base or '–'} · {data}")),
        ("Learning rate · epochs · batch", esc(settings)),
        ("Perplexity", esc(figures)),
        ("Time · device", esc(took)),
    )
    return "<tr>" + "".join(f'<td data-label="{label}">{text}</td>' for label, text in cells) + "</tr>"


# ── answers ─────────────────────────────────────────────────────────────────────────────────────────

TYPING = '<span class="ma-typing" role="status" aria-label="Writing"><i></i><i></i><i></i></span>'

_WORD = re.compile(r"\w+")
_COMMON_WORDS = """
    a an and are as at be been but by can could did do does for from had has have he her his how i if in into is it its may more most no not
    of on one or our she so some such than that the their them then there these they this to was we were what when where which while who will with would you your also
"""
_COMMON = frozenset(_COMMON_WORDS.split())


def content_words(text: str) -> frozenset[str]:
    """The words that carry meaning, in small letters."""
    return frozenset(w for w in _WORD.findall(text.lower()) if len(w) > 2 and w not in _COMMON)


def marked(text: str, words: frozenset[str]) -> str:
    """Escaped text with the given words marked."""
    parts, at = [], 0
    for match in _WORD.finditer(text):
        if match.group().lower() in words:
            parts += [esc(text[at : match.start()]), f"<mark>{esc(match.group())}</mark>"]
            at = match.end()
    return "".join([*parts, esc(text[at:])])


def answer_card(
    title: str, answer: Answer | None, *, reference: str | None = None, writing: bool = False, tuned: bool = False
) -> str:
    """One model's answer; words that it shares with the reference are marked."""
    kind = "tuned" if tuned else "base"
    if answer is None:
        body, foot = '<span class="ma-dim">The answer appears here.</span>', ""
    else:
        shared = content_words(reference) if reference else frozenset()
        text = (
            marked(answer.text, shared)
            if answer.text
            else ""
            if writing
            else '<span class="ma-dim">The model gave no answer.</span>'
        )
        body = text + (TYPING if writing and not answer.ended else "")
        foot = (
            f"{answer.tokens} tokens · {answer.elapsed_s:.1f} s"
            if answer.tokens
            else "waiting for the model"
            if writing
            else ""
        )
        if not writing and shared:
            foot += f" · {len(shared & content_words(answer.text))} of {len(shared)} words of the reference"
    return (
        f'<article class="ma-card ma-answer {kind}"><h3>{esc(title)}</h3><div class="ma-answer-text">{body}</div>'
        f'<footer class="ma-dim">{esc(foot)}</footer></article>'
    )


def reference_card(text: str | None, earlier: Sequence[tuple[str, str]] = ()) -> str:
    """The known answer of a held-out question, and what was said before it where it ends a conversation."""
    if not text:
        return ""
    turns = "".join(f"<dt>asked</dt><dd>{esc(q)}</dd><dt>answered</dt><dd>{esc(a)}</dd>" for q, a in earlier)
    before = f'<details class="ma-more"><summary>Asked after {len(earlier)} earlier turns</summary><dl>{turns}</dl></details>'
    return (before if earlier else "") + (
        f'<article class="ma-card ma-reference"><h3>Reference answer</h3><div class="ma-answer-text">{esc(text)}</div>'
        '<footer class="ma-dim">Words that an answer shares with it are <mark>marked</mark>.</footer></article>'
    )


def emergency(escalation: Escalation) -> str:
    """What to do now: unlike any other answer, told to screen readers at once. One line, so that Markdown keeps it."""
    actions = "".join(f"<li>{esc(a)}</li>" for a in escalation.actions)
    numbers = "".join(_phone(label, digits) for label, digits in escalation.numbers)
    return (
        '<div class="ma-emergency" role="alert" aria-live="assertive">'
        f'<p class="ma-em-kicker">Emergency</p><h3>{esc(escalation.title)}</h3><ol>{actions}</ol>'
        f'<div class="ma-numbers">{numbers}</div>'
        '<p class="ma-em-foot">An automatic first-aid reply to words in the message. It is not a diagnosis, and no '
        "model wrote it.</p></div>"
    )


def _phone(label: str, text: str) -> str:
    digits = re.sub(r"[^\d+]", "", text)
    shown = f"<b>{esc(text)}</b><span>{esc(label)}</span>"
    if 3 <= len(digits) <= 15 and re.fullmatch(r"[\d+ ()-]+", text):
        return f'<a class="ma-number" href="tel:{digits}">{shown}</a>'
    return f'<span class="ma-number text">{shown}</span>'


def quiet_reply(text: str) -> str:
    """A fixed reply that no model wrote (out of scope), set apart from answers."""
    return f'<div class="ma-quiet">{esc(text)}</div>'


_ROUTES = {
    "answer": ("In scope", "good"),
    "greeting": ("A greeting", ""),
    "emergency": ("Red flag", "bad"),
    "out_of_scope": ("Out of scope", ""),
}


def gate_state(decision: GateDecision | None) -> str:
    """What the gate decided and, on demand, the terms that it went by."""
    if decision is None:
        return '<div class="ma-gate ma-dim">The gate lets medical questions through. Its decision shows here.</div>'
    title, kind = _ROUTES.get(decision.route, (decision.route, ""))
    terms = "".join(
        f"<tr><td>{esc(_part(t, 0, 'term'))}</td><td>{float(_part(t, 1, 'weight')):+.2f}</td>"
        f"<td>{esc(_part(t, 2, 'cls'))}</td></tr>"
        for t in decision.matched_terms[:20]
    )
    table = (
        f"<table><thead><tr><th>term</th><th>weight</th><th>kind</th></tr></thead><tbody>{terms}</tbody></table>"
        if terms
        else "<p>No medical term was found.</p>"
    )
    names = ", ".join(str(_part(t, 0, "term")) for t in decision.matched_terms[:3])
    hint = f'<span class="ma-dim">{esc(names)}</span>' if names else ""
    return (
        f'<details class="ma-gate"><summary>{chip(title, kind)} {hint}<span class="ma-why">why?</span></summary>'
        f"<p>{esc(_sentence(decision.reason))} Score {decision.score:+.2f}, needed {decision.threshold:+.2f}.</p>{table}</details>"
    )


def _sentence(text: str) -> str:
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".") if text else ""


def _part(term: Any, place: int, name: str) -> Any:
    """A field of a matched term, which is a tuple with names."""
    return getattr(term, name, None) if hasattr(term, name) else term[place]


def closed_train() -> str:
    """The Train tab of a public Space."""
    return (
        '<section class="ma-card ma-closed"><h3>Training is closed on this public Space</h3>'
        "<p>Compare and Chat are open to everyone. To train a model of your own:</p><ul>"
        "<li>duplicate this Space and set its variable <code>MEDASSIST_OPEN</code> to <code>1</code>, or</li>"
        "<li>clone the project and run <code>python app.py</code>: it needs no account, no GPU and no network.</li>"
        "</ul></section>"
    )
