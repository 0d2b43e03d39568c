"""Checkpoints are whole or are not resumed."""

from __future__ import annotations

import pytest

from medassist import checkpoints


def stage(place, step, text="weights"):
    folder = place / checkpoints.STAGING / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_text(text)
    (folder / "training_args.bin").write_text("hf_token_in_clear")
    return folder


def seal(place, step):
    return checkpoints.seal(stage(place, step), place, step)


def test_the_newest_is_taken_and_old_ones_go(tmp_path):
    for step in (5, 10, 100):
        seal(tmp_path, step)
    assert checkpoints.newest_valid(tmp_path) == (tmp_path / "step-100", 100)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".staging", "step-10", "step-100"]


def test_the_file_with_the_token_is_not_kept(tmp_path):
    assert not (seal(tmp_path, 1) / "training_args.bin").exists()


@pytest.mark.parametrize("damage", [
    lambda p: (p / "adapter_model.safetensors").write_text("weightz"),
    lambda p: (p / "adapter_model.safetensors").unlink(),
    lambda p: (p / checkpoints.MANIFEST).unlink(),
    lambda p: (p / checkpoints.MANIFEST).write_text('{"step": 2, "files": {}}')])
def test_a_damaged_newest_falls_back_to_the_one_before(tmp_path, damage):
    seal(tmp_path, 1)
    damage(seal(tmp_path, 2))
    assert checkpoints.newest_valid(tmp_path) == (tmp_path / "step-1", 1)


def test_half_written_ones_are_never_taken(tmp_path):
    stage(tmp_path, 7)
    assert checkpoints.newest_valid(tmp_path) is None
    checkpoints.clear_staging(tmp_path)
    assert list(tmp_path.iterdir()) == []
