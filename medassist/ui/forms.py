"""Widgets from the fields of `config`, and their values back as a `RunConfig`.

Labels, help, limits and defaults stand once, on the config's fields; here stands only which of them the form
offers, in which group, and what kind of widget each is. Computes nothing about runs.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from medassist import access, catalog
from medassist.config import CLEANING_STEPS, PRESETS, DataConfig, RunConfig, build_config, field_spec, parse_value
from medassist.generation import MAX_NEW_TOKENS, Sampling
from medassist.paths import local_path

RECOMMENDED = "recommended"


@dataclass(frozen=True)
class Setting:
    """One folded setting: its dotted key and its widget.

    number, optional (a number or empty), text, lines (a list, one a line), choice, check, or steps (of cleaning).
    """

    key: str
    kind: str


SETTINGS: dict[str, tuple[Setting, ...]] = {
    "Training": (
        Setting("train.num_train_epochs", "number"),
        Setting("train.learning_rate", "number"),
        Setting("train.per_device_train_batch_size", "text"),
        Setting("train.gradient_accumulation_steps", "number"),
        Setting("train.max_steps", "optional"),
        Setting("train.lr_scheduler_type", "choice"),
        Setting("train.warmup_ratio", "number"),
        Setting("train.weight_decay", "number"),
        Setting("train.seed", "number"),
        Setting("evaluate.budget", "choice"),
    ),
    "Adapter (LoRA)": (
        Setting("lora.r", "number"),
        Setting("lora.alpha", "number"),
        Setting("lora.dropout", "number"),
        Setting("lora.target_modules", "text"),
    ),
    "Data": (
        Setting("data.max_length", "number"),
        Setting("datasets.0.max_rows", "optional"),
        Setting("datasets.0.select", "choice"),
        Setting("datasets.0.mapping", "text"),
        Setting("data.test_size", "optional"),
        Setting("data.eval_size", "optional"),
        Setting("data.split_by", "choice"),
        Setting("data.prompt_format", "choice"),
        Setting("data.system_prompt", "text"),
        Setting("data.max_answer_chars", "number"),
        Setting("datasets.0.options_in_prompt", "check"),
        Setting("datasets.0.single_answer_only", "check"),
        Setting("datasets.0.subset", "text"),
        Setting("datasets.0.split", "text"),
        Setting("datasets.0.revision", "text"),
        Setting("data.benchmarks", "lines"),
        Setting("data.clean", "steps"),
    ),
    "Run and machine": (
        Setting("name", "text"),
        Setting("train.precision", "choice"),
        Setting("train.gradient_checkpointing", "choice"),
        Setting("base.load_in_4bit", "check"),
    ),
}
FIELDS: tuple[Setting, ...] = tuple(s for group in SETTINGS.values() for s in group)


def build_setting(setting: Setting, value: Any) -> gr.components.Component:
    """The widget of one setting, with its label and help from the config's field."""
    spec = field_spec(setting.key.replace(".0.", "."))
    shared: dict[str, Any] = {
        "label": spec.label,
        "info": _help(spec),
        "elem_id": "set-" + setting.key.replace(".", "-"),
    }
    shown = to_widget(value)
    if setting.kind == "choice":
        return gr.Dropdown(choices=list(spec.choices), value=shown, filterable=False, **shared)
    if setting.kind == "steps":
        choices = [(step.title, name) for name, step in CLEANING_STEPS.items()]
        return gr.CheckboxGroup(choices, value=_steps_on(value), elem_classes="ma-steps-on", **shared)
    if setting.kind == "lines":
        return gr.Textbox(value="\n".join(value), lines=1, max_lines=4, placeholder="empty", **shared)
    if setting.kind == "check":
        return gr.Checkbox(value=bool(shown), **shared)
    if setting.kind == "number":
        return gr.Number(value=shown, **shared)
    if setting.kind == "optional":  # a Number would show 0 for nothing
        return gr.Textbox(value="" if shown is None else str(shown), max_lines=1, placeholder="empty", **shared)
    return gr.Textbox(value=shown, max_lines=4, **shared)


def _steps_on(value: Any) -> list[str]:
    """The cleaning steps that a value of `data.clean` switches on, in their order."""
    on = DataConfig(clean=value).cleaning()
    return [name for name in CLEANING_STEPS if name in on]


def _help(spec: Any) -> str:
    """The field's help with its limits, where they say something."""
    if spec.minimum is None:
        return spec.help
    if spec.maximum is None or spec.maximum >= 1e6:
        return f"{spec.help} At least {spec.minimum:g}." if spec.minimum else spec.help
    return f"{spec.help} {spec.minimum:g} to {spec.maximum:,g}."


def to_widget(value: Any) -> Any:
    """A config value as a widget shows it: lists and mappings as text, nothing as empty."""
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    if isinstance(value, Mapping):
        return json.dumps(value)
    return value


