"""The one place where an error becomes something a visitor reads.

A `MedAssistError` becomes a toast with its own sentence; everything else is logged with its traceback and
shown as a plain sentence with a reference. `bind` gives a module-level handler its services and this guard.
Knows nothing of any tab.
"""

from __future__ import annotations

import functools
import html
import inspect
import logging
import secrets
import typing
from collections.abc import Callable
from typing import Any

import gradio as gr

from medassist.errors import MedAssistError

log = logging.getLogger(__name__)

TOAST_S = 12.0


def sentence(error: BaseException) -> str:
    """What a visitor is told; an unexpected error is logged, and the sentence carries a reference to the log."""
    if isinstance(error, MedAssistError):
        return str(error)
    reference = secrets.token_hex(3)
    log.error("reference %s", reference, exc_info=error)
    return f"Something unexpected happened. The server's log has the details under the reference {reference}."


def toast(error: BaseException) -> gr.Error:
    """The error as Gradio shows it; the text is escaped, because toasts are HTML."""
    return gr.Error(html.escape(sentence(error)), duration=TOAST_S, title="That did not work", print_exception=False)


def bind(handler: Callable[..., Any], services: Any) -> Callable[..., Any]:
    """The handler with its first argument filled in and every error told in words.

    Gradio reads signatures to find requests and event data, so the rest of the signature is kept.
    """
    hints = typing.get_type_hints(handler)
    parameters = list(inspect.signature(handler).parameters.values())[1:]
    kept = [p.replace(annotation=hints.get(p.name, p.annotation)) for p in parameters]

    if inspect.isgeneratorfunction(handler):

        def bound(*args: Any, **kwargs: Any) -> Any:
            try:
                yield from handler(services, *args, **kwargs)
            except gr.Error:
                raise
            except Exception as error:
                raise toast(error) from None
    else:

        def bound(*args: Any, **kwargs: Any) -> Any:
            try:
                return handler(services, *args, **kwargs)
            except gr.Error:
                raise
            except Exception as error:
                raise toast(error) from None

    bound.__name__, bound.__doc__ = handler.__name__, handler.__doc__
    bound.__signature__ = inspect.Signature(kept, return_annotation=hints.get("return", Any))  # type: ignore[attr-defined]
    bound.__annotations__ = {p.name: p.annotation for p in kept} | {"return": hints.get("return", Any)}
    return bound


def quiet(handler: Callable[..., Any]) -> Callable[..., Any]:
    """For timers: an error is logged and changes nothing on the page, instead of a toast every second."""

    @functools.wraps(handler)
    def calm(*args: Any, **kwargs: Any) -> Any:
        try:
            return handler(*args, **kwargs)
        except Exception as error:
            if not isinstance(error, MedAssistError):
                log.error("a page could not be refreshed", exc_info=error)
            return gr.skip()

    return calm
