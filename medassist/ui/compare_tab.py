"""The Compare tab: one question, the base model's answer and the fine-tuned one's, side by side as they are written.

A typed question passes the red flags first; a held-out one comes with its known answer. Handlers hand the question to
`chat.Assistant.stream_pair` and show what it yields.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import gradio as gr

from medassist import access, adapters, evaluation
from medassist.chat import Pair, check_question, refusal_text
from medassist.errors import MedAssistError, UsageError
from medassist.paths import resolvable
from medassist.ui import forms, render
from medassist.ui.errors import bind
from medassist.ui.services import Services

EXAMPLES = (
    "What does insulin do?",
    "Which nerve supplies the diaphragm?",
    "What is anaemia?",
    "What is the capital of France?",
)
ANSWERS = {"concurrency_id": "answers", "concurrency_limit": 8}  # one place for all that waits for the model
_FRAME_S = 0.06  # between two frames of a growing answer


@dataclass
class CompareTab:
    """What other tabs need of this one."""

    adapter: gr.Dropdown
    refresh: Any
    refresh_outputs: list[Any]


# ── handlers ────────────────────────────────────────────────────────────────────────────────────────


def adapter_choices(services: Services) -> list[tuple[str, str]]:
    """The usable runs, newest first."""
    return [(f"{run.name} · {run.base}", run.name) for run in adapters.list_usable(services.root)]


def resolve(services: Services, text: str | None) -> str:
    """The run that a choice names; a Hub id is pulled first, where that is open.

    Raises:
        UsageError: nothing is chosen. AdapterError, HubError, ClosedError: it cannot be had.
    """
    text = (text or "").strip()
    if not text:
        raise UsageError("No adapter is chosen.", "Choose one, or train one in the Train tab.")
    if "/" not in text:
        return adapters.load_run(services.root, text).name
    access.require_open("Fetching an adapter from the Hub")
    from medassist.hub import resolve_adapter

    return resolve_adapter(text, services.root)


def refresh_adapters(services: Services, chosen: str | None) -> tuple:
    """The adapters as they are now, the chosen one kept. Outputs: adapter, its note."""
    choices = adapter_choices(services)
    names = [name for _, name in choices]
    value = chosen if chosen and (chosen in names or "/" in chosen) else (names[0] if names else None)
    return gr.update(choices=choices, value=value), adapter_note(services, value)


def adapter_note(services: Services, chosen: str | None) -> str:
    """What is known about the chosen adapter: whether it helped, and what its safety probe found."""
    if not chosen:
        return render.note("There is no fine-tuned model yet. Train one in the Train tab: it appears here by itself.")
    if "/" in chosen:
        return render.note(render.HUB_NOTE)
    try:
        run = adapters.load_run(services.root, chosen)
    except MedAssistError as error:
        return render.note(str(error), "bad")
    return render.adapter_note(run.verdict or "This adapter was not compared with its base yet.", run)


def random_question(services: Services, chosen: str | None) -> tuple:
    """A question that the model did not learn from, with its answer. Outputs: question, held-out state, reference."""
    run = adapters.load_run(services.root, resolve(services, chosen))
    if run.config is None:
        raise UsageError(
            f"'{run.name}' has no readable run.yaml, so its held-out questions are not known.",
            "Type a question instead.",
        )
    rows, _ = evaluation.held_out(services.prepared.get(resolvable(run.config)))
    row = random.choice(rows)
    known = {"question": row.question, "answer": row.answer, "history": row.history}
    return row.question, known, render.reference_card(row.answer, row.history)


def ask_both(
    services: Services, request: gr.Request, chosen: str | None, question: str, held_out: dict, *sampling: Any
) -> Iterator[tuple]:
    """Streams both answers. Outputs: base, tuned, reference, mark, ask, stop."""
    question = check_question(question)
    known = held_out if isinstance(held_out, dict) and held_out.get("question", "").strip() == question else {}
    reference, settings = known.get("answer"), forms.read_sampling(sampling)
    session = getattr(request, "session_hash", None)
    cancel = services.cancels.begin(session, "compare")
    earlier = known.get("history", ())
    yield (*_cards(None, reference, True), render.reference_card(reference, earlier), "", *_buttons(False))
    pair, shown = None, 0.0
    try:
        adapter = resolve(services, chosen)
        for pair in services.assistant.stream_pair(
            question,
            adapter=adapter,
            sampling=settings,
            cancel=cancel,
            gate_holds=access.is_public(),
            typed=not known,
            earlier=earlier,
        ):
            if cancel.superseded:  # what a generator yields last is sent once more when it ends
                yield (gr.skip(),) * 6
                return
            if not pair.done and time.monotonic() - shown > _FRAME_S:
                shown = time.monotonic()
                yield (*_cards(pair, reference, True), gr.skip(), gr.skip(), gr.skip(), gr.skip())
        if cancel.superseded:
            yield (gr.skip(),) * 6
        elif pair is not None:
            yield (*_cards(pair, reference, False), gr.skip(), _mark(pair), *_buttons(True))
    except Exception:
        if cancel.superseded:
            yield (gr.skip(),) * 6
            return
        yield (*_cards(None, reference, False), gr.skip(), "", *_buttons(True))
        raise
    finally:
        services.cancels.end(session, "compare", cancel)


def _cards(pair: Pair | None, reference: str | None, writing: bool) -> tuple:
    if pair is None:
        from medassist.generation import Answer

        empty = Answer() if writing else None
        return (
            render.answer_card("Base model", empty, reference=reference, writing=writing),
            render.answer_card("Fine-tuned", empty, reference=reference, writing=writing, tuned=True),
        )
    if pair.refused:
        return gr.update(value="", visible=False), gr.update(value="", visible=False)
    return (
        gr.update(
            visible=True, value=render.answer_card("Base model", pair.base, reference=reference, writing=writing)
        ),
        gr.update(
            visible=True,
            value=render.answer_card("Fine-tuned", pair.tuned, reference=reference, writing=writing, tuned=True),
        ),
    )


def _mark(pair: Pair) -> str:
    """The emergency card, the refusal, or what the gate would have said in Chat."""
    if pair.refused and pair.escalation is not None and pair.escalation.kind == "emergency":
        return render.emergency(pair.escalation)
    if pair.refused:
        return render.note(refusal_text(pair))
    lines = []
    if pair.escalation is not None and pair.escalation.note:
        lines.append(render.note(f"If this is happening now: {pair.escalation.note}", "warn"))
    if not pair.decision.allowed:
        lines.append(
            render.note(
                "The gate would not answer this in Chat: it is not a medical question. Here both models "
                "answer, so that they can be judged.",
                "warn",
            )
        )
    return "".join(lines)


def _buttons(free: bool) -> tuple:
    return gr.update(value="Ask both" if free else "Asking…"), gr.update(visible=not free)


def stop_answers(services: Services, request: gr.Request) -> None:
    """Ends this visitor's answers within a token."""
    services.cancels.stop(getattr(request, "session_hash", None), "compare")