def from_widget(setting: Setting, value: Any) -> Any:
    """A widget's value as the config takes it; empty is None."""
    if setting.kind == "lines":
        return [line.strip() for line in str(value or "").splitlines() if line.strip()]
    if setting.kind == "steps":
        chosen = [name for name in CLEANING_STEPS if name in (value or ())]
        return "default" if chosen == _steps_on("default") else chosen or "none"
    if value is None or isinstance(value, str) and not value.strip():
        return None
    if setting.kind == "optional":
        return parse_value(str(value))
    if setting.kind != "text" or not isinstance(value, str):
        return value
    if setting.key == "lora.target_modules":
        names = value.replace(",", " ").split()
        return "all-linear" if names == ["all-linear"] else names
    if setting.key in ("train.per_device_train_batch_size", "datasets.0.mapping"):
        return parse_value(value)
    return value.strip()


# Settings that may be empty; an emptied other one falls back to its default instead of being refused as "None".
_MAY_BE_EMPTY = frozenset(
    {
        "train.max_steps",
        "datasets.0.max_rows",
        "datasets.0.subset",
        "datasets.0.split",
        "datasets.0.revision",
        "data.test_size",
        "data.eval_size",
        "data.system_prompt",
        "name",
    }
)


def setting_values(config: RunConfig) -> list[Any]:
    """The widgets' values for a config, in the order of FIELDS."""
    tree = config.model_dump()
    return [_shown(s, get_dotted(tree, s.key)) for s in FIELDS]


def _shown(setting: Setting, value: Any) -> Any:
    if setting.kind == "steps":
        return _steps_on(value)
    return "\n".join(value) if setting.kind == "lines" else to_widget(value)


def get_dotted(tree: Any, key: str) -> Any:
    """`datasets.0.max_rows` of nested dicts and lists."""
    for part in key.split("."):
        tree = tree[int(part)] if isinstance(tree, list) else tree[part]
    return tree


def recommended(base: str) -> RunConfig:
    """Settings that suit a base model: the quick recipe's for mini, the defaults for others."""
    entry = catalog.find_base(base)
    if entry is not None and entry.name == "mini":
        return build_config(catalog.get_recipe("quick").settings)
    return build_config({"base": {"id": base or "mini"}})


def config_from_form(under: Mapping[str, Any], base: str, dataset: str, more: str, values: Sequence[Any]) -> RunConfig:
    """The run's settings as the form shows them.

    Args:
        under: settings of a recipe or an earlier run, for what the form has no widget for.
        more: further datasets, one a line.

    Raises:
        ConfigError, ModelError, DataError: with every problem of the settings.
    """
    public = access.is_public()
    base = catalog.check_base_id(str(base or "").strip(), catalogue_only=public)
    names = [str(dataset or "").strip(), *(line.strip() for line in (more or "").splitlines() if line.strip())]
    ids = [catalog.check_dataset_id(n, catalogue_only=public) for n in names]
    before = dict(under or {})
    old_base = dict(before.get("base") or {})
    if not _same(catalog.find_base, str(old_base.get("id", "")), base):
        old_base.pop("revision", None)
    layer = {"base": {**old_base, "id": base}, "datasets": _datasets(before.get("datasets") or [], ids)}
    dotted = {}
    for setting, value in zip(FIELDS, values, strict=True):
        read = from_widget(setting, value)
        if read is not None or setting.key in _MAY_BE_EMPTY:
            dotted[setting.key] = read
    return build_config(before, layer, dotted=dotted)


def _same(find: Any, left: str, right: str) -> bool:
    a, b = find(left), find(right)
    return left == right or a is not None and a == b


def _datasets(before: list[dict[str, Any]], ids: list[str]) -> list[dict[str, Any]]:
    """The datasets wanted; one that stood there before keeps its columns and its revision."""
    swapped = catalog.replace_datasets({"datasets": before}, ids)["datasets"]
    for index, wanted in enumerate(ids):
        if index < len(before) and _same(catalog.find_dataset, str(before[index].get("id", "")), wanted):
            swapped[index] = {**before[index], "id": wanted}
    return swapped


def preset_of(config: RunConfig) -> str | None:
    """The preset whose settings a config has, or None."""
    tree = config.model_dump()
    return next(
        (name for name, keys in PRESETS.items() if all(get_dotted(tree, k) == v for k, v in keys.items())), None
    )


def with_preset(config: RunConfig, preset: str) -> RunConfig:
    """The config with a preset's settings."""
    return build_config(config.model_dump(), dotted=PRESETS.get(preset, {}))


def has_local_base(config: RunConfig) -> bool:
    """Whether the base lies on this machine, so that its tokenizer need not be fetched."""
    entry = catalog.find_base(config.base.id)
    return entry.name == "mini" if entry is not None else local_path(config.base.id) is not None


def has_local_data(config: RunConfig) -> bool:
    """Whether the datasets lie on this machine, so that looking at them fetches nothing."""
    return all(
        d.id == "starter" or catalog.find_dataset(d.id) is None and local_path(d.id) is not None
        for d in config.datasets
    )


