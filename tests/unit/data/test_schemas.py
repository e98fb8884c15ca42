"""Every format that data comes in: told by columns and first rows, and brought to the one shape."""

import json
import re
from pathlib import Path

import pytest
import yaml
from datasets import Dataset, IterableDataset

from hf_reward.cli.recipe import parse, to_recipe
from hf_reward.data.formats import PreferenceRow, TokenRow
from hf_reward.data.ranked import Dropped, RankedRule
from hf_reward.data.reading import ReadingOptions, detect_reader, make_reader
from hf_reward.data.schemas import FORMATS, detect_format
from hf_reward.errors import ConfigurationError, DataError


DOCUMENT = Path(__file__).parents[3] / "docs" / "data_formats.md"
JSON = r"```json\n(.*?)\n```"
EXAMPLE = re.compile(rf"### ([^\n]+)\n\n`(\w+)`.*?\n\n(?:<!-- options: (.*?) -->\n)?{JSON}\n\nbecomes\n\n{JSON}", re.S)
EXAMPLES = EXAMPLE.findall(DOCUMENT.read_text(encoding="utf-8"))


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def read(row, place="row 1", **options):
    return make_reader(list(row), row, "here", ReadingOptions(**options))(row, place)


def one(row, **options):
    (entry,) = read(row, **options)
    return entry


def test_the_document_has_an_example_of_every_format():
    assert {example[1] for example in EXAMPLES} == set(FORMATS)
    assert len(EXAMPLES) == DOCUMENT.read_text(encoding="utf-8").count("\nbecomes\n")


@pytest.mark.parametrize(("title", "name", "options", "row", "results"), EXAMPLES, ids=[e[0] for e in EXAMPLES])
def test_an_example_of_the_document(title, name, options, row, results):
    row = json.loads(row)
    assert detect_format(list(row), row) == name
    entries = read(row, ranked=RankedRule(**json.loads(options or "{}")))
    shown = []
    for entry in entries:
        fields = {key: value for key, value in vars(entry).items() if value not in (None, {}, False)}
        shown.append({"dropped": entry.reason} if isinstance(entry, Dropped) else fields)
    assert shown == [json.loads(line) for line in results.splitlines()]


@pytest.mark.parametrize("block", re.findall(r"```yaml\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.S))
def test_a_recipe_of_the_document(tmp_path, block):
    path = tmp_path / "recipe.yaml"
    path.write_text(f"model_name_or_path: model\noutput_dir: out\n{block}", encoding="utf-8")
    _, data, _ = parse([str(path)])
    assert set(yaml.safe_load(block)) <= set(to_recipe(*parse([str(path)]))) | {"dataset_mixer_list_splits"}
    assert data.train_specs() or data.eval_specs() or data.eval_split_size or data.column_map


def test_the_formats_are_those_of_the_setting():
    from typing import get_args

    from hf_reward.config.data_arguments import DatasetFormat

    assert set(get_args(DatasetFormat)) == set(FORMATS)


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"chosen": "Human beings", "rejected": "b"}, "pairs"),
        ({"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "c"}, "hh"),
        ({"prompt": "\n\nHuman: a\n\nAssistant:", "chosen": " b", "rejected": " c"}, "hh"),
        ({"prompt": "Hi", "chosen": [assistant("a")], "rejected": [assistant("b")]}, "pairs"),
        ({"prompt": "Hi", "chosen": [user("Hi"), assistant("a")], "rejected": []}, "ultrafeedback_binarized"),
        ({"chosen": {"from": "gpt", "value": "a"}, "rejected": None}, "sharegpt"),
        ({"completion_input_ids": [[1], [2]]}, "tokens"),
        ({"chosen": None, "rejected": None}, "pairs"),
        ({"prompt": "a", "response": "b"}, None),
    ],
)
def test_formats_are_told_apart(row, name):
    assert detect_format(list(row), row) == name


