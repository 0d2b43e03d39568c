"""Wires the three tabs into one page. Knows which tab leads to which; what a tab does stands in its own file."""

from __future__ import annotations

from typing import Any

import gradio as gr

from medassist.errors import JobError
from medassist.safety import STANDING_NOTICE
from medassist.ui import render
from medassist.ui.chat_tab import ChatTab, build_chat_tab
from medassist.ui.compare_tab import CompareTab, build_compare_tab
from medassist.ui.errors import bind
from medassist.ui.services import Services
from medassist.ui.theme import CSS, HEAD, PolicyMiddleware, build_theme
from medassist.ui.train_tab import TrainTab, build_train_tab

MAX_WAITING = 32  # events; more are told to come back
MAX_UPLOAD = "12mb"  # a little above what an upload may be, so that our own sentence says so


def go_to_compare(services: Services, watch: dict) -> tuple:
    """Outputs: tabs, and what the tab's own refresh gives."""
    from medassist.ui.compare_tab import refresh_adapters

    return gr.update(selected="compare"), *refresh_adapters(services, _run(watch))


def go_to_chat(services: Services, watch: dict) -> tuple:
    from medassist.ui.chat_tab import refresh_models

    return gr.update(selected="chat"), *refresh_models(services, _run(watch))


def _run(watch: dict | None) -> str:
    name = (watch or {}).get("run")
    if not name:
        raise JobError("No finished run is shown here.", "Train one first.")
    return name


def build_app(services: Services) -> gr.Blocks:
    """The page."""
    with gr.Blocks(title="medassist", analytics_enabled=False) as page:
        gr.HTML(render.head(STANDING_NOTICE))
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab("Train", id="train"):
                train = build_train_tab(services)
            with gr.Tab("Compare", id="compare") as compare_item:
                compare = build_compare_tab(services)
            with gr.Tab("Chat", id="chat") as chat_item:
                chat = build_chat_tab(services)
        _wire(services, page, tabs, train, compare, chat, compare_item, chat_item)
    # Direct POSTs would pass the concurrency limits: only the queue is open.
    page.queue(max_size=MAX_WAITING, api_open=False, default_concurrency_limit=4)
    return page


def _wire(
    services: Services,
    page: gr.Blocks,
    tabs: gr.Tabs,
    train: TrainTab | None,
    compare: CompareTab,
    chat: ChatTab,
    compare_item: gr.Tab,
    chat_item: gr.Tab,
) -> None:
    calm: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    compare_item.select(compare.refresh, [compare.adapter], compare.refresh_outputs, **calm)
    chat_item.select(chat.refresh, [chat.adapter], chat.refresh_outputs, **calm)
    page.load(compare.refresh, [compare.adapter], compare.refresh_outputs, **calm)
    page.load(chat.refresh, [chat.adapter], chat.refresh_outputs, **calm)
    if train is None:
        return
    page.load(train.load, None, train.load_outputs, **calm)
    page.load(**train.look).then(**train.describing)
    train.compare_button.click(bind(go_to_compare, services), [train.watch], [tabs, *compare.refresh_outputs], **calm)
    train.chat_button.click(bind(go_to_chat, services), [train.watch], [tabs, *chat.refresh_outputs], **calm)


def launch_options() -> dict[str, Any]:
    """What `launch` is given whatever the address: looks, limits, and nothing sent or kept."""
    from starlette.middleware import Middleware

    return {
        "theme": build_theme(),
        "css": CSS,
        "head": HEAD,
        "share": False,
        "max_file_size": MAX_UPLOAD,
        "run_history": False,
        "enable_monitoring": False,
        "ssr_mode": False,
        "footer_links": ["gradio"],
        "quiet": True,
        "pwa": False,
        "app_kwargs": {"middleware": [Middleware(PolicyMiddleware)]},
    }
