"""The catalogue: entries are complete, recipes are valid runs, ids are let in or refused as stated."""

from __future__ import annotations

import subprocess
import sys

import pytest

from medassist import catalog
from medassist.config import HUB_ID, build_config
from medassist.errors import DataError, MedAssistError, ModelError, UsageError

WANTED_BASES = ["mini", "HuggingFaceTB/SmolLM2-135M-Instruct", "HuggingFaceTB/SmolLM2-360M-Instruct", "HuggingFaceTB/SmolLM-135M-Instruct", "Qwen/Qwen2.5-0.5B-Instruct", "Qwen/Qwen3-0.6B", "TinyLlama/TinyLlama-1.1B-Chat-v1.0", "meta-llama/Llama-3.2-1B-Instruct", "meta-llama/Llama-3.2-3B-Instruct", "meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Llama-2-7b-chat-hf", "mistralai/Mistral-7B-Instruct-v0.2", "mistralai/Mistral-7B-Instruct-v0.3", "google/gemma-1.1-7b-it", "google/gemma-3-1b-it", "google/medgemma-4b-it", "unsloth/mistral-7b-instruct-v0.2-bnb-4bit", "unsloth/llama-2-7b-chat-bnb-4bit", "unsloth/gemma-1.1-7b-it-bnb-4bit"]
WANTED_DATASETS = ["starter", "medalpaca/medical_meadow_medical_flashcards", "medalpaca/medical_meadow_wikidoc", "medalpaca/medical_meadow_wikidoc_patient_information", "keivalya/MedQuad-MedicalQnADataset", "ruslanmv/ai-medical-chatbot", "openlifescienceai/medmcqa", "Shekswess/medical_gemma_instruct_dataset_short"]
WANTED_RECIPES = ["quick", "smollm-flashcards", "mistral-7b-flashcards", "llama-3.1-8b-medmcqa", "llama-3.2-3b-doctor-patient", "tinyllama-flashcards", "gemma-7b-wikidoc-medquad", "llama-2-7b-wikidoc-medquad", "mistral-7b-wikidoc-medquad", "gemma-7b-wikidoc-medquad-short", "llama-2-7b-wikidoc-medquad-short", "mistral-7b-wikidoc-medquad-short"]


@pytest.mark.parametrize("hub_id", WANTED_BASES)
def test_base_is_offered(hub_id):
    assert catalog.find_base(hub_id) is not None


@pytest.mark.parametrize("hub_id", WANTED_DATASETS)
def test_dataset_is_offered(hub_id):
    assert catalog.find_dataset(hub_id) is not None


def test_names_and_ids_are_unique_and_well_formed():
    for entries, embedded in ((catalog.list_base_models(), "mini"), (catalog.list_datasets(), "starter")):
        names = [e.name for e in entries]
        ids = [e.id.lower() for e in entries]
        assert len(set(names)) == len(names) and len(set(ids)) == len(ids)
        assert all(e.id == embedded or HUB_ID.match(e.id) for e in entries)
        assert all(e.license and e.title and e.note for e in entries)
    assert all(e.license_url for e in catalog.list_base_models() if e.gated and e.license != "Apache-2.0")


def test_memory_grows_with_the_model_and_shrinks_in_four_bits():
    full = sorted((e for e in catalog.list_base_models() if not e.prequantized), key=lambda e: e.parameters)
    assert [e.memory_bf16_gb for e in full] == sorted(e.memory_bf16_gb for e in full)
    for entry in full:
        assert entry.memory_bf16_gb > 2 * entry.parameters / 1e9
        assert entry.memory_4bit_gb <= entry.memory_bf16_gb
    seven = catalog.find_base("mistral-7b-instruct-v0.2")
    assert seven.memory_4bit_gb < 16 < seven.memory_bf16_gb  # a T4 takes it in 4-bit only


@pytest.mark.parametrize(
    "entry", [e for e in catalog.list_base_models() if e.prequantized], ids=lambda e: e.name
)
def test_prequantised_entries_have_a_full_twin_and_one_memory_figure(entry):
    assert entry.memory_bf16_gb == entry.memory_4bit_gb
    assert any(e.parameters == entry.parameters and not e.prequantized for e in catalog.list_base_models())


@pytest.mark.parametrize("name", WANTED_RECIPES)
def test_recipe_is_a_valid_run_over_known_parts(name):
    config = build_config(catalog.get_recipe(name).settings)
    assert catalog.find_base(config.base.id) is not None
    assert all(catalog.find_dataset(d.id) is not None for d in config.datasets)
    # What a person would write with --base mini must be valid too.
    assert build_config(catalog.get_recipe(name).settings, {"base": {"id": "mini"}}).base.id == "mini"


