"""One run's settings: `RunConfig` and its parts, for form, file and command line alike.

Labels, help, limits and defaults stand once, on the fields. `build_config` merges layers
(recipe, file, named flags, `--set`; later wins) and reports every problem together, before
anything is loaded. This module knows nothing of models, datasets or the page.

    python -m medassist train --recipe quick --set train.learning_rate=1e-4 --dry-run
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from medassist.errors import ConfigError

HUB_ID = re.compile(r"^[\w.-]{1,96}/[\w.-]{1,96}\Z")
RUN_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
ATTENTION_AND_MLP = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


class BaseModelConfig(_Part):
    id: str = Field("mini", title="Base model", min_length=1, max_length=400,
                    description="A name from the catalogue, a Hub id (owner/name) or a local folder.")
    revision: str | None = Field(None, title="Revision", max_length=100,
                                 description="Branch, tag or commit on the Hub; empty for the newest.")
    load_in_4bit: bool = Field(False, title="4-bit base (QLoRA)",
                               description="Keep the base in 4-bit NF4: a third of the memory, needs bitsandbytes.")


class DatasetConfig(_Part):
    id: str = Field("starter", title="Dataset", min_length=1, max_length=400,
                    description="A name from the catalogue, a Hub id (owner/name), or a local file or folder.")
    subset: str | None = Field(None, title="Subset", max_length=100, description="The Hub dataset's config name.")
    revision: str | None = Field(None, title="Revision", max_length=100, description="Branch, tag or commit.")
    split: str | None = Field(None, title="Split", max_length=100,
                              description="The one split of a Hub or saved dataset to take; empty for all.")
    streaming: Literal["auto", "on", "off"] = Field(
        "auto", title="Streaming", description="Read a Hub dataset only as far as `max_rows` asks; `auto` does so for "
        "large ones when the first rows are wanted.")
    mapping: Literal["auto"] | dict[str, str] = Field(
        "auto", title="Columns",
        description="`auto`, or which column holds what, for example {question: Q, answer: A}.")
    max_rows: int | None = Field(None, title="Rows at most", ge=1, description="Empty for all rows.")
    select: Literal["first", "random", "longest_answer", "shortest_answer", "balanced_topics"] = Field(
        "first", title="Which rows", description="Which rows are kept when there are more than the limit; of exam "
        "questions the explanation's length counts.")
    single_answer_only: bool = Field(
        False, title="Single-answer rows only", description="Multiple choice: keep questions with one right answer.")
    options_in_prompt: bool = Field(
        True, title="Options in the prompt", description="Multiple choice: show the options with the question.")


@dataclass(frozen=True)
class CleaningStep:
    """One step of cleaning, as forms and reports name it."""

    title: str
    description: str
    default: bool = True


# In the order in which they are taken. `data.clean` switches them by these names.
CLEANING_STEPS: dict[str, CleaningStep] = {
    "html": CleaningStep("HTML", "Tags are taken out and entities such as &amp; are read."),
    "mojibake": CleaningStep("Broken encoding", "Text such as “Itâ€™s” is mended with the ftfy library."),
    "control_characters": CleaningStep("Control characters", "Invisible and control characters are taken out."),
    "white_space": CleaningStep("White space", "Runs of spaces, empty lines and spaces before marks are put in order."),
    "exam_phrases": CleaningStep(
        "Exam phrases", "“Ans. is 'c' i.e.”, “(B)” and “Ref: …” are taken out of explanations."),
    "boilerplate": CleaningStep(
        "Boilerplate", "Links to paid consultations and sentences that stand in 2 % of all answers are taken out."),
    "repeated_answers": CleaningStep(
        "Answers repeated for many questions", "Rows whose answer, of eight words or more, is given to 20 or more questions."),
    "site_help": CleaningStep("Help on using a web site", "Rows about pages, templates and log-ins instead of medicine."),
    "too_short": CleaningStep("Too short", "Rows with a question without words or an answer that says nothing alone."),
    "too_long": CleaningStep("Too long", "Answers over `data.max_answer_chars` are cut at the end of a sentence."),
    "off_topic": CleaningStep(
        "Off topic", "Rows whose question the gate would not let in. It took out 0.1 to 6 % of rows of medical sets, most of "
        "them good, so it is off at first.", False),
    "exact_duplicates": CleaningStep("Exact duplicates", "Rows with the same question and the same answer as one before."),
    "near_duplicates": CleaningStep(
        "Near duplicates", "Rows that differ from one before in filler words, spelling or a few words of the answer."),
    "personal_data": CleaningStep(
        "Personal data", "E-mail addresses, phone numbers and dates of birth are counted and never shown."),
    "drop_personal_data": CleaningStep("Rows with personal data", "Rows flagged by the step above are dropped.", False),
}


class DataConfig(_Part):
    seed: int = Field(42, title="Data seed", ge=0, le=2**31 - 1, description="Decides the splits and the samples.")
    eval_size: int | None = Field(None, title="Eval examples", ge=0, le=100_000,
                                  description="Empty: a tenth of the training part, at most 200.")
    test_size: int | None = Field(None, title="Test examples", ge=0, le=100_000,
                                  description="Held out for the comparison. Empty: the data's own, else a tenth.")
    max_length: int = Field(256, title="Longest example", ge=16, le=32_768,
                            description="In tokens; what is longer is cut at the end of the answer.")
    system_prompt: str | None = Field(None, title="System prompt", max_length=4_000,
                                      description="Said before every question, in training and in chat.")
    prompt_format: Literal["chat", "question_answer", "alpaca"] = Field(
        "chat", title="Prompt format",
        description="`chat` is the base model's own template; the others are plain text with ### headings.")
    clean: Literal["default", "none"] | list[str] = Field(
        "default", title="Cleaning",
        description="`default`, `none`, or a list of steps; [default, off_topic, -near_duplicates] changes the default.")
    max_answer_chars: int = Field(8_000, title="Longest answer in characters", ge=100, le=1_000_000,
                                  description="What is longer is cut at the end of a sentence.")
    min_answer_words: int = Field(1, title="Fewest words of an answer", ge=1, le=1_000,
                                  description="Rows with fewer are dropped as too short.")
    split_by: Literal["question", "topic"] = Field(
        "question", title="Split by", description="What must not stand in two splits: a question, or a whole topic "
        "where the data names one.")
    benchmarks: list[str] = Field(
        [], title="Benchmarks", max_length=16, description="Exam files or datasets whose questions must not be in the "
        "training data; the overlap is reported.")

    @field_validator("clean")
    @classmethod
    def _known_steps(cls, value):
        for name in value if isinstance(value, list) else []:
            if name != "default" and name.lstrip("+-") not in CLEANING_STEPS:
                near = difflib.get_close_matches(name.lstrip("+-"), CLEANING_STEPS, n=1)
                raise ValueError(f"'{name:.40}' is not a cleaning step" + (f"; did you mean '{near[0]}'?" if near else
                                 f"; the steps are {', '.join(CLEANING_STEPS)}"))
        return value

    def cleaning(self) -> frozenset[str]:
        """The cleaning steps that are on."""
        default = {name for name, step in CLEANING_STEPS.items() if step.default}
        if isinstance(self.clean, str):
            return frozenset(default if self.clean == "default" else ())
        # Changes alone ([-near_duplicates]) are changes to the default.
        wanted: set[str] = set(default) if all(name[:1] in "+-" for name in self.clean) and self.clean else set()
        for name in self.clean:
            if name == "default":
                wanted |= default
            elif name.startswith("-"):
                wanted.discard(name[1:])
            else:
                wanted.add(name.lstrip("+"))
        return frozenset(wanted)


class LoraSettings(_Part):
    r: int = Field(8, title="LoRA rank (r)", ge=1, le=512, description="Size of the adapter's matrices.")
    alpha: float = Field(16, title="LoRA alpha", gt=0, le=4_096, description="Scale of the adapter: alpha / r.")
    dropout: float = Field(0.05, title="LoRA dropout", ge=0, lt=1, description="Share of the inputs left out.")
    target_modules: Literal["all-linear"] | list[Annotated[str, Field(pattern=r"^[\w.]{1,100}$")]] = Field(
        "all-linear", title="Adapted layers", description="`all-linear`, or names such as q_proj and v_proj.")

    @field_validator("target_modules")
    @classmethod
    def _not_empty(cls, value):
        if not value:
            raise ValueError("name at least one layer, or all-linear")
        return value


class TrainConfig(_Part):
    num_train_epochs: float = Field(3, title="Epochs", gt=0, le=1_000, description="Passes over the training split.")
    max_steps: int | None = Field(None, title="Steps at most", ge=1, le=10_000_000,
                                  description="Ends the run after so many optimiser steps; empty for all epochs.")
    learning_rate: float = Field(2e-4, title="Learning rate", gt=0, le=1, description="At its highest, after warm-up.")
    per_device_train_batch_size: int | Literal["auto"] = Field(
        "auto", title="Batch size", description="Examples in one pass; `auto` is 8 on CPU; on a GPU the largest that fits, up to 16.")
    gradient_accumulation_steps: int = Field(1, title="Gradient accumulation", ge=1, le=4_096,
                                             description="Passes added up before each optimiser step.")
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = Field(
        "cosine", title="Schedule", description="How the learning rate falls.")
    warmup_ratio: float = Field(0.03, title="Warm-up", ge=0, lt=1, description="Share of the steps with a rising rate.")
    weight_decay: float = Field(0.0, title="Weight decay", ge=0, le=1, description="Of the adapter's weights.")
    max_grad_norm: float = Field(1.0, title="Gradient clipping", gt=0, le=1_000, description="Longest gradient.")
    seed: int = Field(42, title="Seed", ge=0, le=2**31 - 1, description="Of the adapter's start, dropout and order.")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", title="Precision", description="`auto` takes what this machine is really faster with.")
    gradient_checkpointing: Literal["auto", "on", "off"] = Field(
        "auto", title="Gradient checkpointing", description="Saves memory, costs time; `auto` only where memory asks.")
    keep: Literal["best", "last"] = Field(
        "best", title="Adapter kept", description="`best` is the one with the lowest loss on the eval split.")
    checkpoints_per_epoch: int = Field(2, title="Checkpoints an epoch", ge=0, le=1_000,
                                       description="0 saves only when stopped.")

    @field_validator("per_device_train_batch_size")
    @classmethod
    def _batch(cls, value):
        if value != "auto" and not 1 <= value <= 4_096:
            raise ValueError("between 1 and 4096, or auto")
        return value


class EvaluateConfig(_Part):
    budget: Literal["none", "quick", "full"] = Field(
        "quick", title="Comparison after training",
        description="`quick` scores 64 held-out questions and writes answers to 16; `full` scores up to 2,000 and answers 200.")


class RunConfig(_Part):
    """Everything needed to repeat a run."""

    name: str | None = Field(None, title="Run name", description="Small letters, digits, - _ and . ; empty for a made one.")
    base: BaseModelConfig = BaseModelConfig()
    datasets: list[DatasetConfig] = Field([DatasetConfig()], min_length=1, max_length=16)
    data: DataConfig = DataConfig()
    lora: LoraSettings = LoraSettings()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()

    @field_validator("name")
    @classmethod
    def _slug(cls, value: str | None) -> str | None:
        if value is not None and not is_run_name(value):
            raise ValueError("use 1 to 64 small letters, digits, '-', '_' or '.', starting with a letter or digit")
        return value

    @model_validator(mode="after")
    def _four_bit_precision(self) -> RunConfig:
        if self.base.load_in_4bit and self.train.precision == "fp32":
            raise ValueError("base.load_in_4bit does not go with train.precision=fp32; use auto")
        return self


def is_run_name(name: str) -> bool:
    """Whether `name` is a slug that is safe as a folder name."""
    return bool(RUN_NAME.fullmatch(name)) and ".." not in name and not name.endswith(".")


# What the page and the command line call "how long": changes over a recipe's own settings.
PRESETS: dict[str, dict[str, Any]] = {
    "quick": {"train.num_train_epochs": 2},
    "standard": {"train.num_train_epochs": 5},
    "thorough": {"train.num_train_epochs": 15},
}


@dataclass(frozen=True)
class FieldSpec:
    """One setting as a form needs it."""

    key: str
    label: str
    help: str
    default: Any
    minimum: float | None
    maximum: float | None
    choices: tuple[str, ...]


def field_spec(key: str) -> FieldSpec:
    """Label, help, default and limits of a dotted setting such as `train.learning_rate`."""
    model: type[BaseModel] = RunConfig
    *parents, last = key.split(".")
    for part in parents:
        annotation = model.model_fields[part].annotation
        model = get_args(annotation)[0] if get_origin(annotation) is list else annotation
    info = model.model_fields[last]
    low = next((m.ge if hasattr(m, "ge") else m.gt for m in info.metadata if hasattr(m, "ge") or hasattr(m, "gt")), None)
    high = next((m.le if hasattr(m, "le") else m.lt for m in info.metadata if hasattr(m, "le") or hasattr(m, "lt")), None)
    choices: list[str] = []
    for option in (info.annotation, *get_args(info.annotation)):
        if get_origin(option) is Literal:
            choices += [c for c in get_args(option) if c not in choices]
    return FieldSpec(key, info.title or last, info.description or "", info.get_default(call_default_factory=True),
                     low, high, tuple(choices))


def set_dotted(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set `a.b.c` in nested dicts; a number steps into a list (`datasets.0.max_rows`)."""
    parts = key.split(".")
    node: Any = tree
    for part, following in zip(parts, parts[1:] + [None]):
        if isinstance(node, list):
            if not part.isdigit() or int(part) > len(node):
                raise ConfigError([f"'{key}' does not name a setting: '{part}' is not a place in the list."])
            if int(part) == len(node):
                node.append({})
            if following is None:
                node[int(part)] = value
                return
            node = node[int(part)]
            continue
        if not isinstance(node, dict):
            raise ConfigError([f"'{key}' does not name a setting: '{part}' stands below a plain value."])
        if following is None:
            node[part] = value
            return
        node = node.setdefault(part, {})


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """`["train.learning_rate=1e-4"]` → {"train.learning_rate": 0.0001}; values are read as YAML."""
    found: dict[str, Any] = {}
    for text in assignments:
        key, sep, raw = text.partition("=")
        if not sep or not key.strip():
            raise ConfigError([f"--set {text!r} is not of the form key=value."],
                              "Write for example --set train.learning_rate=1e-4.")
        found[key.strip()] = parse_value(raw)
    return found


