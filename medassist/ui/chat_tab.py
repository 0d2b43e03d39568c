"""The Chat tab: a conversation behind the red flags and the gate.

What was said stands in the session as plain messages; what the visitor sees is made from it. `Assistant.stream` is the
only road to a model. Computes nothing about what may be answered.
"""

from __future__ import annotations

import html
import json
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from medassist import access
from medassist.chat import Reply, check_question
from medassist.errors import UsageError
from medassist.gate import LETS_IN, STRICTNESS
from medassist.ui import forms, render
from medassist.ui.compare_tab import ANSWERS, adapter_choices, resolve
from medassist.ui.errors import bind
from medassist.ui.services import Services

BASE = "base:"  # before a base model's name: that model alone; no run's name holds a colon
EXAMPLES = (
    "What does insulin do?",
    "What is the function of the kidneys?",
    "What are the symptoms of a stroke?",
    "What is the capital of France?",
)
MINI_NOTE = "mini is a demonstration: fluent, and mostly false. Train a larger model for answers worth reading."
_FRAME_S = 0.06


@dataclass
class ChatTab:
    """What other tabs need of this one."""

    adapter: gr.Dropdown
    refresh: Any
    refresh_outputs: list[Any]


# ── handlers ────────────────────────────────────────────────────────────────────────────────────────


def choices_for(services: Services) -> list[tuple[str, str]]:
    """The usable runs, and each of their bases alone."""
    from medassist import adapters

    bases = dict.fromkeys(["mini", *(run.base for run in adapters.list_usable(services.root))])
    return [*adapter_choices(services), *[(f"{base} alone, not fine-tuned", BASE + base) for base in bases]]


def refresh_models(services: Services, chosen: str | None) -> tuple:
    """The models as they are now, the chosen one kept. Outputs: adapter, its note."""
    choices = choices_for(services)
    names = [name for _, name in choices]
    value = chosen if chosen and (chosen in names or "/" in chosen) else names[0]
    return gr.update(choices=choices, value=value), model_note(services, value)


def model_note(services: Services, chosen: str | None) -> str:
    """What must be known about the chosen model before its answers are read: how good it is, and how safe."""
    from medassist import adapters

    if (chosen or "").startswith(BASE):
        return render.note(MINI_NOTE) if str(chosen)[len(BASE) :] == "mini" else ""
    run = next((run for run in adapters.list_runs(services.root) if run.name == chosen), None)
    if run is None:
        return render.note(render.HUB_NOTE) if "/" in (chosen or "") else ""
    return render.adapter_note(MINI_NOTE if run.base == "mini" else "", run)


def send(
    services: Services, request: gr.Request, question: str, turns: list, chosen: str | None, strictness: str, *sampling: Any
) -> Iterator[tuple]:
    """A typed question. Outputs: chatbot, turns, input, gate, send, stop, retry."""
    yield from _turn(services, question, list(turns or []), chosen, strictness, sampling, request, typed=question)


def send_example(
    services: Services, request: gr.Request, event: gr.SelectData, turns: list, chosen: str | None, strictness: str, *sampling: Any
) -> Iterator[tuple]:
    """One of the examples in the empty conversation."""
    text = str(event.value.get("text", ""))
    yield from _turn(services, text, list(turns or []), chosen, strictness, sampling, request, typed=text)


def retry(services: Services, request: gr.Request, turns: list, chosen: str | None, strictness: str, *sampling: Any) -> Iterator[tuple]:
    """The last question once more, with another seed."""
    turns = list(turns or [])
    while turns and turns[-1]["role"] != "user":
        turns.pop()
    if not turns:
        raise UsageError("There is nothing to ask again.", "Ask a question first.")
    question = turns.pop()["content"]
    *rest, seed = sampling
    yield from _turn(services, question, turns, chosen, strictness, (*rest, (seed or 0) + 1 + len(turns)), request)


def edit(
    services: Services, request: gr.Request, event: gr.EditData, turns: list, chosen: str | None, strictness: str, *sampling: Any
) -> Iterator[tuple]:
    """An earlier question in other words; what came after it goes."""
    index = event.index if isinstance(event.index, int) else event.index[0]
    turns = list(turns or [])[:index]
    text = html.unescape(str(event.value))
    yield from _turn(services, text, turns, chosen, strictness, sampling, request, typed=text)