def test_recipes_hold_what_the_replaced_systems_did():
    def config(name):
        return build_config(catalog.get_recipe(name).settings)

    tiny = config("tinyllama-flashcards")
    assert (tiny.lora.r, tiny.lora.alpha, tiny.lora.dropout, tiny.lora.target_modules) == (
        8,
        16,
        0.05,
        ["q_proj", "v_proj"],
    )
    assert (tiny.train.per_device_train_batch_size, tiny.train.gradient_accumulation_steps) == (4, 2)
    assert (tiny.train.learning_rate, tiny.train.warmup_ratio, tiny.train.lr_scheduler_type) == (
        5e-5,
        0.03,
        "cosine",
    )
    assert (tiny.data.max_length, tiny.data.test_size, tiny.datasets[0].max_rows) == (256, 400, 2400)
    exam = config("llama-3.1-8b-medmcqa")
    assert (exam.datasets[0].max_rows, exam.datasets[0].select) == (10_000, "longest_answer")
    assert exam.datasets[0].single_answer_only and exam.data.prompt_format == "question_answer"
    assert exam.base.load_in_4bit and "gate_proj" in exam.lora.target_modules
    doctor = config("llama-3.2-3b-doctor-patient")
    assert (doctor.datasets[0].max_rows, doctor.datasets[0].select) == (1000, "random")
    assert (doctor.lora.r, doctor.lora.alpha, doctor.train.learning_rate) == (8, 16, 2e-4)
    assert config("smollm-flashcards").train.num_train_epochs == 10
    assert sum(d.max_rows for d in config("gemma-7b-wikidoc-medquad-short").datasets) == 2000
    assert [d.max_rows for d in config("gemma-7b-wikidoc-medquad").datasets] == [None, None]


def test_a_recipes_settings_are_a_copy():
    catalog.get_recipe("gemma-7b-wikidoc-medquad").settings["datasets"][0]["max_rows"] = 1
    for name in ("gemma-7b-wikidoc-medquad", "llama-2-7b-wikidoc-medquad"):  # they share a YAML anchor
        assert "max_rows" not in catalog.get_recipe(name).settings["datasets"][0]


def test_replaced_datasets_keep_the_recipes_flags():
    settings = catalog.get_recipe("llama-3.1-8b-medmcqa").settings
    settings["datasets"][0]["mapping"] = {"question": "question", "answer": "exp"}
    changed = catalog.replace_datasets(settings, ["mine.csv", "more.csv"])
    assert changed["datasets"] == [
        {"id": "mine.csv", "max_rows": 10_000, "select": "longest_answer", "single_answer_only": True},
        {"id": "more.csv", "max_rows": 10_000, "select": "longest_answer", "single_answer_only": True},
    ]
    assert settings["datasets"][0]["id"] == "openlifescienceai/medmcqa"


@pytest.mark.parametrize(
    ("given", "canonical"),
    [
        ("mini", "mini"),
        (" MINI ", "mini"),
        ("qwen/qwen3-0.6b", "qwen3-0.6b"),
        ("SmolLM2-135M-Instruct", "smollm2-135m-instruct"),
        ("somebody/some-model.v1", "somebody/some-model.v1"),
    ],
)
def test_base_ids_that_are_let_in(given, canonical):
    assert catalog.check_base_id(given) == canonical


def test_local_paths_are_let_in_as_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x.csv").write_text("question,answer\n")
    assert catalog.check_dataset_id("data/x.csv") == "data/x.csv"  # also has the form of a Hub id
    assert catalog.check_base_id(str(tmp_path)) == str(tmp_path)


@pytest.mark.parametrize(
    ("check", "error", "text", "said"),
    [
        (catalog.check_base_id, ModelError, "minni", "Did you mean 'mini'?"),
        (catalog.check_base_id, ModelError, "smollm2", "'smollm2-135m-instruct'"),
        (catalog.check_base_id, ModelError, "", "Unknown base model ''"),
        (catalog.check_base_id, ModelError, "../mini-nowhere", "no file or folder '../mini-nowhere'"),
        (catalog.check_base_id, ModelError, "a/b/c", "no file or folder 'a/b/c'"),
        (catalog.check_base_id, ModelError, "x y/z", "Unknown base model"),
        (catalog.check_dataset_id, DataError, "starterr", "Did you mean 'starter'?"),
        (catalog.check_dataset_id, DataError, "data/gone.csv", "no file or folder 'data/gone.csv'"),
        (catalog.check_dataset_id, DataError, "~nobody-at-all/x.csv", "no file or folder"),
        (catalog.check_dataset_id, DataError, "a\0b", "Unknown dataset"),
        (catalog.check_dataset_id, DataError, "x" * 5000, "Unknown dataset"),
    ],
)
def test_ids_that_are_refused(check, error, text, said):
    with pytest.raises(error) as caught:
        check(text)
    assert said in caught.value.message and caught.value.next_step
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("check", "text"),
    [
        (catalog.check_base_id, "somebody/some-model"),
        (catalog.check_base_id, "/"),
        (catalog.check_base_id, "."),
        (catalog.check_dataset_id, "somebody/some-data"),
        (catalog.check_dataset_id, "/etc/passwd"),
        (catalog.check_dataset_id, __file__),
    ],
)
def test_on_a_public_space_only_the_catalogue_counts(check, text):
    with pytest.raises(MedAssistError) as caught:
        check(text, catalogue_only=True)
    assert "not in the catalogue" in caught.value.message


def test_on_a_public_space_the_catalogue_still_counts():
    assert catalog.check_base_id("mini", catalogue_only=True) == "mini"
    assert catalog.check_dataset_id("medalpaca/medical_meadow_wikidoc", catalogue_only=True) == "wikidoc"


def test_unknown_recipe_names_near_ones():
    with pytest.raises(UsageError, match="Did you mean 'quick'"):
        catalog.get_recipe("quik")


def test_the_module_wins_over_its_data_folder_and_loads_nothing_heavy():
    code = (
        "import sys, medassist.catalog as c; assert c.__file__.endswith('catalog.py'); "
        "print([m for m in ('torch', 'transformers', 'datasets', 'huggingface_hub') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
