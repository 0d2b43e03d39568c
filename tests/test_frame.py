"""The project's frame: what the README, the Space and the requirements promise about each other."""

from __future__ import annotations

import json
import re
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from medassist.gate import load_gate

PROJECT = Path(__file__).resolve().parents[1]
README = (PROJECT / "README.md").read_text(encoding="utf-8")
REQUIREMENTS = (PROJECT / "requirements.txt").read_text(encoding="utf-8")


def front_matter():
    return yaml.safe_load(README.split("---")[1])


def test_the_space_is_told_what_it_needs():
    head = front_matter()
    assert head["sdk"] == "gradio"
    assert (PROJECT / head["app_file"]).is_file()
    assert head["license"] == "apache-2.0"
    assert len(head["short_description"]) <= 60
    assert f"gradio>={head['sdk_version']}" in REQUIREMENTS
    assert re.fullmatch(r"3\.\d+", str(head["python_version"]))


def test_torch_is_pinned_where_other_ranges_are_open():
    assert re.search(r"^torch==2\.13\.0$", REQUIREMENTS, re.M)


@pytest.mark.parametrize("line", [x for x in REQUIREMENTS.splitlines() if x and not x.startswith("#")])
def test_installed_versions_lie_in_the_ranges(line):
    from packaging.requirements import Requirement

    requirement = Requirement(line)
    if requirement.marker is None or requirement.marker.evaluate():
        assert requirement.specifier.contains(version(requirement.name)), line


@pytest.mark.parametrize("name", ["run", "test"])
def test_the_commands_that_ci_runs_stand_in_the_readme(name):
    block = re.search(rf"<!-- {name} -->\n```bash\n(.+)\n```", README)
    assert block and "\n" not in block[1]
    assert "requirements.txt" in block[1]
    assert f"readme {name}" in (PROJECT / ".ci" / "run").read_text()


def test_what_the_readme_links_to_is_there():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            assert (PROJECT / target).exists(), target


def test_every_recipe_that_the_readme_names_exists():
    from medassist import catalog

    names = {r.name for r in catalog.list_recipes()}
    table = README.split("## Recipes")[1].split("## How")[0]
    named = set(re.findall(r"`([a-z0-9.]+(?:-[a-z0-9.]+)+)`", table))
    assert named and named <= names


def test_the_shipped_adapter_is_what_the_quick_recipe_makes():
    from medassist import adapters, catalog, models
    from medassist.config import load_config

    run = adapters.load_run(PROJECT / "adapters", "starter")
    adapters.verify_run(run)
    assert run.result.base_sha256 == models.base_sha256(models.resolve_base("mini"))
    recipe = catalog.get_recipe("quick").settings
    config = load_config(run.path / "run.yaml").model_dump()
    assert {k: config["train"][k] for k in recipe["train"]} == recipe["train"]
    assert run.evaluation["better"]


def test_the_shipped_adapter_was_trained_on_the_cards_that_ship():
    from medassist.config import load_config
    from medassist.data import prepare_data

    folder = PROJECT / "adapters" / "starter"
    result = json.loads((folder / "result.json").read_text())
    assert prepare_data(load_config(folder / "run.yaml")).sha256 == result["dataset_sha256"]


def test_every_embedded_question_passes_the_gate():
    gate = load_gate()
    cards = [json.loads(line) for line in (PROJECT / "medassist/starter/flashcards.jsonl").open(encoding="utf-8")]
    assert len(cards) >= 200
    refused = [c["question"] for c in cards if not gate.check(c["question"]).allowed]
    assert refused == []


def test_no_file_names_a_machine_or_holds_a_token():
    for path in PROJECT.rglob("*"):
        parts = path.relative_to(PROJECT).parts
        if not path.is_file() or parts[0] in (".git", ".venv") or "__pycache__" in parts or (
                parts[0] == "adapters" and parts[1:2] != ("starter",)):
            continue
        if path.suffix in (".py", ".md", ".txt", ".yaml", ".toml", ".json", ".jsonl", ".csv", ".tsv", ".css", ".js"):
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"(?<![\w.~<])/(?:wo" r"rk|ro" r"ot|tmp/w)/", text), path
            assert not re.search(r"hf_[A-Za-z0-9]{30,}", text), path
