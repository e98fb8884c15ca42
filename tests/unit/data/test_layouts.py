"""Layouts keep every token, and lay out no more of them than they say."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_reward.data.collator import PreferenceCollator
from hf_reward.data.layouts import best_completions, laid_out_tokens, lay_out, shared_prompt_length


sequence = st.lists(st.integers(1, 3), min_size=1, max_size=12)
groups = st.lists(st.lists(sequence, min_size=2, max_size=5), min_size=1, max_size=6)


@settings(max_examples=200, deadline=None)
@given(groups, st.sampled_from(["packed", "shared_prompt"]))
def test_one_row_holds_every_completion_with_the_positions_it_had_alone(batch: list[list[list[int]]], layout) -> None:
    out = lay_out(batch, layout, pad_id=0, multiple=1)
    ids, positions = out["input_ids"][0].tolist(), out["position_ids"][0].tolist()
    rewards_at = iter(out["reward_positions"].tolist())
    start = 0
    for group, (prompt, sizes) in zip(batch, out["group_spans"], strict=True):
        shared = list(range(start, start + prompt))
        end = start + prompt
        for completion, size in zip(group, sizes, strict=True):
            places = [*shared, *range(end, end + size)]
            assert [ids[place] for place in places] == completion
            assert [positions[place] for place in places] == list(range(len(completion)))
            assert next(rewards_at) == places[-1]
            end += size
        start = end
    assert len(ids) == start
    lengths = [[len(completion) for completion in group] for group in batch]
    shared_lengths = [shared_prompt_length(group) for group in batch]
    expected = [laid_out_tokens(n, s, layout) for n, s in zip(lengths, shared_lengths, strict=True)]
    assert len(ids) == sum(expected)


@settings(max_examples=100, deadline=None)
@given(st.lists(sequence, min_size=2, max_size=5))
def test_the_shared_prompt_is_the_longest_common_start(group: list[list[int]]) -> None:
    length = shared_prompt_length(group)
    assert all(completion[:length] == group[0][:length] for completion in group)
    longer = {tuple(completion[: length + 1]) for completion in group}
    assert len(longer) > 1 or any(len(completion) == length for completion in group)


@settings(max_examples=50, deadline=None)
@given(groups, st.sampled_from(["padded", "packed", "shared_prompt"]))
def test_the_best_completions_are_found_in_any_layout(batch: list[list[list[int]]], layout) -> None:
    collated = PreferenceCollator(0, layout=layout)([{"completion_input_ids": group} for group in batch])
    assert best_completions(collated) == [group[0] for group in batch]


# What TRL lays out for these pairs, and what is left of it: three pairs of the lengths of chat data.
@pytest.mark.parametrize(("layout", "tokens"), [("padded", 2 * 3 * 60), ("packed", 230), ("shared_prompt", 160)])
def test_tokens_by_hand(layout, tokens: int) -> None:
    def pair(prompt: int, chosen: int, rejected: int) -> list[list[int]]:
        return [[9] * prompt + [1] * chosen, [9] * prompt + [2] * rejected]

    batch = [pair(40, 20, 10), pair(20, 10, 20), pair(10, 20, 10)]
    out = lay_out(batch, layout, pad_id=0, multiple=1)
    assert out["input_ids"].numel() == tokens
