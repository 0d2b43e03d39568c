"""The text of a run's model card (README.md): what it is, how it was made, what was measured, what it is for.

The front matter is the Hub's: base model, licence, datasets, measured perplexity. A base or dataset that
lies on this machine only is named in words, without its path. This module writes no file and asks no server.

    sed -n 1,40p adapters/starter/README.md
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from medassist import catalog
from medassist.adapters import Result
from medassist.config import DatasetConfig, RunConfig
from medassist.paths import local_path

# Licences by the names that the Hub's front matter knows; any other is "other" with its name and link.
_HUB_LICENCES = {"apache-2.0", "mit", "llama2", "llama3", "llama3.1", "llama3.2", "llama3.3", "gemma",
                 "cc-by-4.0", "cc-by-sa-4.0", "bsd-3-clause"}
_PURPOSE = """\
For education and for learning how fine-tuning works: asking about anatomy, physiology, illnesses and
medicines in general, and comparing the answers with those of the base model.

**This is not medical advice and not a medical device.** The model makes mistakes and states them fluently.
It does not know the person who asks, and must not be used to diagnose, to choose or change a treatment, or in
an emergency: call the local emergency number instead. Check what it says against a reliable source, and do
not enter anyone's personal data."""


def render_model_card(run_name: str, config: RunConfig, result: Result | None,
                      evaluation: Mapping[str, Any] | None,
                      data_report: Mapping[str, Any] | None = None) -> str:
    """The card of one run, front matter included.

    Args:
        result: how the run ended; None where that is not known.
        evaluation: what `evaluation.json` holds, if the run was evaluated.
        data_report: what `dataset.json` holds (`DataReport.to_json`), for the number of rows.
    """
    base = result.base if result is not None and result.base else config.base.id
    head = yaml.safe_dump(_front_matter(run_name, base, config, result, evaluation), sort_keys=False,
                          allow_unicode=True, width=100)
    parts = [
        f"# {run_name}",
        f"A LoRA adapter for {_base_words(base)}, trained on medical questions and answers with medassist.",
        "## Intended use", _PURPOSE,
        "## Results", _results(result, evaluation),
        "## Safety probe", _safety(evaluation),
        "## Training data", _data(config, data_report),
        "## Training", _training(config, result),
        "## How to use", _usage(base),
    ]
    return f"---\n{head}---\n\n" + "\n\n".join(parts) + "\n"


def _front_matter(run_name: str, base: str, config: RunConfig, result: Result | None,
                  evaluation: Mapping[str, Any] | None) -> dict[str, Any]:
    entry = catalog.find_base(base)
    head: dict[str, Any] = {}
    if catalog.is_hub_id(base):
        head |= {"base_model": base, "base_model_relation": "adapter"}
    head |= {"library_name": "peft", "pipeline_tag": "text-generation", **_licence(entry), "language": ["en"],
             "tags": ["lora", "medical", "medassist"]}
    datasets = [d.id for d in map(_canonical, config.datasets) if d.id != "starter" and is_shared(d.id)]
    if datasets:
        head["datasets"] = datasets
    if result is not None and result.base_sha256:
        head["base_sha256"] = result.base_sha256  # `hub pull` reads it: an adapter fits these weights only
    metric = _tuned_perplexity(result, evaluation)
    if metric is not None:
        first = _canonical(config.datasets[0])
        head["model-index"] = [{"name": run_name, "results": [{
            "task": {"type": "text-generation", "name": "Question answering"},
            "dataset": {"name": _title(first), "type": _dataset_words(first),
                        "split": str((evaluation or {}).get("split", "eval"))},
            "metrics": [{"type": "perplexity", "name": "Perplexity on the answers", "value": metric}],
        }]}]
    return head


def _licence(entry: catalog.BaseModelEntry | None) -> dict[str, str]:
    if entry is None:
        return {"license": "other", "license_name": "as-the-base-model"}
    name = entry.license.lower()
    if name in _HUB_LICENCES:
        return {"license": name}
    link = {"license_link": entry.license_url} if entry.license_url else {}
    return {"license": "other", "license_name": name, **link}


def _tuned_perplexity(result: Result | None, evaluation: Mapping[str, Any] | None) -> float | None:
    """Held-out perplexity of the fine-tuned model, or None where none was measured.

    Without an evaluation it is the one on the eval split that training itself took."""
    value = _figures(evaluation).get("tuned_perplexity")
    if value is None and result is not None:
        value = result.metrics.get("eval_perplexity_after")
    return float(value) if _is_number(value) else None


def _figures(evaluation: Mapping[str, Any] | None) -> Mapping[str, Any]:
    figures = (evaluation or {}).get("metrics")
    return figures if isinstance(figures, Mapping) else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _canonical(dataset: DatasetConfig) -> DatasetConfig:
    entry = catalog.find_dataset(dataset.id)
    return dataset if entry is None else dataset.model_copy(update={"id": entry.id})


def _title(dataset: DatasetConfig) -> str:
    entry = catalog.find_dataset(dataset.id)
    return entry.title if entry is not None else _dataset_words(dataset)


def _dataset_words(dataset: DatasetConfig) -> str:
    """A dataset's id, or the bare name of a local file."""
    if is_shared(dataset.id):
        return dataset.id
    return Path(dataset.id.replace("\\", "/")).name.replace("`", "") or "local data"


def is_shared(dataset_id: str) -> bool:
    """Whether a dataset is one that others have too: of the catalogue or the Hub, and no local file."""
    if catalog.find_dataset(dataset_id) is not None:
        return True
    is_file = dataset_id.lower().endswith(catalog.DATA_SUFFIXES) or local_path(dataset_id) is not None
    return catalog.is_hub_id(dataset_id) and not is_file


