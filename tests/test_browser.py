"""The whole page the way a visitor uses it, in Chromium: train, reload, verdict, compare, chat, emergency.

Uses the Chromium that `CHROMIUM` names or that is on the PATH; skips without one, except in CI, where that is a failure.
"""

from __future__ import annotations

import os
import re
import shutil

import pytest
from page_server import serve

from medassist.gate import OUT_OF_SCOPE_MESSAGE

pytestmark = [pytest.mark.browser, pytest.mark.slow]

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# Elements that stick out of the page on the right: a page may hide what overflows, so its own width does not tell.
STICKING_OUT = """() => [...document.querySelectorAll('body *')].filter(e => {
    const box = e.getBoundingClientRect();
    const scrolls = e.closest('pre, .cm-scroller, .ma-table, .tab-container, .overflow-menu');
    return box.width > 1 && box.height > 1 && box.right > innerWidth + 1 && !scrolls;
  }).map(e => `${e.tagName}.${e.className}`).slice(0, 5)"""
# Text whose colour stands too little apart from what is behind it (WCAG: 4.5 to 1, 3 to 1 for large text).
FAINT = """() => {
  const parse = c => { const m = c.match(/[\\d.]+/g).map(Number); return m.length < 4 ? [...m, 1] : m; };
  const light = c => { const [r, g, b] = c.map(v => { v /= 255; return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; });
    return .2126 * r + .7152 * g + .0722 * b; };
  const behind = e => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor);
    if (c[3] > .9) return c.slice(0, 3); } return [255, 255, 255]; };
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement, text = walk.currentNode.textContent.trim();
    if (!text || !e.checkVisibility({visibilityProperty: true, opacityProperty: true}) || e.closest('button:disabled, .cm-editor, script, style')) continue;
    const style = getComputedStyle(e), fore = parse(style.color);
    if (fore[3] < .9) continue;
    const [a, b] = [light(fore.slice(0, 3)), light(behind(e))].sort((x, y) => y - x);
    const needed = parseFloat(style.fontSize) >= 24 || parseFloat(style.fontSize) >= 18.6 && style.fontWeight >= 700 ? 3 : 4.5;
    if ((a + .05) / (b + .05) < needed) found.push(`${text.slice(0, 40)}: ${((a + .05) / (b + .05)).toFixed(2)}`);
  }
  return found.slice(0, 6);
}"""