def test_a_transcript_with_its_prompt_apart():
    row = {"prompt": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:", "chosen": " d ", "rejected": " e"}
    assert one(row) == PreferenceRow(
        [user("a"), assistant("b"), user("c")], [[assistant("d")], [assistant("e")]], None, {}, None, None
    )


def test_doubled_turns_of_a_transcript_become_one():
    text = "\n\nHuman: a\n\nHuman: b\n\nAssistant: c\n\nAssistant: "
    row = one({"chosen": text + "d", "rejected": text + "e"})
    assert row.prompt == [user("a\n\nb")]
    assert row.completions == [[assistant("c\n\nd")], [assistant("c\n\ne")]]


def test_sharegpt_with_system_and_tool_turns():
    turns = [("human", "a"), ("function_call", "f()"), ("observation", "4")]
    row = {
        "system": "Be brief.",
        "conversations": [{"from": speaker, "value": text} for speaker, text in turns],
        "chosen": {"from": "gpt", "value": "4"},
        "rejected": {"from": "GPT", "value": "5"},
    }
    roles = [message["role"] for message in one(row).prompt]
    assert roles == ["system", "user", "assistant", "tool"]
    row["conversations"][0]["from"] = "robot"
    with pytest.raises(DataError, match=r"^row 1: `prompt\[1\]\.role` is text 'robot' \(expected one of system, user"):
        read(row)


def feedback(*completions):
    return {"instruction": "Hi", "completions": [{"response": text} | scores for text, scores in completions]}


def test_where_the_score_of_ultrafeedback_comes_from():
    judged = {"annotations": {"honesty": {"Rating": "5"}, "helpfulness": {"Rating": "2"}, "other": {"Rating": "N/A"}}}
    row = feedback(
        ("overall", {"overall_score": 3.0} | judged),
        ("fine", {"overall_score": None, "fine-grained_score": 9.5}),
        ("mean", judged),
    )
    assert [[m["content"] for m in side] for side in one(row).completions] == [["fine"], ["mean"], ["overall"]]
    assert one(row).scores == [9.5, 3.5, 3.0]
    row = feedback(("a", judged), ("b", {"annotations": {"helpfulness": {"Rating": "4"}}}))
    assert one(row, score_column="helpfulness").scores == [4.0, 2.0]
    with pytest.raises(DataError, match=r"^row 1: `completions\[1\]\.honesty` is None \(expected a number\)"):
        read(row, score_column="honesty")
    with pytest.raises(DataError, match=r"`completions` is a list .* \(expected a list of two or more\)"):
        read(feedback(("a", judged)))


@pytest.mark.parametrize(("strength", "best", "score"), [(-3, "first", 3.0), (1, "second", 1.0)])
def test_the_sign_of_a_helpsteer_preference(strength, best, score):
    row = {"context": [user("Hi")], "response1": "first", "response2": "second", "overall_preference": strength}
    entry = one(row, ranked=RankedRule(margin_from_scores=True))
    assert (entry.completions[0], entry.scores, entry.margin) == ([assistant(best)], [score, 0.0], score)
    two = {"prompt": "Hi", "response_1": "first", "response_2": "second", "preference_strength": strength}
    assert one(two).completions == entry.completions


def test_a_helpsteer_preference_of_none_is_dropped_or_a_tie():
    row = {"context": [user("Hi")], "response1": "a", "response2": "b", "overall_preference": 0}
    assert one(row).reason == "equal_scores"
    assert one(row, ranked=RankedRule(equal_scores="tie")).tie is True
    assert one(row | {"overall_preference": None}, on_bad_row="drop").reason == "bad_row"


def test_a_prompt_that_is_no_question_of_the_conversation_is_refused():
    row = {"prompt": "Ho", "chosen": [user("Hi"), assistant("a")], "rejected": [user("Hi"), assistant("b")]}
    with pytest.raises(DataError, match=r'`prompt` is text \'Ho\' .* `column_map: \{"prompt": null\}`'):
        read(row)
    assert one(row, column_map={"prompt": None}).prompt == [user("Hi")]


def test_scores_beside_labels_do_not_turn_the_pair_around():
    pair = {"chosen": "a", "rejected": "b", "score_chosen": 1, "score_rejected": 4}
    assert (one(pair).completions, one(pair).scores) == (["a", "b"], [1.0, 4.0])
    assert one(pair, ranked=RankedRule(min_score_gap=1)).reason == "score_gap"
    assert one(pair | {"score_chosen": 4}).completions == ["a", "b"]
    assert one(pair | {"score_chosen": None, "score_rejected": None}).scores is None


def test_columns_are_renamed_left_out_and_asked_for():
    row = {"q": "Hi", "good": "a", "bad": "b", "chosen": "old", "margin": 1}
    columns = {"q": "prompt", "good": "chosen", "bad": "rejected", "margin": None}
    assert one(row, column_map=columns) == PreferenceRow("Hi", ["a", "b"], None, {}, None, None)
    with pytest.raises(ConfigurationError, match=r"^here: `column_map`: found best; expected some of q, good, bad"):
        read(row, column_map={"best": "chosen"})


def test_a_format_by_name():
    row = {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"}
    assert one(row, dataset_format="pairs").completions == [row["chosen"], row["rejected"]]
    with pytest.raises(
        DataError, match=r"^here: no column completions \(columns found: chosen, rejected\), which the"
    ):
        read(row, dataset_format="ranked")
    with pytest.raises(DataError, match="which the format tokens has"):
        read(row, dataset_format="tokens")
    reader = make_reader(list(row), row, "here")
    with pytest.raises(DataError, match=r"^row 2: `chosen` is text 'x' \(expected a transcript that starts with"):
        reader({"chosen": "x", "rejected": "y"}, "row 2")
    with pytest.raises(DataError, match=r"^row 2: no column rejected \(columns found: chosen; the format hh has"):
        reader({"chosen": "x"}, "row 2")


def test_what_a_reader_says_of_its_rows():
    ranked = {"completions": ["a", "b"], "scores": [1, 0], "weight": 1}
    reader = make_reader(list(ranked), ranked, "here")
    assert (reader.extra_columns, reader.keeps_groups, reader.has_token_ids) == (("weight", "scores"), True, False)
    rule = RankedRule("all_pairs", margin_from_scores=True, equal_scores="tie")
    reader = make_reader(list(ranked), ranked, "here", ReadingOptions(ranked=rule))
    assert (reader.extra_columns, reader.keeps_groups) == (("margin", "weight", "tie", "scores"), False)
    pair = {"chosen": "a", "rejected": "b"}
    assert make_reader(list(pair), pair, "here").extra_columns == ()
    assert make_reader(list(pair), pair, "here", ReadingOptions(weight=2.0)).extra_columns == ("weight",)
    ids = {"completion_input_ids": [[1], [2]]}
    assert (make_reader(list(ids), ids, "here").keeps_groups, one(ids)) == (True, TokenRow([[1], [2]], None, None))


def test_the_weight_of_a_source_multiplies_that_of_its_rows():
    pair = {"chosen": "a", "rejected": "b"}
    assert one(pair, weight=2.0).weight == 2.0
    assert one(pair | {"weight": 0.5}, weight=3.0).weight == 1.5


def test_a_reader_is_found_for_datasets_and_streams():
    rows = [{"chosen": None, "rejected": None}, {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "c"}]
    assert detect_reader(Dataset.from_list(rows), "here").format == "hh"
    assert detect_reader(IterableDataset.from_generator(lambda: iter(rows)), "here").format == "hh"
    with pytest.raises(DataError, match=r"^here: the stream is empty"):
        detect_reader(IterableDataset.from_generator(lambda: iter([])), "here")


def test_an_optional_column_that_the_first_row_of_a_stream_does_not_have():
    reader = make_reader(["chosen", "rejected"], {"chosen": "a", "rejected": "b"}, "here")
    with pytest.raises(DataError, match=r"^row 9: `margin` is there .* and the first row has none"):
        reader({"chosen": "a", "rejected": "b", "margin": 1}, "row 9")
    reader = make_reader(["chosen", "rejected", "margin"], {"chosen": "a", "rejected": "b", "margin": 1}, "here")
    with pytest.raises(DataError, match=r"^row 9: `margin` is None"):
        reader({"chosen": "a", "rejected": "b"}, "row 9")


RANKED = {"completions": ["a", "b", "c", "d"], "scores": [2, 8, 5, 5]}


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({}, [["b", "c", "a"]]),
        ({"min_score_gap": 3}, [["b", "c", "a"]]),
        ({"min_score_gap": 4}, [["b", "a"]]),
        ({"min_score_gap": 9}, ["equal_scores"]),
        (
            {"ranked_to_pairs": "all_pairs"},
            [["b", "c"], ["b", "d"], ["b", "a"], "equal_scores", ["c", "a"], ["d", "a"]],
        ),
        ({"ranked_to_pairs": "best_vs_each", "min_score_gap": 4}, ["score_gap", "score_gap", ["b", "a"]]),
        ({"ranked_to_pairs": "best_vs_each", "min_score_gap": 3}, [["b", "c"], ["b", "d"], ["b", "a"]]),
        ({"ranked_to_pairs": "best_vs_worst"}, [["b", "a"]]),
    ],
)
def test_rules_for_ranked_completions(rule, expected):
    entries = read(RANKED, ranked=RankedRule(**rule))
    assert [entry.reason if isinstance(entry, Dropped) else entry.completions for entry in entries] == expected


