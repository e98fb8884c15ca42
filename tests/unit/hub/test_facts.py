"""Tests of the names that may stand on a card."""

import pytest

from hf_reward.hub.facts import (
    CardFacts,
    clean_facts,
    dataset_label,
    is_hub_dataset,
    last_part,
    public_name,
    source_label,
)


@pytest.mark.parametrize("name", ["gpt2", "Qwen/Qwen3-0.6B", "org/name.with-dots_1"])
def test_a_hub_id_is_public(name):
    assert public_name(name) == name


@pytest.mark.parametrize(
    "name", [None, "", "/data/model", "./model", "../model", "~/model", "a/b/c", "C:\\models\\x", "a--b", "org/na me"]
)
def test_what_cannot_be_a_hub_id_is_not_public(name):
    assert public_name(name) is None


def test_an_existing_folder_is_not_public_although_it_looks_like_a_hub_id(tmp_path, monkeypatch):
    (tmp_path / "models" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert public_name("models/mine") is None
    assert public_name("models/other") == "models/other"
    assert public_name(tmp_path / "models") is None


def test_a_dataset_is_labelled_by_its_last_part_when_it_is_local(tmp_path, monkeypatch):
    (tmp_path / "pairs" / "saved").mkdir(parents=True)
    (tmp_path / "pairs" / "rows").write_text("")
    monkeypatch.chdir(tmp_path)
    assert dataset_label("pairs/saved") == "local folder `saved`"
    assert dataset_label("pairs/rows") == "local file `rows`"
    assert dataset_label("gone/train.jsonl.gz") == "local file `train.jsonl.gz`"
    assert dataset_label("org/pairs") == "org/pairs"


def test_a_label_is_left_as_it_is():
    assert source_label("local file `a.jsonl`") == "local file `a.jsonl`"
    assert source_label("/data/a.jsonl") == "local file `a.jsonl`"
    assert source_label("a generated task") == "a generated task"


@pytest.mark.parametrize(
    ("name", "expected"),
    [("org/pairs", True), ("generated", False), ("local file `a.jsonl`", False), ("data/a.jsonl", False)],
)
def test_only_names_with_an_owner_are_taken_for_datasets_of_the_hub(name, expected):
    assert is_hub_dataset(name) is expected


def test_last_part_of_paths_of_any_system():
    assert [last_part(path) for path in ("/a/b/", "C:\\a\\b", "b")] == ["b", "b", "b"]


def test_cleaning_keeps_what_is_harmless():
    facts = CardFacts(
        "m", hyperparameters={"rate": 0.1, "names": ("a", "b"), "none": None}, hardware="1 GPU, 3.5 GB/s"
    )
    assert clean_facts(facts).hyperparameters == {"rate": 0.1, "names": ["a", "b"], "none": None}
    assert clean_facts(facts).hardware == "1 GPU, 3.5 GB/s"
