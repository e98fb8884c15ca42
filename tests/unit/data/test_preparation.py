import json

import numpy as np
import pytest
from datasets import Dataset, IterableDataset

from hf_reward.config import DataArguments, RewardConfig
from hf_reward.data.filters import Filters
from hf_reward.data.lengths import LengthLimits
from hf_reward.data.loading import Source, load_sources
from hf_reward.data.preparation import prepare_split, prepare_stream, resolve_overlap, set_evaluation_apart
from hf_reward.data.reading import detect_reader
from hf_reward.data.tokenization import RowRules
from hf_reward.errors import ConfigurationError, DataError
from hf_reward.training.data import check_positions, load_data
from hf_reward.training.setup import prepare_dataset


def pair(prompt, chosen="good", rejected="bad", **more):
    return {"prompt": f"{prompt} ", "chosen": chosen, "rejected": rejected, **more}


def source(rows, name="pairs"):
    dataset = rows if isinstance(rows, Dataset | IterableDataset) else Dataset.from_list(rows)
    return Source(name, dataset, "train", detect_reader(dataset, name))


def prepare(tokenizer, *sources, rules=None, filters=None):
    return prepare_split(list(sources), tokenizer, "train", rules or RowRules(), filters or Filters())


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def run_data(tmp_path, tokenizer, config=None, **settings):
    args = RewardConfig(output_dir=str(tmp_path / "out"), report_to="none", use_cpu=True, **(config or {}))
    data_args = DataArguments(dataset_cache_dir=str(tmp_path / "cache"), **settings)
    return load_data(args, data_args, tokenizer)


def texts(tokenizer, dataset, side="chosen"):
    return [tokenizer.decode(ids) for ids in dataset[f"{side}_input_ids"]]


# ---- sources joined -------------------------------------------------------------------------------------------------


def test_missing_optional_columns_are_filled_with_values_that_change_nothing(tokenizer):
    rows = prepare(
        tokenizer,
        source([pair("a", margin=2.0, scores=[2.0, 1.0])], "one"),
        source([pair("b", weight=3.0), pair("c", weight=0.5)], "two"),
    )
    dataset = rows.dataset()
    assert dataset["margin"][:] == [2.0, 0.0, 0.0]
    assert dataset["weight"][:] == [1.0, 3.0, 0.5]
    assert dataset["scores"][:] == [[2.0, 1.0], None, None]
    assert rows.notes() == {"margin_filled_in": 2, "scores_filled_in": 2, "weight_filled_in": 1}


def test_pairs_beside_larger_groups_become_groups_of_two(tokenizer):
    ranked = {"prompt": "q ", "completions": ["a", "b", "c"]}
    dataset = prepare(tokenizer, source([ranked], "ranked"), source([pair("a")], "pairs")).dataset()
    assert [len(group) for group in dataset["completion_input_ids"]] == [3, 2]
    assert "chosen_input_ids" not in dataset.column_names


def test_the_same_source_twice_is_counted_apart(tokenizer):
    rows = prepare(tokenizer, source([pair("a")]), source([pair("b")]), filters=Filters(drop_duplicates=False))
    assert {name: count.rows for name, count in rows.counts().items()} == {"pairs": 1, "pairs'": 1}


def test_filters_of_the_whole_split_are_counted(tokenizer, caplog):  # fault 19
    rows = prepare(
        tokenizer,
        source([pair("a", "x", "y"), pair("b")], "one"),
        source([pair("a", "y", "x"), pair("b"), pair("c")], "two"),
    )
    counts = {name: count.as_dict() for name, count in rows.counts().items()}
    assert counts["one"] == {"rows": 2, "kept": 1, "dropped": {"contradictory": 1}}
    assert counts["two"] == {"rows": 3, "kept": 1, "dropped": {"contradictory": 1, "duplicate": 1}}
    assert "train: 2 pairs stand in both orders; all of them are dropped" in caplog.text


def test_copies_of_an_upsampled_source_are_trained_on(tmp_path, tokenizer):
    file = write(tmp_path / "pairs.jsonl", [pair("a"), pair("b"), pair("b")])
    sources = load_sources(DataArguments(dataset_mixer_list=[file, "2.0"]), "train")
    rows = prepare(tokenizer, *sources)
    assert texts(tokenizer, rows.dataset()) == ["a good<eos>", "b good<eos>"] * 2
    assert rows.counts()["pairs.jsonl"].dropped == {"duplicate": 2}


