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