def _turn(
    services: Services,
    question: str,
    turns: list,
    chosen: str | None,
    strictness: str,
    sampling: tuple,
    request: Any,
    typed: str = "",
) -> Iterator[tuple]:
    """One question and its reply as it grows. On an error what was typed stands in the input again."""
    session, before = getattr(request, "session_hash", None), list(turns)
    question = check_question(question)
    settings = forms.read_sampling(sampling)
    asked = [*before, {"role": "user", "content": question}]
    cancel = services.cancels.begin(session, "chat")
    yield _show(asked, True), asked, "", gr.skip(), *_buttons(False)
    reply: Reply | None = None
    shown = 0.0
    try:
        name = _model(services, chosen)
        for reply in services.assistant.stream(
            question,
            before,
            sampling=settings,
            cancel=cancel,
            **name,
            catalogue_only=access.is_public(),
            strictness=strictness if strictness in STRICTNESS else None,
        ):
            if cancel.superseded:  # what a generator yields last is sent once more when it ends
                yield (gr.skip(),) * 7
                return
            if not reply.done and time.monotonic() - shown > _FRAME_S:
                shown = time.monotonic()
                yield _show([*asked, _message(reply)], True), gr.skip(), gr.skip(), gr.skip(), *[gr.skip()] * 3
        if cancel.superseded:
            yield (gr.skip(),) * 7
        elif reply is not None:
            asked.append(_message(reply, stopped=cancel.is_set() and not reply.text.strip()))
            yield _show(asked), asked, gr.skip(), render.gate_state(reply.decision), *_buttons(True)
    except Exception:
        if cancel.superseded:
            yield (gr.skip(),) * 7
            return
        yield _show(before), before, typed, gr.skip(), *_buttons(True)
        raise
    finally:
        services.cancels.end(session, "chat", cancel)


def _build_strictness() -> gr.Radio:
    """How strict the gate is, with what that costs."""
    choices = [
        (f"{name.title()}: lets in {LETS_IN[name][0]:.0%} of medical and {LETS_IN[name][1]:.0%} of other questions", name)
        for name in STRICTNESS
    ]
    info = "Measured on collections of questions that its words were not learned from."
    return gr.Radio(choices, value="balanced", label="Gate", info=info, elem_id="strictness")


def _model(services: Services, chosen: str | None) -> dict[str, str | None]:
    if (chosen or "").startswith(BASE):
        return {"adapter": None, "base": str(chosen)[len(BASE) :]}
    return {"adapter": resolve(services, chosen), "base": None}


def _message(reply: Reply, stopped: bool = False) -> dict[str, Any]:
    """A reply as the session keeps it: its text, and what is needed to show it."""
    text = "Stopped." if stopped else reply.text
    return {
        "role": "assistant",
        "content": text,
        "route": reply.route,
        "note": reply.note,
        "after": reply.after if reply.done else "",
        "card": render.emergency(reply.escalation) if reply.route == "emergency" and reply.escalation else "",
    }


def _show(turns: list, writing: bool = False) -> list[dict[str, str]]:
    """The conversation as the Chatbot shows it: no HTML but ours, no image."""
    shown = [{"role": t["role"], "content": _content(t)} for t in turns]
    if writing:
        if shown and shown[-1]["role"] == "assistant":
            shown[-1]["content"] += " " + render.TYPING
        else:
            shown.append({"role": "assistant", "content": render.TYPING})
    return shown


def _content(turn: dict[str, Any]) -> str:
    if turn["role"] == "user":
        return render.model_markdown(turn["content"])
    if turn.get("card"):
        return turn["card"]
    if turn.get("route") == "out_of_scope":
        return render.quiet_reply(turn["content"])
    note = (
        f'<div class="ma-note warn">If this is happening now: {render.esc(turn["note"])}</div>'
        if turn.get("note")
        else ""
    )
    after = f'<div class="ma-note">{render.esc(turn["after"])}</div>' if turn.get("after") else ""
    return "\n\n".join(part for part in (note, render.model_markdown(turn["content"]), after) if part)


def _buttons(free: bool) -> tuple:
    """Outputs: send, stop, retry."""
    return gr.update(visible=free), gr.update(visible=not free), gr.update(interactive=free)


def stop_answer(services: Services, request: gr.Request) -> None:
    """Ends this visitor's answer within a token."""
    services.cancels.stop(getattr(request, "session_hash", None), "chat")


def clear(services: Services, request: gr.Request) -> tuple:
    """A new conversation. Outputs: chatbot, turns, gate, send, stop, retry."""
    services.cancels.clear(getattr(request, "session_hash", None), "chat")
    return [], [], render.gate_state(None), *_buttons(True)[:2], gr.update(interactive=False)