# ---- overlap and evaluation rows ------------------------------------------------------------------------------------


def test_overlap_with_any_evaluation_set_is_refused_dropped_or_allowed(tokenizer):
    sets = {"one": prepare(tokenizer, source([pair("a"), pair("x")])), "two": prepare(tokenizer, source([pair("b")]))}

    def train():
        return prepare(tokenizer, source([pair(prompt, "better") for prompt in "abcd"]))

    with pytest.raises(DataError, match=r"2 of 4 training rows have a prompt .*\(one: 1, two: 1\)"):
        resolve_overlap(train(), sets, "error")
    allowed, dropped = train(), train()
    assert resolve_overlap(allowed, sets, "allow") == resolve_overlap(dropped, sets, "drop") == {"one": 1, "two": 1}
    assert len(allowed.dataset()) == 4
    assert texts(tokenizer, dropped.dataset()) == ["c better<eos>", "d better<eos>"]
    assert dropped.counts()["pairs"].dropped == {"prompt_in_evaluation": 2}


def test_nothing_left_after_overlap_is_an_error(tokenizer):
    sets = {"eval": prepare(tokenizer, source([pair("a")]))}
    with pytest.raises(DataError, match=r"0 of 1 pairs are left \(prompt_in_evaluation: 1"):
        resolve_overlap(prepare(tokenizer, source([pair("a", "better")])), sets, "drop")


def test_evaluation_rows_are_set_apart_by_prompt(tokenizer):
    rows = [pair(prompt, f"good {number}") for prompt in "abcdefgh" for number in range(3)]
    train = prepare(tokenizer, source(rows))
    evaluation = set_evaluation_apart(train, 0.25, seed=1)
    keys = [set(split.of_kept("prompt_key").tolist()) for split in (train, evaluation)]
    assert keys[0] & keys[1] == set()
    assert (len(train.dataset()), len(evaluation.dataset())) == (18, 6)
    assert sorted(texts(tokenizer, train.dataset()) + texts(tokenizer, evaluation.dataset())) == sorted(
        f"{row['prompt']}{row['chosen']}<eos>" for row in rows
    )
    assert train.notes()["set_apart_for_evaluation"] == 6


# ---- the data of a run ----------------------------------------------------------------------------------------------


def test_a_run_with_named_evaluation_sets(tmp_path, tokenizer):
    sets = {
        name: write(tmp_path / f"{name}.jsonl", [pair(prompt) for prompt in prompts])
        for name, prompts in (("train", "abcd"), ("helpful", "ef"), ("harmless", "g"))
    }
    data = run_data(
        tmp_path,
        tokenizer,
        dataset_name=sets["train"],
        eval_datasets={name: {"name": sets[name]} for name in ("helpful", "harmless")},
    )
    assert {name: len(dataset) for name, dataset in data.splits().items()} == {"train": 4, "helpful": 2, "harmless": 1}
    assert isinstance(data.evaluation, dict)
    assert sorted(data.report) == ["eval_harmless", "eval_helpful", "overlapping_prompts", "train"]
    assert data.report["eval_helpful"]["overlapping_prompts"] == 0


def test_a_run_that_sets_evaluation_rows_apart(tmp_path, tokenizer):
    file = write(tmp_path / "pairs.jsonl", [pair(f"prompt {number}") for number in range(20)])
    data = run_data(tmp_path, tokenizer, {"eval_strategy": "epoch"}, dataset_name=file, eval_split_size=0.2)
    assert (len(data.train), len(data.evaluation)) == (16, 4)
    assert (data.report["train"]["rows"], data.report["eval"]["rows"]) == (16, 4)
    assert np.intersect1d(data.train["prompt_key"][:], data.evaluation["prompt_key"][:]).size == 0


def test_evaluation_that_is_asked_for_needs_data(tmp_path, tokenizer):
    file = write(tmp_path / "pairs.jsonl", [pair("a")])
    with pytest.raises(ConfigurationError, match="Evaluation is asked for"):
        run_data(tmp_path, tokenizer, {"eval_strategy": "epoch"}, dataset_name=file)