def summary(config: RunConfig) -> str:
    """The folded settings' values, for the label over them."""
    train, lora = config.train, config.lora
    batch = train.per_device_train_batch_size
    parts = [
        f"{train.num_train_epochs:g} epoch{'' if train.num_train_epochs == 1 else 's'}",
        f"learning rate {train.learning_rate:g}",
        f"LoRA r {lora.r}",
        f"batch {batch}" + (f" × {train.gradient_accumulation_steps}" if train.gradient_accumulation_steps > 1 else ""),
    ]
    if train.max_steps:
        parts.append(f"at most {train.max_steps:,} steps")
    if config.base.load_in_4bit:
        parts.append("4-bit")
    return "All settings: " + ", ".join(parts)


def command_line(config: RunConfig, recipe: str | None = None) -> str:
    """The command that makes the same run; only what differs from the defaults, or from the recipe, is said."""
    start = build_config(catalog.get_recipe(recipe).settings) if recipe else RunConfig()
    words = ["python", "-m", "medassist", "train"]
    if recipe:
        words += ["--recipe", recipe]
    if not _same(catalog.find_base, config.base.id, start.base.id):
        words += ["--base", config.base.id]
    ours, theirs = config.model_dump(), start.model_dump()
    places = theirs["datasets"]
    if len(places) == len(ours["datasets"]) and all(
        _same(catalog.find_dataset, a["id"], b["id"]) for a, b in zip(places, ours["datasets"], strict=True)
    ):
        theirs["datasets"] = [{**a, "id": b["id"]} for a, b in zip(places, ours["datasets"], strict=True)]
    else:
        for dataset in ours["datasets"]:
            words += ["--dataset", dataset["id"]]
        places = places if recipe else []
        theirs["datasets"] = [
            {**RunConfig().model_dump()["datasets"][0], **d}
            for d in catalog.replace_datasets({"datasets": places}, [d["id"] for d in ours["datasets"]])["datasets"]
        ]
    theirs["base"] = {**theirs["base"], "id": ours["base"]["id"]}
    for key, value in _flat(ours):
        if value != get_dotted(theirs, key):
            words += ["--set", f"{key}={_as_text(value)}"]
    return " ".join(shlex.quote(w) for w in words)


def _flat(tree: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Dotted settings and their values; lists of plain values are values."""
    if isinstance(tree, dict) and not prefix.endswith("mapping."):
        return [pair for k, v in tree.items() for pair in _flat(v, f"{prefix}{k}.")]
    if isinstance(tree, list) and tree and isinstance(tree[0], dict):
        return [pair for i, v in enumerate(tree) for pair in _flat(v, f"{prefix}{i}.")]
    return [(prefix.rstrip("."), tree)]


def _as_text(value: Any) -> str:
    """A value that `--set` reads back as the same."""
    if isinstance(value, str) and parse_value(value) == value:
        return value
    if isinstance(value, list) and all(isinstance(v, str) for v in value):
        return "[" + ", ".join(value) + "]"
    return json.dumps(value, ensure_ascii=False)


# ── how answers are sampled ─────────────────────────────────────────────────────────────────────────


def build_sampling() -> list[gr.components.Component]:
    """Widgets for `Sampling`, in the order of `read_sampling`."""
    start = Sampling()
    return [
        gr.Slider(
            16,
            min(512, MAX_NEW_TOKENS),
            value=start.max_new_tokens,
            step=8,
            label="Longest answer",
            info="In tokens; a token is about three quarters of a word.",
        ),
        gr.Slider(
            0,
            1.5,
            value=start.temperature,
            step=0.05,
            label="Temperature",
            info="0 always takes the likeliest token; more is more varied.",
        ),
        gr.Slider(
            0.05,
            1,
            value=start.top_p,
            step=0.05,
            label="Top-p",
            info="With a temperature: the likeliest tokens that make up this share.",
        ),
        gr.Slider(
            1,
            1.5,
            value=start.repetition_penalty,
            step=0.05,
            label="Repetition penalty",
            info="Above 1, words already said become less likely.",
        ),
        gr.Number(value=start.seed, precision=0, label="Seed", info="The same seed gives the same answer."),
    ]


def read_sampling(values: Sequence[Any]) -> Sampling:
    """Raises UsageError for values out of range."""
    tokens, temperature, top_p, penalty, seed = values
    return Sampling(
        max_new_tokens=int(tokens or 0),
        temperature=float(temperature or 0),
        top_p=float(top_p or 0),
        repetition_penalty=float(penalty or 0),
        seed=int(seed or 0),
    ).checked()


def sampling_label(tokens: Any, temperature: Any) -> str:
    """The folded answer settings' values."""
    how = "always the likeliest word" if not temperature else f"temperature {temperature:g}"
    return f"Answer settings: {how}, up to {int(tokens or 0)} tokens"
