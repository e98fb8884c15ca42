import pytest

from hf_reward.config import DataArguments, ModelArguments
from hf_reward.config.data_arguments import parse_amount
from hf_reward.errors import ConfigurationError


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_labels": 2}, "`num_labels`: found 2; expected 1, because a reward model has one output"),
        ({"dtype": "float8"}, "`dtype`: found 'float8'; expected one of auto, float32, bfloat16, float16"),
        ({"lora_r": 0}, "`lora_r`: found 0; expected a whole number, 1 or more"),
        ({"lora_dropout": 1.0}, "`lora_dropout`: found 1.0; expected 0 or more, below 1"),
        ({"use_dora": True}, "`use_dora`: found it set without adapters; expected `use_peft: true` with it"),
        ({"model_name_or_path": ""}, "`model_name_or_path`: found nothing; expected a Hub id or a folder"),
    ],
)
def test_model_arguments_refuse(values, message):
    with pytest.raises(ConfigurationError) as caught:
        ModelArguments(**{"model_name_or_path": "model"} | values)
    assert str(caught.value) == message


def test_model_arguments_defaults():
    model = ModelArguments("model")
    assert (model.dtype, model.num_labels, model.use_peft) == ("float32", 1, False)
    assert (model.lora_r, model.lora_alpha, model.lora_dropout) == (16, 32, 0.05)
    assert ModelArguments("model", use_peft=True, use_dora=True).use_dora is True


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"dataset_name": "a", "dataset_mixer_list": ["b", "1.0"]},
            "`dataset_name`: found together with `dataset_mixer_list`; expected only one of the two",
        ),
        (
            {"dataset_name": "a", "eval_dataset_name": "b", "dataset_mixer_eval_list": ["c", "1.0"]},
            "`eval_dataset_name`: found together with `dataset_mixer_eval_list`; expected only one of the two",
        ),
        (
            {"dataset_mixer_list": ["a", "1.0", "b"]},
            "`dataset_mixer_list`: found 3 value(s); expected sources and amounts in turn: `pairs.jsonl 1.0`",
        ),
        (
            {"dataset_mixer_list": ["a", "half"]},
            "`dataset_mixer_list`: a: found the amount 'half'; "
            "expected a fraction above 0 with a dot (0.5), or a number of pairs without one (500)",
        ),
        (
            {"dataset_mixer_list": ["a", "1", "b", "1", "c", "1"], "dataset_mixer_list_splits": ["x", "y"]},
            "`dataset_mixer_list_splits`: found 2 splits for 3 sources; expected 1 or 3",
        ),
        (
            {"dataset_name": "a", "dataset_mixer_eval_list": ["b", "1.0"]},
            "`dataset_mixer_eval_list_splits`: found nothing; expected the split to take from "
            "`dataset_mixer_eval_list`",
        ),
        (
            {"dataset_mixer_list": ["a", "1.0"], "dataset_test_split": "test"},
            "`dataset_test_split`: found it set without `dataset_name`, to which it belongs",
        ),
        (
            {"dataset_name": "a", "datasets": ["b"]},
            "`dataset_name`: found together with `datasets`; expected only one of the two",
        ),
        (
            {"datasets": ["b"], "dataset_mixer_list": ["a", "1.0"]},
            "`datasets`: found together with `dataset_mixer_list`; expected only one of the two",
        ),
        (
            {"dataset_name": "a", "eval_dataset_name": "b", "eval_datasets": {"x": "c"}},
            "`eval_dataset_name`: found together with `eval_datasets`; expected only one of the two",
        ),
        (
            {"dataset_name": "a", "dataset_test_split": "test", "eval_split_size": 0.1},
            "`dataset_test_split`: found together with `eval_split_size`; expected only one of the two",
        ),
        (
            {"datasets": [{"name": "a", "test_split": "test"}], "eval_split_size": 0.1},
            "`eval_split_size`: found together with a `test_split`; expected only one of the two",
        ),
        (
            {"dataset_name": "a", "eval_split_size": 0.1, "streaming": True},
            "`eval_split_size`: found together with `streaming`, which does not know the size; expected evaluation "
            "data of its own",
        ),
        (
            {"eval_split_size": 1.5},
            "`eval_split_size`: found 1.5; expected a fraction above 0 and below 1, or a number of pairs",
        ),
        (
            {"datasets": "[{"},
            "`datasets`: found '[{'; expected a list of sources in JSON (Expecting property name enclosed in double "
            "quotes: line 1 column 3 (char 2))",
        ),
        ({"datasets": {"name": "a"}}, "`datasets`: found {'name': 'a'}; expected a list of sources"),
        ({"datasets": [{"nam": "a"}]}, "`datasets`: entry 1: unknown key `nam`; did you mean `name`?"),
        (
            {"datasets": ["a", {"split": "test"}]},
            "`datasets`: entry 2: found no `name`; expected a Hub id, a file, a folder or a glob",
        ),
        (
            {"datasets": [{"name": "a", "amount": "half"}]},
            "`datasets`: entry 1: found the amount 'half'; "
            "expected a fraction above 0 with a dot (0.5), or a number of pairs without one (500)",
        ),
        (
            {"datasets": [{"name": "a", "weight": -1}]},
            "`datasets`: entry 1: `weight`: found -1; expected a number, 0 or more",
        ),
        (
            {"datasets": [{"name": "a", "format": "pair"}]},
            "`datasets`: entry 1: `format`: found 'pair'; expected one of pairs, ranked, tokens, hh, sharegpt, "
            "ultrafeedback, ultrafeedback_binarized, helpsteer2, helpsteer2_preference, helpsteer3",
        ),
        (
            {"eval_datasets": {"a b": "c"}},
            "`eval_datasets`: found the name 'a b'; expected letters, digits and underscores: it goes into metrics",
        ),
        (
            {"eval_datasets": {"x": {"name": "c", "test_split": "test"}}},
            "`eval_datasets`: x: found {'name': 'c', 'test_split': 'test'}; expected a source, its split in `split`",
        ),
        (
            {"column_map": {"a": "chosen", "b": "chosen"}},
            "`column_map`: found two columns that become `chosen`; expected one",
        ),
        (
            {"column_map": {"a": 1}},
            "`column_map`: found {'a': 1}; expected names of columns by their names: {theirs: ours}",
        ),
        ({"min_score_gap": -1.0}, "`min_score_gap`: found -1.0; expected a number, 0 or more"),
        ({"on_bad_row": "skip"}, "`on_bad_row`: found 'skip'; expected one of error, drop"),
        (
            {"ranked_to_pairs": "all"},
            "`ranked_to_pairs`: found 'all'; expected one of none, all_pairs, best_vs_each, best_vs_worst",
        ),
        (
            {"eval_overlap": "ignore"},
            "`eval_overlap`: found 'ignore'; expected one of error, drop, allow",
        ),
    ],
)
def test_data_arguments_refuse(values, message):
    with pytest.raises(ConfigurationError) as caught:
        DataArguments(**values)
    assert str(caught.value) == message


