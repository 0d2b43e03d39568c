"""The preview panel of the Train tab as HTML: facts, token lengths, one example, cleaning, rows before and after.

Plain values in, escaped text out, personal data covered. No gradio, no files, no state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from medassist.config import CLEANING_STEPS
from medassist.data.personal import mask_personal
from medassist.data.report import confidence_words, shape_words
from medassist.ui.render import about, chip, empty, esc, note

if TYPE_CHECKING:
    from medassist.data import DataReport, Example, PreparedData, SourceReport
    from medassist.data.shapes import CleaningExample, StepReport
    from medassist.preview import Estimate, RenderedExample, TokenStats

_CELL = 280  # characters of a cell that are shown
_COLUMNS = 10


def facts(prepared: PreparedData, stats: TokenStats | None, estimate: Estimate | None) -> str:
    """What needs attention first, then rows, tokens and time, licence, columns."""
    report = prepared.report
    splits, read = report.splits, sum(s.rows_read for s in report.sources)
    used = sum(splits.values())
    lines = [f"<b>{used:,}</b> of {read:,} rows are used: <b>{splits.get('train', 0):,}</b> to learn from, "
             f"{splits.get('eval', 0):,} to watch, {splits.get('test', 0):,} held out for the comparison."]
    if stats is not None:
        lines.append(_token_words(stats))
    if estimate is not None:
        time = f", {about(estimate.seconds)} on this machine" if estimate.seconds else ""
        lines.append(f"{estimate.steps:,} steps{time}.")
    lines += [_source_words(source) for source in report.sources]
    if report.topics:
        lines.append(f"{report.topics:,} topics are named.")
    lines += [_overlap_words(overlap) for overlap in report.overlaps]
    lines += [esc(n) for n in report.notes[:6]]
    return _warnings(report, stats) + '<ul class="ma-facts">' + "".join(f"<li>{line}</li>" for line in lines) + "</ul>"


def _token_words(stats: TokenStats) -> str:
    cut = f"{stats.cut_share:.0%} of the answers are cut at {stats.max_length} tokens" if stats.cut else "no answer is cut"
    return f"About {stats.tokens:,} tokens, {stats.trained:,} of them answers to learn; {cut}."


def _source_words(source: SourceReport) -> str:
    columns = ", ".join(f"{esc(role)} from “{esc(column)}”" for role, column in source.columns.items() if role != column)
    return (f"{esc(source.title)} · licence: {esc(source.licence or 'not stated')} · read as {shape_words(source.mapping_kind)}"
            f" · columns: {esc(confidence_words(source.confidence))}" + (f" · {columns}" if columns else ""))


def _overlap_words(overlap: Any) -> str:
    return (f"{overlap.found:,} of {overlap.questions:,} questions of {esc(overlap.benchmark)} stand in the training rows.")


def _warnings(report: DataReport, stats: TokenStats | None) -> str:
    found = []
    if stats is not None and stats.warning:
        found.append(note(stats.warning, "warn"))
    if stats is not None and stats.template_note:
        found.append(note(stats.template_note, "warn"))
    doubtful = [s.title for s in report.sources if s.confidence < 0.6]
    if doubtful:
        found.append(note(f"Which column is which in {', '.join(doubtful)} is a guess: look at the example, and choose "
                          "another reading above it if it is wrong.", "warn"))
    leaked = [o for o in report.overlaps if o.found]
    if leaked:
        found.append(note(f"Exam questions stand in the training data ({leaked[0].benchmark}): a score on that exam would "
                          "say little.", "warn"))
    if report.personal:
        said = ", ".join(f"{n:,} with a likely {kind}" for kind, n in report.personal.items())
        found.append(note(f"Rows with personal data: {said}. They are covered here; the step “Rows with personal data” "
                          "under All settings, Data drops them.", "warn"))
    return "".join(found)


# ── token lengths ────────────────────────────────────────────────────────────────────────────────────


def histogram(stats: TokenStats) -> str:
    """Lengths of the training examples in tokens, the limit marked: what stands right of it is cut."""
    top = max((count for _, count in stats.histogram), default=0)
    if not top:
        return ""
    width, height, base = 560, 120, 96
    step = width / len(stats.histogram)
    bars = []
    for place, (bound, count) in enumerate(stats.histogram):
        tall = max(1.5 if count else 0, 84 * count / top)
        over = bound > stats.max_length
        low = stats.histogram[place - 1][0] + 1 if place else 0
        bars.append(f'<rect x="{place * step + 2:.1f}" y="{base - tall:.1f}" width="{step - 4:.1f}" height="{tall:.1f}" rx="2" '
                    f'class="{"over" if over else "in"}"><title>{low:,} to {bound:,} tokens: {count:,}</title></rect>')
    inside = sum(bound <= stats.max_length for bound, _ in stats.histogram)
    at = inside * step
    marks = (f'<line x1="{at:.1f}" x2="{at:.1f}" y1="4" y2="{base}" class="limit"/>'
             f'<text x="{at + 5:.1f}" y="14" class="limit-text">limit {stats.max_length:,}</text>'
             f'<text x="0" y="{base + 16}">0</text><text x="{width}" y="{base + 16}" text-anchor="end">longest {stats.longest:,}</text>')
    said = (f"half have at most {stats.median:,.0f} tokens, 19 in 20 at most {stats.p95:,}, the longest {stats.longest:,}")
    return (f'<figure class="ma-hist"><figcaption>Length of the examples: {said}</figcaption>'
            f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="Histogram of example lengths: {said}; limit '
            f'{stats.max_length:,}">{"".join(bars)}{marks}</svg></figure>')


# ── one example ──────────────────────────────────────────────────────────────────────────────────────


def example(row: RenderedExample) -> str:
    """One example as the model reads it, what it is trained to write marked."""
    cut = chip("cut", "warn") if row.cut else ""
    text = "".join(f"<mark>{esc(part)}</mark>" if trained else esc(part) for part, trained in row.segments)
    turns = sum(trained for _, trained in row.segments)
    many = chip(f"{turns} answers") if turns > 1 else ""
    return ('<div class="ma-example"><p class="ma-legend"><span>reads</span> <mark>learns to write</mark> '
            f'<span class="ma-dim">{row.tokens} tokens, {row.trained_tokens} trained</span> {many}{cut}</p>'
            f"<pre>{text}</pre></div>")


# ── what cleaning did ────────────────────────────────────────────────────────────────────────────────


def cleaning_title(report: DataReport | None) -> str:
    """The folded report's label, with its figures."""
    if report is None:
        return "What cleaning did"
    changed, dropped = sum(s.changed for s in report.steps), sum(report.dropped.values())
    return f"What cleaning did: {changed:,} texts mended, {dropped:,} rows left out"


