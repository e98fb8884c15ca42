import pytest
import torch

from hf_reward.data.collator import PreferenceCollator
from hf_reward.errors import DataError


collate = PreferenceCollator(pad_token_id=0)


def row(**more):
    return {"chosen_input_ids": [5, 6], "rejected_input_ids": [5], **more}


def test_groups_of_different_sizes_stand_rank_by_rank_and_score_group_by_group():
    three = {"completion_input_ids": [[1], [2, 2], [3]]}
    batch = collate([three, row()])
    assert batch["input_ids"].tolist() == [[1, 0], [5, 6], [2, 2], [5, 0], [3, 0]]
    assert batch["group_sizes"] == (3, 2)
    places = [batch["input_ids"].flatten()[place].item() for place in batch["reward_positions"]]
    assert places == [1, 2, 3, 6, 5]
    assert batch["group_tokens"].tolist() == [4, 3]


def test_optional_columns_become_tensors():
    batch = collate([row(margin=0.5, chosen_probability=0.75, tie=False, scores=[2.0, 1.0]) for _ in range(2)])
    assert {name: (batch[name].tolist(), batch[name].dtype) for name in ("margin", "chosen_probability", "tie")} == {
        "margin": ([0.5, 0.5], torch.float32),
        "chosen_probability": ([0.75, 0.75], torch.float32),
        "tie": ([False, False], torch.bool),
    }
    assert (batch["scores"].tolist(), batch["scores"].dtype) == ([2.0, 1.0, 2.0, 1.0], torch.float32)
    assert {"margin", "chosen_probability", "tie", "scores"}.isdisjoint(collate([row()]))
    assert collate([row(weight=2.0), row()])["weight"].tolist() == [2.0, 1.0]


@pytest.mark.parametrize(
    ("name", "value"), [("margin", 1.0), ("chosen_probability", 0.5), ("tie", True), ("scores", [1, 0])]
)
def test_a_column_that_some_rows_carry_must_be_carried_by_all(name, value):
    with pytest.raises(DataError, match=f"1 of 2 rows carry `{name}`"):
        collate([row(**{name: value}), row()])


def test_scores_that_do_not_fit_the_completions_are_refused():
    with pytest.raises(DataError, match="Row 0 of the batch has 3 `scores` for 2 completions"):
        collate([row(scores=[3.0, 2.0, 1.0])])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no rows"),
        ([{"chosen_input_ids": [], "rejected_input_ids": [1]}], "completion with no tokens"),
        ([{"completion_input_ids": [[1]]}], "has 1 completion"),
        ([{"chosen": "text"}], r"has the columns \['chosen'\]"),
    ],
)
def test_what_is_no_batch_of_preferences_is_refused(rows, message):
    with pytest.raises(DataError, match=message):
        collate(rows)


def test_padding_is_rounded_up_and_never_read():
    batch = PreferenceCollator(pad_token_id=5, pad_to_multiple_of=4)([row()])
    assert batch["input_ids"].tolist() == [[5, 6, 5, 5], [5, 5, 5, 5]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 0, 0, 0]]
    assert batch["reward_positions"].tolist() == [1, 4]