def test_evaluation_data_that_is_all_dropped_is_an_error(tmp_path, tokenizer):  # fault 25
    train = write(tmp_path / "train.jsonl", [pair("a")])
    evaluation = write(tmp_path / "eval.jsonl", [pair("b", "same", "same")])
    with pytest.raises(DataError, match=r"eval: 0 of 1 pairs are left \(identical: 1"):
        run_data(tmp_path, tokenizer, dataset_name=train, eval_dataset_name=evaluation)


def test_an_incomplete_batch_alone_is_an_error_where_it_would_be_left_out(tmp_path, tokenizer):  # fault 27
    file = write(tmp_path / "pairs.jsonl", [pair(prompt) for prompt in "abc"])
    config = {"dataloader_drop_last": True, "per_device_train_batch_size": 8}
    with pytest.raises(DataError, match="train: 0 batches: 3 pairs are fewer than the 8 of one batch"):
        run_data(tmp_path, tokenizer, config, dataset_name=file)
    assert (
        len(run_data(tmp_path, tokenizer, config | {"per_device_train_batch_size": 3}, dataset_name=file).train) == 3
    )
    args = RewardConfig(output_dir=str(tmp_path), report_to="none", use_cpu=True, **config)
    with pytest.raises(DataError, match="train: 0 batches"):
        prepare_dataset(Dataset.from_list([pair("a")]), tokenizer, args, "train")


def test_a_pair_beyond_the_models_positions_is_an_error(tmp_path, tokenizer):  # fault 28
    data = run_data(tmp_path, tokenizer, dataset_name=write(tmp_path / "pairs.jsonl", [pair("a" * 20)]))
    length = len("a" * 20 + " good") + 1
    check_positions(data, length)
    check_positions(data, None)
    with pytest.raises(DataError, match=f"the longest pair has {length} tokens, but the model has positions for 10"):
        check_positions(data, 10)


def test_a_stream_is_watched_for_pairs_beyond_the_models_positions(tmp_path, tokenizer):
    rows = [pair("a"), pair("b" * 20)]
    name = write(tmp_path / "pairs.jsonl", rows)
    data = run_data(tmp_path, tokenizer, {"max_steps": 1}, dataset_name=name, streaming=True)
    check_positions(data, 10)
    read = iter(data.train)
    assert tokenizer.decode(next(read)["chosen_input_ids"]).startswith("a")
    with pytest.raises(DataError, match="train: the longest pair has 26 tokens, but the model has positions for 10"):
        next(read)


def test_the_trainer_honours_the_length_policy_and_escaping(tokenizer, tmp_path):
    args = RewardConfig(
        output_dir=str(tmp_path),
        report_to="none",
        use_cpu=True,
        max_length=10,
        overlong="truncate_prompt",
        escape_special_tokens=True,
    )
    dataset = prepare_dataset(Dataset.from_list([pair("a long prompt"), pair("q", "<pad>")]), tokenizer, args, "train")
    assert texts(tokenizer, dataset) == ["ompt good<eos>", "q <pad><eos>"]
    assert dataset["chosen_input_ids"][1].count(tokenizer.pad_token_id) == 0


# ---- streams --------------------------------------------------------------------------------------------------------


def test_a_stream_gives_the_rows_of_the_dataset(tokenizer):
    rows = Dataset.from_list([pair("a"), pair("b", "same", "same"), pair("c")])
    rules = RowRules(LengthLimits(100))
    stream = prepare_stream([source(rows.to_iterable_dataset(), "s")], tokenizer, rules, Filters())
    assert list(stream) == list(prepare(tokenizer, source(rows), rules=rules).dataset())


def test_a_training_stream_is_watched_for_prompts_of_the_evaluation(tmp_path, tokenizer):
    files = {
        "dataset_name": write(tmp_path / "train.jsonl", [pair(prompt, "better") for prompt in "abc"]),
        "eval_datasets": {"held": {"name": write(tmp_path / "eval.jsonl", [pair("b")])}},
        "streaming": True,
    }

    def trained_on(policy):
        data = run_data(tmp_path, tokenizer, {"max_steps": 1}, **files, eval_overlap=policy)
        assert isinstance(data.train, IterableDataset)
        return [tokenizer.decode(row["chosen_input_ids"])[0] for row in data.train]

    assert trained_on("allow") == ["a", "b", "c"]
    assert trained_on("drop") == ["a", "c"]
    with pytest.raises(DataError, match="The training stream has a prompt that stands in the evaluation data too"):
        trained_on("error")
