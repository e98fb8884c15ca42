"""What holds for every source of preference data, however it is spelt, cut into files or judged."""

import json
import tempfile
from collections import Counter
from pathlib import Path

import datasets
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_reward.config import DataArguments
from hf_reward.data.loading import load_sources
from hf_reward.data.ranked import PAIR_RULES, Dropped, RankedRule
from hf_reward.data.reading import ReadingOptions, make_reader


# Words that are no mark of another format and survive being stripped.
words = st.text(st.characters(codec="utf-8", categories=["L", "N"]), min_size=1, max_size=6)
SETTINGS = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def read(row, **options):
    return make_reader(list(row), row, "here", ReadingOptions(**options))(row, "row 1")


@given(words, words, words, words)
def test_every_spelling_of_a_pair_is_one_row(earlier, question, chosen, rejected):
    rejected += "!"  # never the chosen one
    turns = [user(earlier), assistant("so"), user(question)]
    good, bad = assistant(chosen), assistant(rejected)
    shares = [{"from": {"user": "human", "assistant": "gpt"}[t["role"]], "value": t["content"]} for t in turns]
    transcript = f"\n\nHuman: {earlier}\n\nAssistant: so\n\nHuman: {question}\n\nAssistant:"
    turn = "<extra_id_1>"
    spellings = [
        {"prompt": turns, "chosen": [good], "rejected": [bad]},
        {"prompt": turns, "chosen": good, "rejected": bad},
        {"chosen": [*turns, good], "rejected": [*turns, bad]},
        {"prompt": question, "chosen": [*turns, good], "rejected": [*turns, bad]},
        {"prompt": turns, "completions": [[good], [bad]]},
        {"completions": [[*turns, good], [*turns, bad]]},
        {"chosen": f"{transcript} {chosen}", "rejected": f"{transcript} {rejected}"},
        {"prompt": transcript, "chosen": f" {chosen}", "rejected": f" {rejected}\n"},
        {
            "conversations": shares,
            "chosen": {"from": "gpt", "value": chosen},
            "rejected": {"from": "gpt", "value": rejected},
        },
        {"context": turns, "response1": rejected, "response2": chosen, "overall_preference": 2},
        {
            "prompt": f"{earlier}\n{turn}Assistant\nso\n{turn}User\n{question}",
            "response_1": chosen,
            "response_2": rejected,
            "preference_strength": -1,
        },
    ]
    rows = [read(row) for row in spellings]
    assert {len(entries) for entries in rows} == {1}
    found = [(row.prompt, row.completions) for (row,) in rows]
    assert found == [(turns, [[good], [bad]])] * len(spellings)


ranked = st.integers(2, 5).flatmap(
    lambda count: st.fixed_dictionaries(
        {
            "completions": st.lists(words, min_size=count, max_size=count, unique=True),
            "scores": st.lists(st.integers(0, 4), min_size=count, max_size=count),
        }
    )
)


@given(ranked, st.sampled_from([*PAIR_RULES, "none"]), st.integers(0, 3), st.sampled_from(["drop", "tie"]))
def test_every_pair_of_a_ranked_row_is_a_row_or_a_counted_drop(row, rule, gap, equal):
    entries = read(row, ranked=RankedRule(rule, gap, equal_scores=equal))
    count = len(row["completions"])
    assert len(entries) == (1 if rule == "none" else len(PAIR_RULES[rule](count)))
    score = dict(zip(row["completions"], row["scores"], strict=True))
    for entry in entries:
        if isinstance(entry, Dropped):
            assert entry.reason in ("equal_scores", "score_gap")
            continue
        assert entry.scores == [score[completion] for completion in entry.completions]
        gaps = [one - two for one, two in zip(entry.scores, entry.scores[1:], strict=False)]
        assert all(found >= max(gap, 1) for found in gaps) or (entry.tie and equal == "tie" and gaps == [0])


rows = st.lists(
    st.fixed_dictionaries({"prompt": words, "chosen": words, "rejected": words, "margin": st.integers(-9, 9)}),
    min_size=1,
    max_size=8,
)


@SETTINGS
@given(rows, st.integers(1, 4), st.randoms(use_true_random=False), st.booleans())
def test_any_split_into_files_gives_the_same_pairs(own_cache, rows, parts, random, streaming):
    folder = Path(tempfile.mkdtemp())
    shards = [[] for _ in range(parts)]
    for row in rows:
        random.choice(shards).append(row)
    for number, shard in enumerate(shard for shard in shards if shard):
        (folder / f"part-{number}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in shard))
    (source,) = load_sources(DataArguments(dataset_name=str(folder), streaming=streaming), "train")
    found = [entry for row in source.dataset for entry in source.reader(row, "row")]
    assert Counter(map(repr, found)) == Counter(repr(entry) for row in rows for entry in read(row))


broken = st.sampled_from(['{"chosen": 1}', "no JSON", '["a"]', '{"chosen": "a", "rejected": null}', '{"x": "y"}'])


@SETTINGS
@given(st.lists(broken | words.map(lambda word: json.dumps({"chosen": word, "rejected": "b"})), max_size=9))
def test_every_line_in_is_a_row_out_or_a_counted_drop(own_cache, lines):
    lines = ['{"chosen": "a", "rejected": "b"}', *lines]
    path = Path(tempfile.mkdtemp()) / "p.jsonl"
    path.write_text("".join(f"{line}\n" for line in lines))
    (source,) = load_sources(DataArguments(dataset_name=str(path), on_bad_row="drop"), "train")
    entries = [entry for row in source.dataset for entry in source.reader(row, f"p.jsonl, row {row['source_row']}")]
    assert len(entries) == len(lines)
    kept = [entry.completions[0] for entry in entries if not isinstance(entry, Dropped)]
    assert kept == [json.loads(line)["chosen"] for line in lines if line.endswith('"rejected": "b"}')]
    bad = [entry for entry in entries if isinstance(entry, Dropped)]
    assert all(entry.reason == "bad_row" and entry.message.startswith("p.jsonl, ") for entry in bad)