def test_one_split_serves_all_sources():
    data = DataArguments(dataset_mixer_list=["a", "1.0", "b", "7"])
    assert data.dataset_mixer_list_splits == ["train", "train"]
    data = DataArguments(dataset_mixer_list=["a", "1.0", "b", "7"], dataset_mixer_list_splits=["x", "y"])
    assert data.dataset_mixer_list_splits == ["x", "y"]


def test_an_empty_list_is_no_list():
    data = DataArguments(dataset_name="a", dataset_mixer_list=[], dataset_mixer_eval_list=[])
    assert (data.dataset_mixer_list, data.dataset_mixer_eval_list) == (None, None)


def test_the_test_split_may_belong_to_the_evaluation_source():
    data = DataArguments(dataset_mixer_list=["a", "1.0"], eval_dataset_name="b", dataset_test_split="test")
    assert data.dataset_test_split == "test"


def test_scripts_need_no_source_and_the_command_does():
    with pytest.raises(ConfigurationError, match=r"^`dataset_name`: found no training data; "):
        DataArguments().check_sources()
    assert DataArguments(dataset_name="a").check_sources() is None
    assert DataArguments(dataset_mixer_list=["a", "1"]).check_sources() is None


@pytest.mark.parametrize(("text", "amount"), [("1", 1), ("1.0", 1.0), ("0.25", 0.25), ("2.5", 2.5), ("300", 300)])
def test_amounts(text, amount):
    assert parse_amount(text) == amount
    assert type(parse_amount(text)) is type(amount)


@pytest.mark.parametrize("text", ["0", "0.0", "-1", "-0.5", "1e3", "nan.", "", "all", "inf."])
def test_amounts_refused(text):
    with pytest.raises(ConfigurationError, match="found the amount"):
        parse_amount(text)


def test_a_list_of_sources_in_every_spelling():
    text = '["a", {"path": "b", "amount": 2.0, "split": 1, "weight": 2, "column_map": {"x": null}, "format": "hh"}]'
    data = DataArguments(datasets=text)
    first, second = data.train_specs()
    assert (first.name, first.split, first.amount, first.weight) == ("a", "train", "1.0", None)
    assert (second.name, second.split, second.amount, second.weight) == ("b", "1", "2.0", 2.0)
    assert (second.column_map, second.format) == ({"x": None}, "hh")
    assert data == DataArguments(datasets=data.datasets)
    assert data.check_sources() is None
    assert data.eval_specs() == {}


def test_where_evaluation_data_comes_from():
    def names(**values):
        specs = DataArguments(**values).eval_specs()
        return {name: [(spec.name, spec.split) for spec in parts] for name, parts in specs.items()}

    assert names(dataset_name="a") == {}
    assert names(dataset_name="a", dataset_test_split="test") == {"eval": [("a", "test")]}
    assert names(dataset_name="a", eval_dataset_name="b") == {"eval": [("b", None)]}
    assert names(datasets=["a", {"name": "b", "test_split": "test"}]) == {"eval": [("b", "test")]}
    assert names(dataset_name="a", dataset_mixer_eval_list=["b", "1.0"], dataset_mixer_eval_list_splits=["t"]) == {
        "eval": [("b", "t")]
    }
    assert names(eval_datasets={"x": "a", "y": [{"name": "b", "split": "dev"}, "c"]}) == {
        "x": [("a", None)],
        "y": [("b", "dev"), ("c", None)],
    }


def test_configuration_and_revision_belong_to_the_first_source():
    data = DataArguments(dataset_name="a", dataset_config="c", dataset_revision="r", eval_dataset_name="b")
    (train,), (evaluation,) = data.train_specs(), data.eval_specs()["eval"]
    assert (train.config, train.revision, evaluation.config, evaluation.revision) == ("c", "r", None, None)
