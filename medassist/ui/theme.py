"""How the page looks: Gradio's theme variables, our style sheet, and a little script.

Fonts are the system's own; nothing is loaded from elsewhere, and a Content-Security-Policy says so. One accent
colour (teal); red is for emergencies and failures. Contrast of text is at least 4.5 to 1 in light and dark.
Knows nothing of tabs.
"""

from __future__ import annotations

from typing import Any

import gradio as gr

_TEAL = gr.themes.Color(
    name="teal",
    c50="#effaf8",
    c100="#d3f1ec",
    c200="#a7e3da",
    c300="#6fcdc1",
    c400="#34b1a3",
    c500="#149488",
    c600="#0d7d73",
    c700="#0f6b63",
    c800="#11564f",
    c900="#124742",
    c950="#04302d",
)
_SLATE = gr.themes.Color(
    name="slate",
    c50="#f5f8f8",
    c100="#edf1f1",
    c200="#dce4e3",
    c300="#c2cdcc",
    c400="#8b9a99",
    c500="#5d6d6c",
    c600="#485756",
    c700="#33413f",
    c800="#1e2a29",
    c900="#141d1c",
    c950="#0d1414",
)
_SANS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "Helvetica Neue", "Arial", "sans-serif"]
_MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "Liberation Mono", "monospace"]


def build_theme() -> gr.themes.Base:
    """The theme, light and dark."""
    theme = gr.themes.Base(
        primary_hue=_TEAL,
        secondary_hue=_TEAL,
        neutral_hue=_SLATE,
        font=_SANS,
        font_mono=_MONO,
        text_size=gr.themes.sizes.text_lg,
        radius_size=gr.themes.sizes.radius_lg,
        spacing_size=gr.themes.sizes.spacing_md,
    )
    return theme.set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        body_text_color="#17211f",
        body_text_color_dark="#e6eeec",
        body_text_color_subdued="*neutral_500",
        body_text_color_subdued_dark="#9fb0ad",
        background_fill_primary="white",
        background_fill_primary_dark="*neutral_900",
        background_fill_secondary="*neutral_50",
        background_fill_secondary_dark="*neutral_950",
        block_background_fill="white",
        block_background_fill_dark="*neutral_900",
        block_border_color="*neutral_200",
        block_border_color_dark="#293635",
        block_shadow="none",
        block_shadow_dark="none",
        block_label_text_color="*neutral_600",
        block_label_text_color_dark="#b7c5c2",
        block_title_text_color="#17211f",
        block_title_text_color_dark="#e6eeec",
        block_title_text_weight="600",
        block_title_text_size="*text_sm",
        block_info_text_size="*text_sm",
        block_info_text_color="*neutral_500",
        block_info_text_color_dark="#9fb0ad",
        border_color_primary="*neutral_200",
        border_color_primary_dark="#293635",
        border_color_accent="*primary_600",
        border_color_accent_dark="*primary_400",
        input_background_fill="white",
        input_background_fill_dark="#101817",
        input_border_color="*neutral_300",
        input_border_color_dark="#35433f",
        input_border_color_focus="*primary_600",
        input_border_color_focus_dark="*primary_400",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="#8b9c99",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_hover_dark="*primary_700",
        button_primary_text_color="white",
        button_primary_text_color_dark="white",
        button_secondary_background_fill="white",
        button_secondary_background_fill_dark="#1b2726",
        button_secondary_background_fill_hover="*neutral_100",
        button_secondary_background_fill_hover_dark="#243231",
        button_secondary_border_color="*neutral_300",
        button_secondary_border_color_dark="#35433f",
        button_border_width="1px",
        button_border_width_dark="1px",
        input_border_width="1px",
        input_border_width_dark="1px",
        button_primary_border_color="*primary_700",
        button_primary_border_color_dark="*primary_600",
        button_large_text_size="*text_md",
        button_large_padding="10px 22px",
        button_medium_padding="9px 18px",
        button_large_text_weight="600",
        button_medium_text_weight="500",
        button_small_text_weight="500",
        link_text_color="*primary_700",
        link_text_color_dark="*primary_300",
        color_accent_soft="*primary_50",
        color_accent_soft_dark="#123430",
        checkbox_label_background_fill_selected="*primary_50",
        checkbox_label_background_fill_selected_dark="#123430",
        checkbox_label_border_color_selected="*primary_600",
        checkbox_label_border_color_selected_dark="*primary_400",
        checkbox_label_text_color_selected="*primary_800",
        checkbox_label_text_color_selected_dark="*primary_200",
        checkbox_background_color_selected="*primary_600",
        checkbox_background_color_selected_dark="*primary_500",
        chatbot_text_size="*text_md",
        slider_color="*primary_600",
        slider_color_dark="*primary_400",
    )