def compare_api(
    services: Services,
    question: str,
    adapter: str = "starter",
    seed: int = 42,
    temperature: float = 0.0,
    max_new_tokens: int = 160,
) -> dict:
    """Base and fine-tuned answers to one question.

    adapter: a run's name, as the page lists them. Answers {question, base, tuned, refused, message, gate, settings}.
    """
    from medassist.generation import Sampling

    sampling = Sampling(max_new_tokens=int(max_new_tokens), temperature=float(temperature), seed=int(seed)).checked()
    name = resolve(services, adapter)
    stream = services.assistant.stream_pair(question, adapter=name, sampling=sampling, gate_holds=access.is_public())
    pair = deque(stream, maxlen=1)[0]
    return {
        "question": question,
        "adapter": name,
        "base": pair.base.text,
        "tuned": pair.tuned.text,
        "refused": pair.refused,
        "message": refusal_text(pair) if pair.refused else "",
        "gate": pair.decision.to_json(),
        "settings": asdict(sampling),
    }


# ── layout ──────────────────────────────────────────────────────────────────────────────────────────


def build_compare_tab(services: Services) -> CompareTab:
    """The tab's layout and its events."""
    choices = adapter_choices(services)
    first = choices[0][1] if choices else None
    held_out = gr.State({})
    gr.HTML('<p class="ma-lead"><b>Did it help?</b> Both models answer the same question; judge for yourself.</p>')
    public = access.is_public()
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=320):
            adapter = gr.Dropdown(
                choices,
                value=first,
                label="Fine-tuned model",
                allow_custom_value=not public,
                elem_id="compare-adapter",
                info="A finished run."
                if public
                else "A finished run, or the Hub id (owner/name) of an adapter, which is fetched when you ask.",
            )
            note = gr.HTML(adapter_note(services, first), elem_id="compare-adapter-note")
        with gr.Column(scale=7, min_width=320):
            question = gr.Textbox(
                label="Question",
                lines=3,
                max_lines=8,
                max_length=8000,
                elem_id="compare-question",
                placeholder="Type a question, or take one that the model has not seen",
            )
            with gr.Row():
                ask = gr.Button("Ask both", variant="primary", elem_id="ask-both", min_width=120, size="md")
                dice = gr.Button("Random held-out question", elem_id="random-question", min_width=220, size="md")
                stop = gr.Button("Stop", visible=False, elem_id="compare-stop", min_width=90, size="md")
    with gr.Row(elem_classes="ma-chips"):
        chips = [gr.Button(text, size="sm") for text in EXAMPLES]
    mark = gr.HTML(elem_id="compare-mark")
    with gr.Row(equal_height=True, elem_classes="ma-pair"):
        with gr.Column(min_width=300):
            base = gr.HTML(render.answer_card("Base model", None), elem_id="answer-base")
        with gr.Column(min_width=300):
            tuned = gr.HTML(render.answer_card("Fine-tuned", None, tuned=True), elem_id="answer-tuned")
    reference = gr.HTML(elem_id="compare-reference")
    with gr.Accordion(forms.sampling_label(160, 0), open=False) as folded:
        sampling = forms.build_sampling()

    calm: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    asking = {
        "fn": bind(ask_both, services),
        "inputs": [adapter, question, held_out, *sampling],
        "outputs": [base, tuned, reference, mark, ask, stop],
        "show_progress": "hidden",
        "api_visibility": "private",
        **ANSWERS,
    }
    ask.click(**asking)
    for chip in chips:
        chip.click(lambda text: text, [chip], [question], **calm).then(**asking)
    dice.click(
        bind(random_question, services),
        [adapter],
        [question, held_out, reference],
        show_progress="hidden",
        api_visibility="private",
        concurrency_limit=2,
    ).success(**asking)
    stop.click(bind(stop_answers, services), None, None, **calm)
    adapter.change(bind(adapter_note, services), [adapter], [note], **calm)
    for widget in sampling[:2]:
        widget.change(
            lambda tokens, heat: gr.update(label=forms.sampling_label(tokens, heat)), sampling[:2], [folded], **calm
        )
    gr.api(bind(compare_api, services), api_name="compare", **ANSWERS)
    return CompareTab(adapter, bind(refresh_adapters, services), [adapter, note])
