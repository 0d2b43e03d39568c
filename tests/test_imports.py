"""The house keeps its order: files import from lower ranks only, and the light ones stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "medassist"
RANKS = {
    "": 0, "errors": 0, "config": 1, "spelling": 1, "access": 1, "catalog": 2, "progress": 2, "safety": 2, "lock": 2,
    "chat_formats": 2, "paths": 3,
    "gate": 3, "adapters": 3, "prompts": 3, "checkpoints": 3, "cards": 4, "data": 4, "retrieval": 4, "models": 4,
    "scoring": 4, "sft": 4, "training": 5, "generation": 5, "preview": 6, "speed": 5, "evaluation": 6, "probe": 6,
    "chat": 6, "jobs": 6, "hub": 6, "runs": 7, "bench": 7, "maintain": 7, "doctor": 7, "cli": 8, "ui": 8, "__main__": 9}
HEAVY = {"torch", "transformers", "datasets", "peft", "trl", "accelerate", "bitsandbytes", "gradio", "pandas"}


def unit(path: Path) -> str:
    """The part of the house that a file belongs to: its top folder, or its name."""
    relative = path.relative_to(PACKAGE)
    name = relative.parts[0].removesuffix(".py")
    return "" if name == "__init__" else name


def imports(path: Path, *, top_level_only: bool) -> list[str]:
    """Dotted names that a file imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = []
    nodes = ast.walk(tree)
    if top_level_only:
        nodes = list(tree.body)
    for node in nodes:
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found += [node.module] if node.module != "medassist" else [f"medassist.{a.name}" for a in node.names]
    return found


def files() -> list[Path]:
    return sorted(p for p in PACKAGE.rglob("*.py") if "__pycache__" not in p.parts)


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_file_imports_from_lower_ranks_only(path):
    own = unit(path)
    assert own in RANKS, f"{own} has no rank: add it to the table here and to the design"
    for name in imports(path, top_level_only=False):
        if name.split(".")[0] != "medassist":
            continue
        other = name.split(".")[1] if "." in name else ""
        if other.startswith("__version"):
            continue
        assert other == own or RANKS[other] < RANKS[own], f"{own} (rank {RANKS[own]}) imports {other} (rank {RANKS[other]})"


@pytest.mark.parametrize("path", [p for p in files() if RANKS.get(unit(p), 9) <= 3],
                         ids=lambda p: str(p.relative_to(PACKAGE)))
def test_light_files_import_nothing_heavy(path):
    assert not HEAVY & {n.split(".")[0] for n in imports(path, top_level_only=True)}


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_the_page_imports_gradio(path):
    if unit(path) != "ui":
        assert "gradio" not in {n.split(".")[0] for n in imports(path, top_level_only=False)}


def test_help_gate_and_page_modules_load_without_torch():
    code = ("import sys\nfrom medassist import cli, gate, jobs, chat\ncli.build_parser()\n"
            "heavy = {'torch', 'transformers', 'datasets', 'peft', 'trl'} & set(sys.modules)\nassert not heavy, heavy")
    done = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_nothing_dangerous_is_called():
    banned = ("trust_remote_code=True", "torch.load(", "import pickle", "shell=True", "os.system(")
    for path in files():
        text = path.read_text(encoding="utf-8")
        assert not [b for b in banned if b in text], path