# The page, its requests and its media come from this server alone. Gradio's own bundle needs inline styles and
# scripts, and data: and blob: for images and workers. Who may frame the page is the Space's business.
CONTENT_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self' blob: data:; media-src 'self' blob: data:; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'"
)


class PolicyMiddleware:
    """Adds the policy, and headers that keep the page's address and its types to itself, to each response (ASGI)."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {
                    **message,
                    "headers": [
                        *message["headers"],
                        (b"content-security-policy", CONTENT_POLICY.encode()),
                        (b"referrer-policy", b"no-referrer"),
                        (b"x-content-type-options", b"nosniff"),
                    ],
                }
            await send(message)

        await self.app(scope, receive, with_headers)


# Light or dark as the system says, until the visitor presses the switch; remembered in the browser.
HEAD = """
<meta name="color-scheme" content="light dark">
<script>
(() => {
  const KEY = "medassist-theme";
  const read = () => { try { return localStorage.getItem(KEY); } catch { return null; } };
  const apply = () => {
    const wanted = read();
    if (wanted && document.body) document.body.classList.toggle("dark", wanted === "dark");
  };
  document.addEventListener("click", (event) => {
    if (!event.target.closest?.("#ma-theme")) return;
    const dark = !document.body.classList.contains("dark");
    try { localStorage.setItem(KEY, dark ? "dark" : "light"); } catch { /* private window */ }
    document.body.classList.toggle("dark", dark);
  });
  // The chat scrolls to its end by itself; an emergency is read from its beginning.
  let last = null;
  new MutationObserver(() => {
    const cards = document.querySelectorAll("#ma-chat .ma-emergency");
    const card = cards[cards.length - 1];
    if (!card || card === last) { if (!card) last = null; return; }
    last = card;
    const rows = document.querySelectorAll("#ma-chat .message-row");
    if (!rows.length || !rows[rows.length - 1].contains(card)) return;
    for (const wait of [60, 250, 600]) setTimeout(() => {
      const log = card.closest(".bubble-wrap");
      if (log) log.scrollTop += card.getBoundingClientRect().top - log.getBoundingClientRect().top - 8;
    }, wait);
  }).observe(document.documentElement, {childList: true, subtree: true});
  // The page's own start sets light or dark as the system says; what was chosen here wins.
  const begin = () => {
    apply();
    new MutationObserver(() => {
      const wanted = read();
      if (wanted && document.body.classList.contains("dark") !== (wanted === "dark")) apply();
    }).observe(document.body, {attributes: true, attributeFilter: ["class"]});
  };
  if (document.body) begin(); else document.addEventListener("DOMContentLoaded", begin);
})();
</script>
"""

CSS = """
:root { --ma-accent:#0f6b63; --ma-soft:#e3f4f1; --ma-mark:#c8ece5; --ma-dim:#5d6d6c; --ma-line:#dce4e3; --ma-card:#fff;
  --ma-good:#0f6b63; --ma-good-bg:#e6f6f2; --ma-warn:#8a5300; --ma-warn-bg:#fdf3df; --ma-bad:#b42318; --ma-bad-bg:#fdecea;
  --ma-grid:#e8eeed; --ma-held:#b26a00; --ma-tile-dim:#4d5c5b; }
.dark { --ma-accent:#6fcdc1; --ma-soft:#14322f; --ma-mark:#14524b; --ma-dim:#9fb0ad; --ma-line:#293635; --ma-card:#141d1c;
  --ma-good:#7fd9cc; --ma-good-bg:#10302c; --ma-warn:#f0b95a; --ma-warn-bg:#33260d; --ma-bad:#ff9b90; --ma-bad-bg:#3a1512;
  --ma-grid:#223030; --ma-held:#f0b95a; --ma-tile-dim:#b7c5c2; }
.gradio-container { max-width:min(1180px, 100vw) !important; min-width:0 !important; margin:0 auto !important; padding:0 20px 40px !important; }
.gradio-container main.app, .gradio-container .app { padding:0 !important; }
.gradio-container *:focus-visible { outline:2px solid var(--ma-accent); outline-offset:2px; }
.gradio-container h1, .gradio-container h3 { margin:0 !important; line-height:1.25; }
.ma-dim { color:var(--ma-dim); }
.gradio-container .html-container { padding:0 !important; }

/* head */
.ma-head { display:flex; align-items:center; justify-content:space-between; gap:16px; padding:22px 0 12px; }
.ma-brand { display:flex; align-items:center; gap:14px; }
.ma-brand svg { flex:none; }
.ma-brand h1 { font-size:1.5rem !important; font-weight:700 !important; letter-spacing:-.02em; }
.ma-brand p { margin:1px 0 0 !important; color:var(--ma-dim); line-height:1.4; }
.ma-logo-fill { fill:#0f6b63; } .dark .ma-logo-fill { fill:#0d7d73; }
.ma-icon { padding:0; border:1px solid var(--ma-line); background:var(--ma-card); color:inherit; border-radius:10px; width:44px; height:44px;
  display:grid; place-items:center; cursor:pointer; flex:none; }
.ma-notice { margin:0 !important; padding:8px 14px; border-radius:10px; background:var(--ma-soft); font-size:.9rem; line-height:1.45; }

/* tabs */
.tab-wrapper { height:auto !important; padding:10px 0 0 !important; }
.tab-container button { font-size:1.05rem !important; font-weight:600 !important; padding:10px 18px !important; min-height:46px; }
.tab-container button.selected { color:var(--ma-accent) !important; }
.tab-container button.selected::after { background:var(--ma-accent) !important; height:3px !important; }
.tabitem { padding:10px 0 0 !important; border:0 !important; background:transparent !important; }

/* cards */
.ma-card { background:var(--ma-card); border:1px solid var(--ma-line); border-radius:14px; padding:18px 20px; }
.ma-card h3 { font-size:1.05rem; font-weight:650; overflow-wrap:anywhere; }
.ma-card p { margin:8px 0 0 !important; line-height:1.5; overflow-wrap:anywhere; }
.ma-chip { display:inline-block; padding:1px 10px; border-radius:99px; font-size:.85rem; font-weight:600; line-height:1.6;
  background:var(--ma-grid); white-space:nowrap; }
.ma-chip.good, .ma-chip.live { background:var(--ma-good-bg); color:var(--ma-good); }
.ma-chip.warn { background:var(--ma-warn-bg); color:var(--ma-warn); }
.ma-chip.bad { background:var(--ma-bad-bg); color:var(--ma-bad); }
.ma-note { padding:10px 14px; border-radius:10px; background:var(--ma-soft); line-height:1.45; overflow-wrap:anywhere; }
.ma-note + .ma-note { margin-top:8px; }
.ma-note.warn { background:var(--ma-warn-bg); color:var(--ma-warn); }
.ma-note.bad { background:var(--ma-bad-bg); color:var(--ma-bad); }
.ma-empty { display:flex; flex-direction:column; gap:4px; padding:26px 20px; border:1.5px dashed var(--ma-line); border-radius:14px;
  text-align:center; color:var(--ma-dim); }
.ma-empty b { color:inherit; font-weight:650; }
.ma-lead { margin:2px 0 !important; font-size:1.05rem; line-height:1.5; max-width:70ch; }
.ma-lead b { font-weight:650; }
.ma-sub { margin:2px 0 !important; font-weight:650; font-size:1.05rem; }

/* preview */
.ma-facts { margin:0; padding-left:1.15em; line-height:1.55; font-size:.95rem; }
.ma-facts li { margin:0 0 2px; overflow-wrap:anywhere; }
.ma-example pre { margin:0; padding:14px 16px; border-radius:12px; background:var(--ma-grid); white-space:pre-wrap;
  overflow-wrap:anywhere; font-size:.9rem; line-height:1.55; height:270px; overflow-y:auto; font-family:var(--font-mono); }
.ma-legend { display:flex; flex-wrap:wrap; gap:4px 12px; align-items:center; margin:0 0 6px; font-size:.9rem; }
.ma-legend > span:first-child { padding:0 6px; border-radius:5px; background:var(--ma-grid); }
.gradio-container mark { background:var(--ma-mark); color:inherit; border-radius:4px; padding:0 2px; }
.ma-nav { align-items:center !important; flex-wrap:nowrap !important; }
.ma-nav button { min-width:48px !important; max-width:64px; }
.ma-count { text-align:center; color:var(--ma-dim); }
#facts .ma-note { margin:0 0 8px; }
#dataset input, #base input { text-overflow:ellipsis; }
#dataset .wrap-inner, #base .wrap-inner, #dataset .secondary-wrap, #base .secondary-wrap { min-width:0; }
.ma-hist { margin:0; } .ma-hist figcaption { font-size:.9rem; color:var(--ma-dim); margin:0 0 6px; }
.ma-hist svg { width:100%; height:auto; display:block; } .ma-hist rect.in { fill:var(--ma-accent); } .ma-hist rect.over { fill:var(--ma-held); }
.ma-hist .limit { stroke:var(--ma-held); stroke-width:1.5; stroke-dasharray:4 3; }
.ma-hist text { font-size:12px; fill:var(--ma-dim); } .ma-hist .limit-text { fill:var(--ma-held); }
.ma-clean td:nth-child(1) { min-width:220px; } .ma-clean td:nth-child(4) { width:46%; }
.ma-clean .ma-dim { font-size:.9rem; } .ma-clean .ma-chip { margin-left:4px; }
.ma-more summary { cursor:pointer; color:var(--ma-accent); font-size:.9rem; padding:2px 0; }
.ma-diff { display:flex; flex-direction:column; gap:3px; margin:6px 0 10px; font-size:.88rem; line-height:1.45; text-align:left; }
.ma-diff del, .ma-diff ins { display:block; text-decoration:none; padding:6px 10px; border-radius:8px; white-space:pre-wrap;
  overflow-wrap:anywhere; }
.ma-diff del { background:var(--ma-grid); } .ma-diff ins { background:var(--ma-mark); }
.ma-pair { padding:12px 0; border-bottom:1px solid var(--ma-line); display:grid; grid-template-columns:1fr 1fr; gap:6px 22px; }
.ma-pair:last-child { border-bottom:0; } .ma-pair h4 { grid-column:1 / -1; font-weight:650; font-size:1rem; margin:0; }
.ma-pair dl { height:auto !important; align-content:start; margin:4px 0 0; font-size:.92rem; line-height:1.45; display:grid; grid-template-columns:minmax(70px,auto) 1fr; gap:3px 12px; }
.ma-pair dt { color:var(--ma-dim); font-size:.85rem; max-width:130px; overflow-wrap:anywhere; }
.ma-pair dd { margin:0; white-space:pre-wrap; overflow-wrap:anywhere; min-width:0; }
.ma-cleaning { display:flex; flex-direction:column; gap:8px; } .ma-cleaning p { margin:0 !important; font-size:.92rem; line-height:1.5; }
.ma-pair > div { min-width:0; }
.ma-grid .ma-steps-on { grid-column:1 / -1; }

/* a run */
.ma-run-head { display:flex; align-items:center; gap:12px; justify-content:space-between; }
.ma-end .ma-run-head { justify-content:flex-start; }
.ma-steps { list-style:none; display:flex; gap:6px; margin:14px 0 10px; padding:0; }
.ma-steps li { flex:1; margin:0; padding-top:8px; border-top:3px solid var(--ma-line); color:var(--ma-dim); font-size:.9rem; }
.ma-steps li.done { border-color:var(--ma-accent); }
.ma-steps li.now { border-color:var(--ma-accent); color:var(--ma-accent); font-weight:650; }
.ma-bar { height:10px; border-radius:99px; background:var(--ma-grid); overflow:hidden; }
.ma-bar i { display:block; height:100%; width:0; border-radius:99px; background:var(--ma-accent); transition:width .6s ease; }
.ma-bar.busy i { width:34%; animation:ma-slide 1.6s ease-in-out infinite; transition:none; }
@keyframes ma-slide { 0% { margin-left:-34%; } 100% { margin-left:100%; } }
.ma-figures { font-variant-numeric:tabular-nums; }
.ma-plot { margin:0; padding:14px 18px 8px; border:1px solid var(--ma-line); border-radius:14px; background:var(--ma-card); }
.ma-plot-key { display:flex; flex-wrap:wrap; gap:4px 16px; font-size:.9rem; }
.ma-plot-key .k::before { content:""; display:inline-block; width:16px; height:3px; border-radius:3px; margin-right:7px;
  vertical-align:middle; background:var(--ma-accent); }
.ma-plot-key .held::before { background:var(--ma-held); height:9px; width:9px; border-radius:9px; }
.ma-plot-box { position:relative; height:210px; margin:12px 6px 22px 40px; }
.ma-plot svg { position:absolute; inset:0; width:100%; height:100%; overflow:visible; }
.ma-plot polyline, .ma-plot path { fill:none; vector-effect:non-scaling-stroke; }
.ma-plot .grid { stroke:var(--ma-grid); stroke-width:1; }
.ma-plot .raw { stroke:var(--ma-accent); stroke-width:1; opacity:.3; }
.ma-plot .train { stroke:var(--ma-accent); stroke-width:2.2; stroke-linejoin:round; }
.ma-plot .held { stroke:var(--ma-held); stroke-width:1.6; stroke-dasharray:5 5; }
.ma-plot .dot { stroke:var(--ma-held); stroke-width:9; stroke-linecap:round; }
.ma-plot .ma-y span { position:absolute; right:calc(100% + 8px); transform:translateY(-50%); font-size:.8rem; color:var(--ma-dim); }
.ma-plot .ma-x span { position:absolute; top:calc(100% + 4px); transform:translateX(-50%); font-size:.8rem; color:var(--ma-dim); }
.ma-plot .ma-x span:first-child { transform:none; } .ma-plot .ma-x span:last-child { transform:translateX(-100%); }
.ma-plot figcaption { text-align:center; font-size:.8rem; line-height:1; }
.ma-plot-empty { position:absolute; inset:0; display:grid; place-items:center; text-align:center; color:var(--ma-dim);
  border:1.5px dashed var(--ma-line); border-radius:12px; }
.ma-end { border-left-width:6px; }
.ma-end.good { border-left-color:var(--ma-good); } .ma-end.warn { border-left-color:var(--ma-warn); }
.ma-end.bad { border-left-color:var(--ma-bad); }
.ma-mark { flex:none; display:grid; place-items:center; width:42px; height:42px; border-radius:99px; font-size:1.25rem; font-weight:700; }
.ma-end.good .ma-mark { background:var(--ma-good-bg); color:var(--ma-good); }
.ma-end.warn .ma-mark { background:var(--ma-warn-bg); color:var(--ma-warn); }
.ma-end.bad .ma-mark { background:var(--ma-bad-bg); color:var(--ma-bad); }
.ma-tiles { display:grid; grid-template-columns:repeat(auto-fit, minmax(220px, 1fr)); gap:12px; margin-top:14px; }
.ma-tile { display:flex; flex-direction:column; gap:3px; padding:12px 14px; border-radius:12px; background:var(--ma-grid); }
.ma-tile span { font-size:.9rem; } .ma-tile b { font-size:1.2rem; font-variant-numeric:tabular-nums; }
.ma-tile span, .ma-tile small { color:var(--ma-tile-dim); }
.ma-tile small { font-size:.85rem; }
.ma-actions { gap:10px !important; flex-wrap:wrap !important; margin:-4px 0; }
.ma-actions button { flex:0 1 auto !important; width:auto !important; min-width:130px !important; }
.label-wrap { text-align:left !important; gap:12px; min-height:28px; } .label-wrap > span { text-align:left; }
.ma-split { display:flex; height:8px; border-radius:9px; overflow:hidden; margin-top:5px; }
.ma-split .won { background:var(--ma-accent); } .ma-split .tied { background:#9aa8a6; } .ma-split .lost { background:#d9a441; }
.ma-table { overflow-x:auto; }
.ma-table table { width:100%; border-collapse:collapse; font-size:.95rem; }
.ma-table th { text-align:left; font-weight:600; color:var(--ma-dim); padding:8px 10px; border-bottom:1px solid var(--ma-line); white-space:nowrap; }
.ma-table td { padding:9px 10px; vertical-align:top; overflow-wrap:anywhere; font-variant-numeric:tabular-nums; }
.ma-table th, .ma-table td { border:0 !important; border-bottom:1px solid var(--ma-line) !important; }
.ma-table table, .ma-table tr, .ma-gate table, .ma-gate tr, .ma-gate th, .ma-gate td { border:0 !important; }
.ma-tools { align-items:flex-end !important; gap:10px !important; } .ma-tools button { flex:0 1 auto !important; width:auto !important; }
.ma-grid > .form { background:transparent !important; display:grid !important; grid-template-columns:repeat(auto-fill, minmax(250px, 1fr)); border:0; }
.ma-grid > .form > * { border:0 !important; }

/* answers */
.ma-pair > div > *, .ma-pair .html-container, .ma-pair .prose, .ma-pair .ma-answer { height:100%; }
.ma-answer { min-height:190px; display:flex; flex-direction:column; }
.ma-answer.tuned { border-top:4px solid var(--ma-accent); } .ma-answer.base { border-top:4px solid #9aa8a6; }
.ma-answer-text { flex:1; margin-top:8px; white-space:pre-wrap; line-height:1.6; max-width:78ch; overflow-wrap:anywhere; }
footer .divider { display:none !important; }
.ma-card footer { margin-top:12px; font-size:.9rem; }
.ma-reference { background:var(--ma-soft); border-color:transparent; }
.ma-typing { display:inline-flex; gap:4px; padding:0 4px; vertical-align:middle; }
.ma-typing i { width:7px; height:7px; border-radius:9px; background:var(--ma-accent); animation:ma-blink 1.2s infinite both; }
.ma-typing i:nth-child(2) { animation-delay:.2s; } .ma-typing i:nth-child(3) { animation-delay:.4s; }
@keyframes ma-blink { 0%, 80%, 100% { opacity:.25; } 40% { opacity:1; } }
.ma-chips { gap:8px !important; flex-wrap:wrap !important; }
.ma-chips button { flex:0 1 auto !important; width:auto !important; min-width:0 !important; border-radius:99px !important; white-space:normal;
  text-align:left; min-height:40px; padding:6px 16px !important; }

/* chat */
#ma-chat { height:max(440px, calc(100dvh - 330px)) !important; } #ma-chat .icon-button-wrapper.top-panel { display:none; }
#ma-chat .message { font-size:1rem; line-height:1.6; } #ma-chat .message, #ma-chat .prose, #ma-chat .md { opacity:1 !important; }
#ma-chat .placeholder { text-align:center; } #ma-chat .example { min-height:0 !important; }
#ma-chat .message, #ma-chat .message * { overflow-wrap:break-word; word-break:normal; }
#ma-chat .bot, #ma-chat .user { max-width:78ch; }
#ma-chat .message-row.bot-row:has(.ma-emergency) { max-width:100%; }
#ma-chat .bot:has(.ma-emergency) { background:none !important; border:0 !important; padding:0 !important; max-width:100% !important; width:100%; }
.ma-emergency { border:3px solid #c4281b; border-radius:16px; padding:20px 22px; background:#fff3f1; color:#3b0d08; }
.dark .ma-emergency { background:#3b110d; color:#ffe9e6; border-color:#ff6a5b; }
.ma-emergency h3 { font-size:1.5rem !important; font-weight:750; margin:0 0 10px !important; line-height:1.25; color:inherit !important; }
.ma-emergency ol { margin:0 0 14px !important; padding-left:1.3em !important; font-size:1.1rem; line-height:1.5; }
.ma-emergency li { margin:4px 0; color:inherit; }
.ma-em-kicker { display:inline-block; margin:0 0 8px !important; padding:2px 12px; border-radius:99px; background:#b42318; color:#fff !important;
  font-weight:700; letter-spacing:.04em; text-transform:uppercase; font-size:.85rem; }
.ma-numbers { display:flex; flex-wrap:wrap; gap:10px; }
.ma-number { display:flex; flex-direction:column; padding:8px 18px; text-align:left; border-radius:12px; background:#b42318; color:#fff !important;
  text-decoration:none !important; min-width:96px; }
.ma-number b { font-size:1.9rem; line-height:1.15; color:#fff !important; font-variant-numeric:tabular-nums; overflow-wrap:anywhere; }
.ma-number span { font-size:.9rem; color:#fff; } .ma-number.text b { font-size:1.15rem; }
.ma-em-foot { margin:14px 0 0 !important; font-size:.9rem; color:inherit !important; }
.ma-quiet { color:var(--ma-dim); border-left:3px solid var(--ma-line); padding:2px 0 2px 14px; }
.ma-gate { font-size:.95rem; padding:2px 4px; min-height:28px; }
.ma-gate summary { cursor:pointer; display:flex; align-items:center; gap:10px; list-style:none; flex-wrap:wrap; }
.ma-gate .ma-why { color:var(--ma-accent); text-decoration:underline; }
.ma-gate table { border-collapse:collapse; margin-top:6px; } .ma-gate td, .ma-gate th { text-align:left; padding:3px 18px 3px 0; }
.ma-gate p { margin:8px 0 0; }
#ma-input-row { position:sticky; bottom:0; z-index:20; background:var(--body-background-fill); padding:10px 0 12px; align-items:stretch !important; }
#ma-input-row button { min-height:52px; }
#ma-chat .examples { max-width:min(640px, 100%); margin:0 auto; grid-template-columns:repeat(auto-fit, minmax(min(260px, 100%), 1fr)) !important; }
#ma-chat, #ma-chat .wrapper, #ma-chat .placeholder-content, #ma-chat .placeholder { min-width:0; max-width:100%; }
.ma-row-quiet button { flex:0 0 auto !important; width:auto !important; }
.ma-code .cm-content, .ma-code .cm-line { font-size:.9rem; }
#ma-log textarea { font-family:var(--font-mono); font-size:.85rem; line-height:1.5; }

@media (max-width:760px) {
  .gradio-container { padding:0 12px 20px !important; }
  .ma-head { padding:14px 0 10px; } .ma-brand h1 { font-size:1.3rem; } .ma-brand p { font-size:.95rem; }
  .ma-brand svg { width:36px; height:36px; }
  .ma-card { padding:14px 14px; } .ma-plot { padding:12px 12px 6px; } .ma-steps li { font-size:.8rem; }
  .tab-container button { padding:8px 14px !important; }
  .ma-table thead { display:none; } .ma-table tr { display:block; padding:10px 0; border-bottom:1px solid var(--ma-line); }
  .ma-table td { display:flex; justify-content:space-between; gap:14px; border:0 !important; padding:3px 0; text-align:right; }
  .ma-pair { grid-template-columns:1fr; }
  .ma-clean td { display:block; text-align:left; } .ma-clean td:nth-child(4) { width:auto; }
  .ma-clean td::before { margin-right:8px; } .ma-clean td:first-child::before { display:none; }
  .ma-hist text { font-size:21px; }
  .ma-table td::before { content:attr(data-label); color:var(--ma-dim); text-align:left; flex:none; }
  .ma-numbers { gap:8px; } .ma-number { padding:6px 12px; min-width:0; flex:1 1 auto; } .ma-number b { font-size:1.6rem; }
  .ma-emergency { padding:14px; display:flex; flex-direction:column; align-items:flex-start; } .ma-emergency .ma-numbers { order:1; }
  .ma-emergency ol { order:2; margin-top:10px !important; } .ma-em-foot { order:3; } .ma-number { padding:6px 12px; } .ma-emergency h3 { font-size:1.3rem !important; } .ma-emergency ol { font-size:1.02rem; }
  #ma-input-row { flex-wrap:nowrap !important; }
  #ma-input-row > button, #ma-input-row .ma-send { min-width:76px !important; flex:0 0 auto !important; width:auto !important; }
  #ma-chat { height:calc(100dvh - 300px) !important; min-height:320px; }
}
@media (prefers-reduced-motion:reduce) { .ma-typing i, .ma-bar.busy i { animation:none; } .ma-bar i { transition:none; } }
"""