def parse_value(raw: str) -> Any:
    """A value as YAML reads it, and 1e-4 as the number it looks like (YAML 1.1 wants 1.0e-4)."""
    try:
        value = yaml.safe_load(raw)
    except yaml.YAMLError:
        return raw
    return _number(value)


def _number(value: Any) -> Any:
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d{1,20}(\.\d{0,20})?[eE][+-]?\d{1,3}", value):
        return float(value)
    return value


def _numbers(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {k: _numbers(v) for k, v in tree.items()}
    if isinstance(tree, list):
        return [_numbers(v) for v in tree]
    return _number(tree)


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` on top of `base`: dicts merge, everything else (lists too) is replaced."""
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        result[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


def build_config(*layers: Mapping[str, Any], dotted: Mapping[str, Any] | None = None) -> RunConfig:
    """Merge nested layers, then dotted settings, and validate.

    Raises:
        ConfigError: with every problem found, each naming the setting, its value and what is right.
    """
    tree: dict[str, Any] = {}
    for layer in layers:
        tree = merge(tree, _numbers(dict(layer)))
    tree.setdefault("datasets", [{"id": "starter"}])
    for key, value in (dotted or {}).items():
        set_dotted(tree, key, value)
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigError([_problem(e) for e in error.errors()], "Correct this and start again.") from None


def _problem(error: Mapping[str, Any]) -> str:
    """One pydantic error as a sentence."""
    skip = {"int", "str", "float", "literal['auto']", "literal['all-linear']", "dict[str,str]"}
    path = [str(p) for p in error["loc"]
            if not (isinstance(p, str) and (p.lower() in skip or p.startswith(("list[", "constrained", "function-"))))]
    key = ".".join(path) or "settings"
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, list_keys(), n=1, cutoff=0.6)
        return f"'{key}' is not a setting." + (f" Did you mean '{near[0]}'?" if near else "")
    reason = error["msg"].removeprefix("Value error, ")
    reason = reason[:1].lower() + reason[1:]
    value = error.get("input")
    shown = "" if isinstance(value, (dict, list, BaseModel)) else f" is {value!r:.80}"
    return f"{key}{shown}: {reason.rstrip('.')}."


def list_keys() -> list[str]:
    """All dotted settings, datasets as `datasets.0.…`."""
    keys: list[str] = []
    for name, info in RunConfig.model_fields.items():
        annotation = info.annotation
        if get_origin(annotation) is list:
            keys += [f"{name}.0.{k}" for k in get_args(annotation)[0].model_fields]
        elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
            keys += [f"{name}.{k}" for k in annotation.model_fields]
        else:
            keys.append(name)
    return keys


def read_layer(path: Path) -> dict[str, Any]:
    """The nested settings of a YAML file, not yet validated.

    Raises:
        ConfigError: the file is missing, too large, not YAML, or not a mapping.
    """
    try:
        if path.stat().st_size > 1_000_000:
            raise ConfigError([f"The settings file {path.name} is larger than 1 MB."])
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError:
        raise ConfigError([f"There is no settings file {path}."], "Check the path given to --config.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        where = f" (line {line + 1})" if line is not None else ""
        raise ConfigError([f"{path.name} is not readable as YAML{where}."]) from None
    if not isinstance(tree, dict):
        raise ConfigError([f"{path.name} does not hold settings (a mapping of names to values)."])
    return tree


def load_config(path: Path) -> RunConfig:
    """A validated config from a YAML file (`run.yaml`)."""
    return build_config(read_layer(path))


def to_yaml(config: RunConfig) -> str:
    """The config as the text of a `run.yaml`, in the order of the fields."""
    return yaml.safe_dump(config.model_dump(), sort_keys=False, allow_unicode=True, width=100)