def test_completions_left_out_of_a_group_are_counted():
    assert [one(RANKED, ranked=RankedRule(min_score_gap=gap)).left_out for gap in (0, 3, 4)] == [1, 1, 2]
    assert one({"completions": ["a", "b", "c"], "scores": [3, 2, 1]}).left_out == 0


def test_ranked_completions_without_scores():
    row = {"completions": ["a", "b", "c"]}
    assert one(row).completions == ["a", "b", "c"]
    pairs = read(row, ranked=RankedRule("all_pairs"))
    assert [pair.completions for pair in pairs] == [["a", "b"], ["a", "c"], ["b", "c"]]
    for setting in ({"min_score_gap": 1}, {"margin_from_scores": True}):
        with pytest.raises(DataError, match=f"^row 1: has no scores .* `{next(iter(setting))}` is set"):
            read(row, ranked=RankedRule(**setting))
    with pytest.raises(DataError, match="has a `margin` of its own"):
        read(RANKED | {"margin": 1}, ranked=RankedRule(margin_from_scores=True))


def test_equal_scores_of_two():
    row = {"completions": ["a", "b"], "scores": [1, 1]}
    assert one(row).reason == "equal_scores"
    tie = one(row, ranked=RankedRule(equal_scores="tie", min_score_gap=1))
    assert (tie.completions, tie.tie) == (["a", "b"], True)