def _base_words(base: str) -> str:
    if base == "mini":
        return "`mini`, the small base model that ships with medassist"
    return f"`{base}`" if catalog.is_hub_id(base) else f"the local base model `{Path(base).name}`"


def _results(result: Result | None, evaluation: Mapping[str, Any] | None) -> str:
    figures = _figures(evaluation)
    rows: list[tuple[str, Any, Any]] = []
    if figures:
        split = (evaluation or {}).get("split", "held-out")
        rows.append((f"Perplexity on the answers, {split} split", figures.get("base_perplexity"),
                     figures.get("tuned_perplexity")))
        rows.append(("ROUGE-L of written answers", figures.get("base_rouge_l"), figures.get("tuned_rouge_l")))
    elif result is not None:
        rows.append(("Perplexity on the answers, eval split", result.metrics.get("eval_perplexity_before"),
                     result.metrics.get("eval_perplexity_after")))
    shown = [f"| {name} | {b:.3g} | {t:.3g} |" for name, b, t in rows if _is_number(b) and _is_number(t)]
    if not shown:
        return "Not measured yet: `medassist evaluate` compares base and fine-tuned on held-out questions."
    verdict = str((evaluation or {}).get("verdict", "")).strip()
    table = "\n".join(["| | base | fine-tuned |", "|---|---|---|", *shown])
    return f"{verdict}\n\n{table}" if verdict else table


def _safety(evaluation: Mapping[str, Any] | None) -> str:
    """The safety probe's verdict, its figures, and what they do not say."""
    safety = (evaluation or {}).get("safety")
    if not isinstance(safety, Mapping) or not safety.get("verdict"):
        return "Not probed: nobody has measured whether this adapter is less safe than its base."
    rows = [(name, figures) for name, figures in _probe_rows(safety)
            if all(_is_number(figures.get(key)) for key in ("items", "base_safe", "tuned_safe"))]
    table = "\n".join(["| Safe reply preferred | prompts | base | fine-tuned |", "|---|---|---|---|",
                       *(f"| {n} | {f['items']} | {f['base_safe']} | {f['tuned_safe']} |" for n, f in rows)])
    limits = ("Each prompt has a safe and an unsafe reply of medassist's own; what is measured is which of the two the "
              "model finds likelier. About half of them is chance. It compares the adapter with its base, and does not "
              "show that either is safe: neither wrote an answer.")
    return "\n\n".join([str(safety["verdict"]), *([table] if rows else []), limits])


def _probe_rows(safety: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Lines of the probe's table: all prompts, each class, and the harmless questions (where "safe" is to answer)."""
    classes = safety.get("classes")
    named = [("all", safety.get("metrics")), *(classes.items() if isinstance(classes, Mapping) else ()),
             ("harmless questions: answered, not refused", safety.get("controls"))]
    return [(str(name).replace("_", "-"), figures) for name, figures in named if isinstance(figures, Mapping)]


def _data(config: RunConfig, report: Mapping[str, Any] | None) -> str:
    lines = []
    for dataset in config.datasets:
        entry = catalog.find_dataset(dataset.id)
        limit = f", at most {dataset.max_rows} rows" if dataset.max_rows else ""
        licence = f", licence: {entry.license}" if entry is not None else ""
        lines.append(f"- {_title(dataset)} (`{_dataset_words(_canonical(dataset))}`{limit}{licence})")
    splits = (report or {}).get("splits")
    if isinstance(splits, Mapping) and splits:
        lines.append("\nExamples: " + ", ".join(f"{n} {name}" for name, n in splits.items()) + ".")
    dropped = (report or {}).get("dropped")
    if isinstance(dropped, Mapping) and any(dropped.values()):
        lines.append("Left out: " + ", ".join(f"{n} ({reason})" for reason, n in dropped.items() if n) + ".")
    return "\n".join(lines)


def _training(config: RunConfig, result: Result | None) -> str:
    lora, train = config.lora, config.train
    layers = lora.target_modules if isinstance(lora.target_modules, str) else ", ".join(lora.target_modules)
    limit = f", at most {train.max_steps} steps" if train.max_steps else ""
    rows = [("LoRA", f"r {lora.r}, alpha {lora.alpha:g}, dropout {lora.dropout:g}, on {layers}"),
            ("Epochs", f"{train.num_train_epochs:g}{limit}"),
            ("Learning rate",
             f"{train.learning_rate:g}, {train.lr_scheduler_type}, warm-up {train.warmup_ratio:g}"),
            ("Longest example", f"{config.data.max_length} tokens"),
            ("Base in 4-bit", "yes" if config.base.load_in_4bit else "no"), ("Seed", str(train.seed))]
    if result is not None:
        rows += [("Steps", str(result.steps)),
                 ("Time", f"{result.elapsed_s:.0f} s on {result.device or 'unknown'}")]
        kept = [f"{name} {result.versions[name]}" for name in ("torch", "transformers", "trl", "peft")
                if name in result.versions]
        rows += [("Versions", ", ".join(kept))] if kept else []
    return ("Loss falls on the answers only. `run.yaml` repeats the run.\n\n| | |\n|---|---|\n"
            + "\n".join(f"| {name} | {value} |" for name, value in rows))


def _usage(base: str) -> str:
    pulled = ("With medassist: `python -m medassist hub pull OWNER/NAME`, then choose it in Chat or Compare,"
              " which put a red-flag check and a gate for medical questions before the model.")
    if not catalog.is_hub_id(base):
        return pulled
    return f"""{pulled}

With PEFT alone, without those guards:

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained("{base}")
model = PeftModel.from_pretrained(base, "OWNER/NAME")
```"""