def chromium() -> str:
    named = os.environ.get("CHROMIUM")
    found = (
        named
        if named and shutil.which(named)
        else next(
            (p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome")) if p), None
        )
    )
    if found is None:
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail("there is no Chromium here; CI must have one")
        pytest.skip("there is no Chromium here (set CHROMIUM to its path)")
    return found


@pytest.fixture(scope="module")
def page_server(tmp_path_factory):
    chromium()
    pytest.importorskip("playwright")
    with serve(tmp_path_factory.mktemp("browser")) as running:
        yield running


@pytest.fixture(scope="module")
def browser(page_server):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        yield started
        started.close()


# What Chromium and Gradio say of requests that a reload or a closed tab cuts off.
CUT_OFF = re.compile(r"net::ERR_(ABORTED|FAILED|NETWORK|INCOMPLETE|EMPTY|CONNECTION)|failed to fetch|network ?error|aborted|"
                     r"connection (errored|lost|was closed)", re.IGNORECASE)


@pytest.fixture
def visit(browser, page_server):
    """Opens the page; at the end nothing may have been complained about or fetched from elsewhere."""
    complaints: list[str] = []
    contexts = []

    def open_page(width: int = 1280, height: int = 900, scheme: str = "light"):
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("console", lambda m: complaints.append(f"console: {m.text}") if m.type == "error" else None)
        page.on("pageerror", lambda e: complaints.append(f"error: {e}"))
        page.on(
            "request",
            lambda r: (
                complaints.append(f"elsewhere: {r.url}")
                if not r.url.startswith((page_server.url, "data:", "blob:"))
                else None
            ),
        )
        page.goto(page_server.url)
        page.wait_for_selector("#tabs")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [c for c in complaints if not CUT_OFF.search(c)] == []


# Gradio mounts what lies in a closed accordion only when it is opened, over several frames, and a value that is put
# into a box before it is done (sooner than a hand could) is set back. Done: nothing changed in there for half a second.
SETTLED = """place => new Promise(done => {
    let timer;
    const wait = () => { clearTimeout(timer); timer = setTimeout(() => { seen.disconnect(); done(true); }, 500); };
    const seen = new MutationObserver(wait);
    seen.observe(document.querySelector(place), {subtree: true, childList: true, attributes: true});
    wait();
  })"""


def open_settings(page) -> None:
    page.get_by_role("button", name=re.compile("All settings")).click()
    page.wait_for_selector("#set-train-max_steps")
    page.evaluate(SETTLED, "#settings")


def open_tab(page, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def say(page, text: str) -> None:
    before = page.locator("#ma-chat .bot.message").count()
    page.fill("#chat-input textarea", text)
    page.keyboard.press("Enter")
    page.wait_for_function("n => document.querySelectorAll('#ma-chat .bot.message').length > n", arg=before)
    page.wait_for_function("() => !document.querySelector('#ma-chat .ma-typing')")


def last_answer(page) -> str:
    return page.locator("#ma-chat .bot.message").last.inner_text()


def test_train_reload_verdict_compare_chat(visit, page_server):
    page = visit()
    page.wait_for_function("() => document.querySelector('#example')?.innerText.includes('learns to write')")
    open_settings(page)
    page.fill("#set-train-max_steps textarea, #set-train-max_steps input", "6")
    page.get_by_role("tab", name="Data", exact=True).click()
    page.evaluate(SETTLED, "#settings")
    page.fill("#set-data-test_size textarea, #set-data-test_size input", "20")
    page.wait_for_function("() => document.querySelector('#settings').innerText.includes('at most 6 steps')")
    page.click("#start")
    page.wait_for_selector("#run-panel .ma-run")
    assert page.is_disabled("#start")

    page.reload()  # in the middle
    page.wait_for_selector("#run-panel .ma-run")
    page.wait_for_selector("#run-panel .ma-end", timeout=180_000)
    assert "perplexity" in page.inner_text("#run-status") and page.locator("#run-plot polyline").count()
    (run,) = [p.name for p in page_server.root.iterdir() if p.is_dir() and p.name.startswith("starter-2")]

    page.click("#to-compare")
    page.wait_for_function("n => document.querySelector('#compare-adapter input')?.value.includes(n)", arg=run)
    page.click("#random-question")
    page.wait_for_selector("#compare-stop")
    page.wait_for_selector("#compare-stop", state="hidden")
    for card in ("#answer-base", "#answer-tuned"):
        assert "tokens" in page.inner_text(card)
    assert "Reference answer" in page.inner_text("#compare-reference")

    open_tab(page, "Train")
    page.click("#to-chat")
    page.wait_for_function("n => document.querySelector('#chat-adapter input')?.value.includes(n)", arg=run)
    say(page, "What does insulin do?")
    assert len(last_answer(page)) > 10 and "In scope" in page.inner_text("#chat-gate")
    say(page, "What is the capital of France?")
    assert OUT_OF_SCOPE_MESSAGE in last_answer(page)
    say(page, "My dad has crushing chest pain and is sweating")
    card = page.locator("#ma-chat .ma-emergency[role=alert]")
    assert "112" in card.inner_text()
    page.wait_for_timeout(800)
    assert (
        card.locator("h3").bounding_box()["y"] >= page.locator("#ma-chat").bounding_box()["y"] - 1
    )  # read from its top


def test_stop_edit_and_a_question_that_overtakes(visit):
    page = visit()
    open_tab(page, "Chat")
    page.get_by_role("button", name=re.compile("Answer settings")).last.click()
    page.get_by_text("What does insulin do?").last.click()
    page.wait_for_selector("#ma-chat .ma-typing")
    page.fill("#chat-input textarea", "I took a whole bottle of paracetamol")  # while the first answer is written
    page.keyboard.press("Enter")
    page.wait_for_selector("#ma-chat .ma-emergency")
    page.wait_for_selector("#chat-send")
    page.wait_for_timeout(1500)
    assert "poison" in last_answer(page).lower()  # the older answer does not come back over it
    page.click("#chat-clear")
    page.wait_for_function("() => !document.querySelector('#ma-chat .bot.message')")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_sticks_out_and_text_stands_out(visit, width, scheme):
    page = visit(width, 844, scheme)
    page.wait_for_function("() => document.querySelector('#example')?.innerText.includes('learns to write')")
    for folded in ("All settings", "Earlier runs", "The same run"):
        page.get_by_role("button", name=re.compile(folded)).click()
    page.wait_for_timeout(600)
    for tab in ("Train", "Compare", "Chat"):
        open_tab(page, tab)
        page.wait_for_timeout(500)
        assert page.evaluate(STICKING_OUT) == [], tab
        assert page.evaluate(FAINT) == [], tab
    say(page, "My dad has crushing chest pain and is sweating")
    assert page.evaluate(STICKING_OUT) == []
    assert page.evaluate(FAINT) == []
    box = page.locator("#chat-input").bounding_box()
    assert box["y"] + box["height"] <= 844  # the input stays on the screen


def test_the_switch_between_light_and_dark_is_remembered(visit):
    page = visit()
    page.wait_for_timeout(2000)  # what the page loads at first is there
    page.click("#ma-theme")
    assert "dark" in page.get_attribute("body", "class")
    page.reload()
    page.wait_for_function("() => document.body.classList.contains('dark')")
    page.wait_for_timeout(2000)