def chat_api(services: Services, question: str, history: str = "[]", adapter: str = "starter") -> dict:
    """One turn of a conversation.

    history: earlier messages as JSON, [{"role": "user", "content": "…"}, …]. adapter: a run's name, or base:mini.
    Answers {route, answer, adapter, sources, gate, elapsed_s}; route is answer, greeting, emergency or out_of_scope.
    """
    try:
        earlier = json.loads(history) if isinstance(history, str) else history
    except (ValueError, RecursionError):
        raise UsageError("history is not JSON.", 'Write it as [{"role": "user", "content": "…"}].') from None
    if not isinstance(earlier, list):
        raise UsageError("history is not a list of messages.", 'Write it as [{"role": "user", "content": "…"}].')
    stream = services.assistant.stream(
        question, earlier, **_model(services, adapter), catalogue_only=access.is_public()
    )
    return deque(stream, maxlen=1)[0].to_json()


# ── layout ──────────────────────────────────────────────────────────────────────────────────────────


def build_chat_tab(services: Services) -> ChatTab:
    """The tab's layout and its events."""
    choices = choices_for(services)
    public = access.is_public()
    turns = gr.State([])
    with gr.Row(equal_height=False, elem_id="chat-top"):
        with gr.Column(min_width=300):
            adapter = gr.Dropdown(
                choices,
                value=choices[0][1],
                label="Model",
                allow_custom_value=not public,
                elem_id="chat-adapter",
                info="A finished run, or a base model alone."
                if public
                else "A run, a base model alone, or an adapter's Hub id (owner/name).",
            )
        with gr.Column(min_width=300), gr.Accordion(forms.sampling_label(160, 0), open=False) as folded:
            sampling = forms.build_sampling()
            strictness = _build_strictness()
    note = gr.HTML(model_note(services, choices[0][1]), elem_id="chat-model-note")
    chatbot = gr.Chatbot(
        elem_id="ma-chat",
        show_label=False,
        height=430,
        layout="bubble",
        sanitize_html=True,
        allow_tags=False,
        render_markdown=True,
        latex_delimiters=[],
        editable="user",
        feedback_options=None,
        buttons=["copy"],
        group_consecutive_messages=False,
        examples=[{"text": text} for text in EXAMPLES],
        placeholder="### Ask a medical question\nThe gate keeps the conversation to medicine. Emergencies "
        "get first-aid advice at once, before any model is asked.",
    )
    gate = gr.HTML(render.gate_state(None), elem_id="chat-gate")
    with gr.Row(elem_id="ma-input-row"):
        box = gr.Textbox(
            show_label=False,
            container=False,
            placeholder="Ask a medical question",
            lines=1,
            max_lines=6,
            max_length=8000,
            scale=8,
            elem_id="chat-input",
            html_attributes=gr.InputHTMLAttributes(autocomplete="off", enterkeyhint="send")
            if hasattr(gr, "InputHTMLAttributes")
            else None,
        )
        go = gr.Button("Send", variant="primary", scale=1, min_width=90, elem_id="chat-send", elem_classes="ma-send")
        stop = gr.Button("Stop", visible=False, scale=1, min_width=90, elem_id="chat-stop", elem_classes="ma-send")
    with gr.Row(elem_classes="ma-row-quiet"):
        again = gr.Button("Try again", size="sm", interactive=False, elem_id="chat-retry")
        fresh = gr.Button("New conversation", size="sm", elem_id="chat-clear")

    calm: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    outputs = [chatbot, turns, box, gate, go, stop, again]
    talk = {"outputs": outputs, "show_progress": "hidden", "api_visibility": "private", **ANSWERS}
    sending = {"fn": bind(send, services), "inputs": [box, turns, adapter, strictness, *sampling], **talk}
    gr.on([box.submit, go.click], **sending)
    chatbot.example_select(bind(send_example, services), [turns, adapter, strictness, *sampling], **talk)
    gr.on([again.click, chatbot.retry], bind(retry, services), [turns, adapter, strictness, *sampling], **talk)
    chatbot.edit(bind(edit, services), [turns, adapter, strictness, *sampling], **talk)
    adapter.change(bind(model_note, services), [adapter], [note], **calm)
    stop.click(bind(stop_answer, services), None, None, **calm)
    gr.on([fresh.click, chatbot.clear], bind(clear, services), None, [chatbot, turns, gate, go, stop, again], **calm)
    for widget in sampling[:2]:
        widget.change(
            lambda tokens, heat: gr.update(label=forms.sampling_label(tokens, heat)), sampling[:2], [folded], **calm
        )
    gr.api(bind(chat_api, services), api_name="chat", **ANSWERS)
    return ChatTab(adapter, bind(refresh_models, services), [adapter, note])
