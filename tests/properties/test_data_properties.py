from collections import Counter

from datasets import Dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_reward.data.filters import Filters
from hf_reward.data.lengths import LengthLimits
from hf_reward.data.loading import Source
from hf_reward.data.preparation import prepare_split
from hf_reward.data.reading import detect_reader
from hf_reward.data.tokenization import RowRules, RowTokenizer
from hf_reward.quickstart.model import byte_tokenizer


TOKENIZER = byte_tokenizer()
# Letters, an emoji, whitespace, and special tokens as text.
WORDS = st.sampled_from(["a", "b", " ", "\n", "word", "🙂", "<eos>", "<pad>", "<|user|>"])
TEXTS = st.lists(WORDS, max_size=8).map("".join)


@st.composite
def conversations(draw):
    turns = draw(st.integers(0, 2))
    prompt = [{"role": "system", "content": draw(TEXTS)}] if draw(st.booleans()) else []
    for _ in range(turns):
        prompt += [{"role": "user", "content": draw(TEXTS)}, {"role": "assistant", "content": draw(TEXTS)}]
    prompt.append({"role": "user", "content": draw(TEXTS)})
    sides = {side: [{"role": "assistant", "content": draw(TEXTS)}] for side in ("chosen", "rejected")}
    return {"prompt": prompt, **sides}


@st.composite
def plain_pairs(draw):
    return {name: draw(TEXTS) for name in ("prompt", "chosen", "rejected")}


@st.composite
def pretokenised(draw):
    ids = st.lists(st.integers(0, 261), min_size=1, max_size=12)
    shared = draw(st.lists(st.integers(0, 261), max_size=8))
    return {f"{side}_input_ids": shared + draw(ids) for side in ("chosen", "rejected")}


ROWS = st.one_of(*(st.lists(kind(), min_size=1, max_size=6) for kind in (conversations, plain_pairs, pretokenised)))
LIMITS = st.builds(
    LengthLimits,
    st.none() | st.integers(1, 60),
    st.none() | st.integers(1, 40),
    st.sampled_from(["drop", "truncate_prompt"]),
)
FEW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def tokenize(rows, rules):
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    reader = detect_reader(Dataset.from_dict(columns), "pairs")
    return RowTokenizer(TOKENIZER, "pairs", reader, rules)(columns, list(range(len(rows))))


@FEW
@given(ROWS, LIMITS, st.booleans())
def test_no_token_of_a_completion_is_ever_lost(rows, limits, escape):
    unlimited = tokenize(rows, RowRules(escape_special_tokens=escape))
    limited = tokenize(rows, RowRules(limits, escape))
    for row, reason in enumerate(limited["drop_reason"]):
        if reason:
            continue
        prompt, whole_prompt = limited["prompt_length"][row], unlimited["prompt_length"][row]
        assert limits.reason(prompt, [limited[f"{side}_input_ids"][row] for side in ("chosen", "rejected")]) == ""
        for side in ("chosen_input_ids", "rejected_input_ids"):
            assert limited[side][row][prompt:] == unlimited[side][row][whole_prompt:] != []
        assert limited["chosen_input_ids"][row][:prompt] == limited["rejected_input_ids"][row][:prompt]
        assert limited["chosen_input_ids"][row] != limited["rejected_input_ids"][row]
        if limits.overlong == "drop":
            assert prompt == whole_prompt


@FEW
@given(ROWS, LIMITS)
def test_a_shorter_prompt_is_what_the_longer_one_ends_with(rows, limits):
    unlimited, limited = tokenize(rows, RowRules()), tokenize(rows, RowRules(limits))
    for row, reason in enumerate(limited["drop_reason"]):
        short, whole = limited["prompt_length"][row], unlimited["prompt_length"][row]
        ids = unlimited["chosen_input_ids"][row]
        if not reason and short < whole:
            assert isinstance(rows[row].get("prompt", ""), list | str)
            kept = limited["chosen_input_ids"][row][:short]
            # What stays in front (a system message, BOS) and what stays at the end make the shorter prompt.
            assert any(kept == ids[:head] + ids[whole - (short - head) : whole] for head in range(short + 1))


@FEW
@given(st.lists(ROWS, min_size=1, max_size=2), LIMITS, st.booleans(), st.booleans())
def test_every_row_in_is_a_row_out_or_a_counted_drop(sets, limits, contradictory, duplicates):
    # One row that no rule drops, so that something is left.
    sure = {"prompt": "?", "chosen": "y", "rejected": "z"}
    sources = []
    for number, rows in enumerate([*sets, [sure]]):
        dataset = Dataset.from_list(rows)
        sources.append(Source(f"s{number}", dataset, "train", detect_reader(dataset, f"s{number}")))
    roomy = LengthLimits(limits.max_length and limits.max_length + 3, limits.max_prompt_length, limits.overlong)
    split = prepare_split(sources, TOKENIZER, "train", RowRules(roomy), Filters(contradictory, duplicates))
    counts = split.counts()
    assert {name: count.rows for name, count in counts.items()} == {
        source.name: len(source.dataset) for source in sources
    }
    assert len(split.dataset()) == sum(count.kept for count in counts.values())
    kept = Counter(split.source[split.kept].tolist())
    assert all(kept[number] == counts[source.name].kept for number, source in enumerate(sources))
    assert sum(sum(count.dropped.values()) for count in counts.values()) == int((~split.kept).sum())
