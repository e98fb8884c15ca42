"""The collator keeps every token and says where every reward is read."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_reward import DataError, PreferenceCollator


sequence = st.lists(st.integers(1, 99), min_size=1, max_size=12)
groups = st.lists(st.lists(sequence, min_size=2, max_size=5), min_size=1, max_size=6)


@settings(max_examples=100, deadline=None)
@given(groups, st.sampled_from([None, 1, 4, 8]))
def test_no_token_is_lost_and_every_reward_is_read_at_its_last_token(
    batch: list[list[list[int]]], multiple: int | None
) -> None:
    out = PreferenceCollator(pad_token_id=0, pad_to_multiple_of=multiple)([{"completion_input_ids": g} for g in batch])
    rows, length = out["input_ids"].shape
    assert length % (multiple or 1) == 0
    assert out["group_sizes"] == tuple(len(group) for group in batch)
    completions = [completion for group in batch for completion in group]
    assert rows == len(completions) == len(out["reward_positions"])
    for position, completion in zip(out["reward_positions"].tolist(), completions, strict=True):
        row, column = divmod(position, length)
        kept = out["input_ids"][row][out["attention_mask"][row].bool()].tolist()
        assert kept == completion
        assert column == len(completion) - 1
    assert out["group_tokens"].tolist() == [sum(map(len, group)) for group in batch]
    assert out["weight"].tolist() == [1.0] * len(batch)


def test_pairs_have_all_chosen_rows_first_as_trl_does() -> None:
    from trl.trainer.reward_trainer import DataCollatorForPreference

    pairs = [([5, 6, 7], [5, 8]), ([5, 9], [5])]
    ours = PreferenceCollator(0)([{"chosen_input_ids": c, "rejected_input_ids": r, "margin": 0.5} for c, r in pairs])
    theirs = DataCollatorForPreference(0)([{"chosen_ids": c, "rejected_ids": r, "margin": 0.5} for c, r in pairs])
    for name in ("input_ids", "attention_mask", "margin"):
        assert torch.equal(ours[name], theirs[name]), name


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no rows"),
        ([{"chosen_input_ids": [1], "rejected_input_ids": []}], "Row 0 of the batch has a completion with no tokens"),
        ([{"completion_input_ids": [[1]]}], "needs at least two"),
        ([{"chosen": "a"}], "expected `chosen_input_ids`"),
        (
            [
                {"chosen_input_ids": [1], "rejected_input_ids": [2], "margin": 1.0},
                {"chosen_input_ids": [1], "rejected_input_ids": [2]},
            ],
            "1 of 2 rows carry `margin`",
        ),
    ],
)
def test_bad_rows_are_named(rows: list[dict], message: str) -> None:
    with pytest.raises(DataError, match=message):
        PreferenceCollator(pad_token_id=0)(rows)