def cleaning(report: DataReport) -> str:
    """Each step that did something with its counts and examples, the others in a line, then what was left out and why."""
    did = [s for s in report.steps if s.changed or s.dropped or s.flagged]
    rows = "".join(_step_row(step) for step in did)
    table = ('<div class="ma-table ma-clean"><table><thead><tr><th>Step</th><th>Changed</th><th>Left out</th><th>For example</th>'
             f"</tr></thead><tbody>{rows}</tbody></table></div>") if did else note("No step found anything to mend.")
    quiet = [s for s in report.steps if s not in did]
    lines = [f"<p class='ma-dim'>{words}: {', '.join(CLEANING_STEPS[s.name].title.lower() for s in found)}.</p>"
             for words, found in (("Found nothing", [s for s in quiet if s.on]), ("Switched off", [s for s in quiet if not s.on]))
             if found]
    how = '<p class="ma-dim">Each step can be switched under All settings, Data, Cleaning.</p>'
    reasons = "".join(f"<li><b>{n:,}</b> {esc(reason)}{_details(report.drop_examples.get(reason, ()))}</li>"
                      for reason, n in report.dropped.items())
    left_out = f'<p class="ma-sub">Rows left out, by reason</p><ul class="ma-facts">{reasons}</ul>' if reasons else \
        note("No row was left out.")
    return f'<div class="ma-cleaning">{table}{"".join(lines)}{how}{left_out}</div>'


def _step_row(step: StepReport) -> str:
    words = CLEANING_STEPS[step.name]
    flagged = chip(f"{step.flagged:,} flagged", "warn") if step.flagged else ""
    shown = [e for e in step.examples if e.after is not None] or list(step.examples)
    cells = (("Step", f'<b>{esc(words.title)}</b> {flagged}<br><span class="ma-dim">{esc(words.description)}</span>'),
             ("Changed", f"{step.changed:,}"), ("Left out", f"{step.dropped:,}"), ("For example", _details(shown) or "–"))
    return "<tr>" + "".join(f'<td data-label="{label}">{text}</td>' for label, text in cells) + "</tr>"


def _details(examples: Sequence[CleaningExample]) -> str:
    if not examples:
        return ""
    shown = "".join(_before_after(e) for e in examples[:3])
    return f'<details class="ma-more"><summary>{len(examples[:3])} shown</summary>{shown}</details>'


def _before_after(example: CleaningExample) -> str:
    after = "" if example.after is None else f'<ins>{esc(example.after) or "(nothing left)"}</ins>'
    return f'<div class="ma-diff"><span class="ma-dim">row {example.row:,}</span><del>{esc(example.before)}</del>{after}</div>'


# ── rows before and after ────────────────────────────────────────────────────────────────────────────


def rows(shown: Sequence[tuple[Mapping[str, Any], Example | None, str]]) -> str:
    """The first rows as they came, each with what it became or why it was left out."""
    if not shown:
        return empty("No rows", "The dataset's first rows are shown here as they came and as they will be used.")
    return '<div class="ma-rows">' + "".join(_row(n, *item) for n, item in enumerate(shown, 1)) + "</div>"


def _row(number: int, raw: Mapping[str, Any], became: Example | None, reason: str) -> str:
    filled = [(name, value) for name, value in raw.items() if value not in (None, "", [])]
    cells = "".join(f"<dt>{esc(name)}</dt><dd>{esc(_clip(value))}</dd>" for name, value in filled[:_COLUMNS])
    if len(filled) > _COLUMNS:
        cells += f"<dt></dt><dd class='ma-dim'>and {len(filled) - _COLUMNS} more columns</dd>"
    if became is None:
        after = note(f"Left out: {reason}.", "warn")
    else:
        talk = [*became.history, (became.question, became.answer)]
        after = "<dl>" + "".join(f"<dt>question</dt><dd>{esc(_clip(q))}</dd><dt>answer</dt><dd>{esc(_clip(a))}</dd>"
                                 for q, a in talk[:4]) + "</dl>"
    return (f'<section class="ma-pair"><h4>Row {number}</h4><div><span class="ma-dim">as it came</span><dl>{cells}</dl></div>'
            f'<div><span class="ma-dim">as it is used</span>{after}</div></section>')


def _clip(value: Any) -> str:
    text = mask_personal(str(value)[:20_000])
    return text if len(text) <= _CELL else text[:_CELL] + " …"
