import json
import os

import pytest
import yaml

from hf_reward.cli.recipe import parse, parse_call, to_recipe
from hf_reward.errors import ConfigurationError


BASE = ["--model_name_or_path", "model", "--output_dir", "out"]


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write_recipe(text):
        (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
        return "recipe.yaml"

    return write_recipe


def with_base(text):
    return f"model_name_or_path: model\noutput_dir: out\n{text}\n"


def error_of(argv):
    with pytest.raises(ConfigurationError) as caught:
        parse(argv)
    return str(caught.value)


def test_the_documented_command_line_of_the_seed():
    config, data, model = parse(
        "--dataset_mixer_list X 1.0 --model_name_or_path Y --num_labels 1 --per_device_train_batch_size 1 "
        "--gradient_accumulation_steps 8 --learning_rate 2e-5 --num_train_epochs 1 --lr_scheduler_type linear "
        "--output_dir output/reward_model --with_tracking".split()
    )
    assert (data.dataset_mixer_list, data.dataset_mixer_list_splits) == (["X", "1.0"], ["train"])
    assert (model.model_name_or_path, model.num_labels) == ("Y", 1)
    assert (config.per_device_train_batch_size, config.gradient_accumulation_steps) == (1, 8)
    assert (config.learning_rate, config.num_train_epochs, config.lr_scheduler_type) == (2e-5, 1.0, "linear")
    assert (config.output_dir, config.report_to) == ("output/reward_model", ["wandb"])


def test_the_documented_python_example_of_the_seed():
    config, data, model = parse_call(
        None,
        {
            "dataset_mixer_list": ["allenai/tulu-3-wildchat-reused-on-policy-8b", "1.0"],
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": 8,
            "learning_rate": 2e-5,
            "num_train_epochs": 1,
            "output_dir": "output/reward_model",
            "tokenizer_name_or_path": "allenai/tulu-2-7b",
            "model_name_or_path": "allenai/tulu-2-7b",
        },
    )
    assert (config.learning_rate, config.num_train_epochs) == (2e-5, 1.0)
    assert data.dataset_mixer_list == ["allenai/tulu-3-wildchat-reused-on-policy-8b", "1.0"]
    assert model.tokenizer_name_or_path == "allenai/tulu-2-7b"


@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        ("learning_rate: 2e-5", "learning_rate", 2e-5),
        ("eval_strategy: no", "eval_strategy", "no"),
        ("eval_strategy: epoch", "eval_strategy", "epoch"),
        ("max_length: null", "max_length", None),
        ("max_length: ~", "max_length", None),
        ("max_length:", "max_length", None),
        ("max_length: none", "max_length", None),
        ("max_token_length: null", "max_length", None),
        ("max_steps: -1", "max_steps", -1),
        ("run_name: 'none'", "run_name", "none"),
        ("run_name: none", "run_name", "none"),
        ("run_name: null", "run_name", None),
        ("run_name: 2024-01-01", "run_name", "2024-01-01"),
        ("run_name: 007", "run_name", "007"),
        ("report_to: none", "report_to", []),
        ("report_to: tensorboard", "report_to", ["tensorboard"]),
        ("report_to: [tensorboard, trackio]", "report_to", ["tensorboard", "trackio"]),
        ("with_tracking: true", "report_to", ["wandb"]),
        ("with_tracking: false", "report_to", []),
        ("disable_dropout: no", "disable_dropout", False),
        ("bf16: true", "bf16", True),
        ("eps: 1e-5", "adam_epsilon", 1e-5),
        ("warm_up_steps: 3", "warmup_steps", 3),
        ("max_prompt_token_length: 9", "max_prompt_length", 9),
        ("hf_repo_id: me/rm\nhf_repo_revision: v1", "hub_revision", "v1"),
        ("hf_entity: me\nhf_repo_id: rm", "hub_model_id", "me/rm"),
        ("exp_name: first\nseed: 3", "run_name", "first__3"),
        ("exp_name: first", "run_name", "first__42"),
        ("exp_name: first\nrun_name: mine", "run_name", "mine"),
        ("chat_template_name: tulu", "chat_template_path", "tulu"),
        ("pad_to_multiple_of: auto", "pad_to_multiple_of", None),
        ("model_init_kwargs: {dtype: float16, n: 1e-5}", "model_init_kwargs", {"dtype": "float16", "n": 1e-5}),
        ("lr_scheduler_kwargs: '{\"num_cycles\": 2}'", "lr_scheduler_kwargs", {"num_cycles": 2}),
        ("include_num_input_tokens_seen: all", "include_num_input_tokens_seen", "all"),
        ("include_num_input_tokens_seen: false", "include_num_input_tokens_seen", "no"),
    ],
)  # fmt: skip
def test_a_line_of_a_recipe(write, line, key, value):
    config, _, _ = parse([write(with_base(line))])
    assert getattr(config, key) == value


@pytest.mark.parametrize(("amount", "kept"), [("1.0", "1.0"), ("1", "1"), ("0.50", "0.50"), ("'2'", "2")])
def test_amounts_keep_the_text_they_are_written_in(write, amount, kept):
    _, data, _ = parse([write(with_base(f"dataset_mixer_list: [data.jsonl, {amount}]"))])
    assert data.dataset_mixer_list == ["data.jsonl", kept]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rat: 1", "recipe.yaml, line 3: unknown key `learning_rat`; did you mean `learning_rate`?"),
        ("max_token_lenght: 1",
         "recipe.yaml, line 3: unknown key `max_token_lenght`; did you mean `max_token_length`?"),
        ("max-length: 1", "recipe.yaml, line 3: unknown key `max-length`; did you mean `max_length`?"),
        ("zzzzz: 1", "recipe.yaml, line 3: unknown key `zzzzz`; `hf_reward-train --help all` lists the keys"),
        ("_VALID_DICT_FIELDS: [a]", "recipe.yaml, line 3: unknown key `_VALID_DICT_FIELDS`; "
                                    "`hf_reward-train --help all` lists the keys"),
        ("learning_rate: [1]", "recipe.yaml, line 3: `learning_rate`: found the list [1]; expected a number"),
        ("learning_rate: []", "recipe.yaml, line 3: `learning_rate`: found the list []; expected a number"),
        ("learning_rate: null", "recipe.yaml, line 3: `learning_rate`: found null; expected a number"),
        ("learning_rate: -1", "recipe.yaml, line 3: `learning_rate`: found -1.0; expected a number above 0"),
        ("per_device_train_batch_size: 2.5",
         "recipe.yaml, line 3: `per_device_train_batch_size`: found '2.5'; expected a whole number"),
        ("per_device_train_batch_size: true",
         "recipe.yaml, line 3: `per_device_train_batch_size`: found 'true'; expected a whole number"),
        ("max_steps: 1.5", "recipe.yaml, line 3: `max_steps`: found '1.5'; expected a whole number"),
        ("max_length: long", "recipe.yaml, line 3: `max_length`: found 'long'; expected a whole number or none"),
        ("disable_dropout: 2", "recipe.yaml, line 3: `disable_dropout`: found '2'; expected true or false"),
        ("eval_strategy: often",
         "recipe.yaml, line 3: `eval_strategy`: found 'often'; expected one of no, steps, epoch"),
        ("seed: {a: 1}", "recipe.yaml, line 3: `seed`: found a mapping; expected a whole number; recipes are flat"),
        ("dataset_mixer_list: [[a, 1]]",
         "recipe.yaml, line 3: `dataset_mixer_list`: found nested values; expected one value or a flat list"),
        ("dataset_mixer_list: [a, null]",
         "recipe.yaml, line 3: `dataset_mixer_list`: found null in a list; expected text or numbers"),
        ("dataset_mixer_list: [--seed, 1]", "recipe.yaml, line 3: `dataset_mixer_list`: found the list [--seed, 1]; "
                                            "expected values that do not begin with a dash"),
        ("dataset_mixer_list: [a]", "recipe.yaml, line 3: `dataset_mixer_list`: found 1 value(s); "
                                    "expected sources and amounts in turn: `pairs.jsonl 1.0`"),
        ("seed: 1\nseed: 2", "recipe.yaml, line 4: `seed` is already set in line 3; expected each key once"),
        ("model_init_kwargs:\n  a: 1\n  a: 2",
         "recipe.yaml, line 5: `a` is already set in line 4; expected each key once"),
        ("max_length: 1\nmax_token_length: 2",
         "recipe.yaml, line 4: `max_length` is given as `max_length` and as `max_token_length`; expected it once"),
        ("with_tracking: true\nreport_to: none",
         "recipe.yaml, line 4: `report_to` is given as `with_tracking` and as `report_to`; expected it once"),
        ("with_tracking: maybe", "recipe.yaml, line 3: `with_tracking`: found 'maybe'; expected true or false"),
        ("seed: !!python/object/apply:os.getcwd []", "recipe.yaml, line 3: `seed`: found the tag "
                                 "'tag:yaml.org,2002:python/object/apply:os.getcwd'; expected a plain list"),
        ("seed: !!python/name:os.getcwd", "recipe.yaml, line 3: `seed`: found the tag "
                                          "'tag:yaml.org,2002:python/name:os.getcwd'; expected a plain value"),
        ("model_init_kwargs: {a: !!python/name:os.getcwd}", "recipe.yaml, line 3: this is not the YAML of a recipe: "),
        ("lr_scheduler_kwargs: '{a'",
         "recipe.yaml, line 3: `lr_scheduler_kwargs`: found '{a'; expected a mapping in JSON"),
        ("num_labels: 2",
         "recipe.yaml, line 3: `num_labels`: found 2; expected 1, because a reward model has one output"),
        ("world_size: 8", "recipe.yaml, line 3: `world_size`: found '8'; expected none, or nothing: this is computed; "
                          "the launcher decides it; the run prints it"),
        ("use_slow_tokenizer: true", "recipe.yaml, line 3: `use_slow_tokenizer`: found 'true'; expected false, "),
        ("parallelism_config: {}", "recipe.yaml, line 3: `parallelism_config`: found a mapping; expected nothing: "
                                   "this one can be given to RewardConfig in Python only"),
        ("hf_entity: me", "`hf_entity`: found 'me' alone; expected `hf_repo_id` with it"),
        ("[a]: 1",
         "recipe.yaml, line 3: found a key that is not a name; expected lines such as `learning_rate: 1e-5`"),
        ("<<: {seed: 1}", "recipe.yaml, line 3: unknown key `<<`; `hf_reward-train --help all` lists the keys"),
        ("eval_strategy: steps\nload_best_model_at_end: true\nsave_strategy: epoch",
         "--load_best_model_at_end requires"),
    ],
)  # fmt: skip
def test_what_a_recipe_may_not_say(write, text, message):
    found = error_of([write(with_base(text))])
    assert found[: len(message)] == message
    assert len(found) < 400


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "recipe.yaml: this recipe is empty; expected lines such as `learning_rate: 1e-5`"),
        ("# nothing\n", "recipe.yaml: this recipe is empty; expected lines such as `learning_rate: 1e-5`"),
        ("- a\n", "recipe.yaml: found a list; expected lines such as `learning_rate: 1e-5`"),
        ("just text\n", "recipe.yaml: found one value; expected lines such as `learning_rate: 1e-5`"),
        ("a: b: c\n", "recipe.yaml, line 1: this is not the YAML of a recipe: mapping values are not allowed here"),
        ("a: [1\n", "recipe.yaml, line 2: this is not the YAML of a recipe: expected ',' or ']'"),
        (
            "seed: 1\n---\nseed: 2\n",
            "recipe.yaml, line 2: this is not the YAML of a recipe: but found another document",
        ),
        ("seed: \x00\n", "recipe.yaml: this is not the YAML of a recipe: "),
    ],
)
def test_files_that_are_no_recipes(write, text, message):
    assert error_of([write(text)]).startswith(message)


def test_a_missing_file_a_folder_and_bytes(write, tmp_path):
    assert error_of(["none.yaml"]) == (
        "none.yaml: cannot read this recipe: No such file or directory; expected a YAML file"
    )
    assert error_of([str(tmp_path)]).startswith(f"{tmp_path}: cannot read this recipe: Is a directory")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\xfa")
    assert error_of(["bytes.yaml"]).startswith("bytes.yaml: cannot read this recipe: it is not text in UTF-8")


@pytest.mark.parametrize(
    ("words", "key", "value"),
    [
        ("--max_length 5", "max_length", 5),
        ("--max_length=5", "max_length", 5),
        ("--max-length 5", "max_length", 5),
        ("--max_length none", "max_length", None),
        ("--run_name none", "run_name", None),
        ("--exp_name none", "run_name", None),
        ("--max-token-length null", "max_length", None),
        ("--seed -1", "seed", -1),
        ("--center_rewards_coefficient -1e-2", "center_rewards_coefficient", -0.01),
        ("--run_name=--x", "run_name", "--x"),
        ("--run_name=a=b", "run_name", "a=b"),
        ("--bf16", "bf16", True),
        ("--bf16 false", "bf16", False),
        ("--no_disable_dropout", "disable_dropout", False),
        ("--no-disable-dropout", "disable_dropout", False),
        ("--report_to none", "report_to", []),
        ("--report_to tensorboard trackio", "report_to", ["tensorboard", "trackio"]),
        ('--model_init_kwargs {"a":1}', "model_init_kwargs", {"a": 1}),
    ],
)
def test_words_of_the_command_line(words, key, value):
    config, _, _ = parse([*BASE, *words.split()])
    assert getattr(config, key) == value


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--learning 1", "command line: unknown key `learning`; did you mean `learning_rate`?"),
        ("--no_bf16", "command line: unknown key `no_bf16`; did you mean `bf16`?"),
        ("--max-lengthh 1", "command line: unknown key `max_lengthh`; did you mean `max_length`?"),
        ("--seed 1 --seed 1", "command line: `seed` is given twice; expected it once"),
        ("--disable_dropout --no_disable_dropout", "command line: `disable_dropout` is given twice; expected it once"),
        ("--eps 1 --adam_epsilon 1", "command line: `adam_epsilon` is given as `eps` and as `adam_epsilon`; "
                                     "expected it once"),
        ("--learning_rate", "command line: `--learning_rate`: found no value; expected a number"),
        ("--max_token_length", "command line: `--max_token_length`: found no value; expected a whole number or none"),
        ("--learning_rate 1 2", "command line: `learning_rate`: found the list [1, 2]; expected a number"),
        ("--max_length=1 2", "command line: found '2'; expected [RECIPE.yaml] first, then --key value"),
        ("--use_slow_tokenizer", "command line: `use_slow_tokenizer`: found 'true'; expected false, or nothing: "),
    ],
)  # fmt: skip
def test_what_a_command_line_may_not_say(words, message):
    assert error_of([*BASE, *words.split()]).startswith(message)


def test_a_word_before_any_key_that_is_not_a_recipe():
    assert error_of(["-x"]) == "command line: found '-x'; expected [RECIPE.yaml] first, then --key value"


@pytest.mark.parametrize("key", ["output_dir", "model_name_or_path"])
def test_what_must_be_given(key):
    argv = list(BASE)
    del argv[argv.index(f"--{key}") : argv.index(f"--{key}") + 2]
    assert error_of(argv).startswith(f"`{key}`: found nothing; expected a ")


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ("max_length: 1", ["--max_length", "7"]),
        ("max_token_length: 1", ["--max_length", "7"]),
        ("max_length: 1", ["--max_token_length", "7"]),
    ],
)
def test_the_command_line_wins(write, recipe, words):
    assert parse([write(with_base(recipe)), *words])[0].max_length == 7


def test_a_run_name_of_the_command_line_wins_under_either_name(write):
    recipe = write(with_base("run_name: old"))
    assert parse([recipe, "--exp_name", "new", "--seed", "1"])[0].run_name == "new__1"
    recipe = write(with_base("exp_name: old"))
    assert parse([recipe, "--run_name", "new"])[0].run_name == "new"


def test_python_values_win_over_the_recipe(write):
    recipe = write(with_base("learning_rate: 1e-3\nmax_length: 5\ndataset_mixer_list: [a, 1]"))
    config, data, _ = parse_call(
        recipe, {"learning_rate": 2e-5, "max_length": None, "dataset_mixer_list": ["b", 1.0], "run_name": "none"}
    )
    assert (config.learning_rate, config.max_length, config.run_name) == (2e-5, None, "none")
    assert data.dataset_mixer_list == ["b", "1.0"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learning_rates": 1}, "arguments: unknown key `learning_rates`; did you mean `learning_rate`?"),
        ({"seed": 1.0}, "arguments: `seed`: found '1.0'; expected a whole number"),
        ({"seed": object()}, "arguments: `seed`: found object; expected text, a number or a list"),
        ({"eps": 1, "adam_epsilon": 1}, "arguments: `adam_epsilon` is given as `eps` and as `adam_epsilon`; "),
    ],
)
def test_python_values_refused(values, message):
    with pytest.raises(ConfigurationError) as caught:
        parse_call(None, {"model_name_or_path": "m", "output_dir": "o"} | values)
    assert str(caught.value).startswith(message)


def test_a_secret_among_python_values_reaches_the_model():
    config, _, _ = parse_call(
        None, {"model_name_or_path": "m", "output_dir": "o", "model_init_kwargs": {"token": "s"}}
    )
    assert config.model_init_kwargs == {"token": "s"}


def test_the_learning_rate_with_adapters(write):
    assert parse(BASE)[0].learning_rate == 1e-5
    assert parse([*BASE, "--use_peft"])[0].learning_rate == 1e-4
    assert parse([*BASE, "--use_peft", "--learning_rate", "1e-5"])[0].learning_rate == 1e-5
    assert parse([write(with_base("learning_rate: 3e-4")), "--use_peft"])[0].learning_rate == 3e-4


def test_wandb_names_go_to_the_environment(monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "before")
    monkeypatch.setenv("WANDB_ENTITY", "before")
    parse([*BASE, "--wandb_project_name", "rewards", "--wandb_entity", "team"])
    assert (os.environ["WANDB_PROJECT"], os.environ["WANDB_ENTITY"]) == ("rewards", "team")
    error_of([*BASE, "--wandb_project_name", "other", "--learning_rate", "0"])
    assert os.environ["WANDB_PROJECT"] == "rewards"


def test_the_saved_recipe_holds_no_secret():
    values = {"hub_token": "hf_secret", "model_init_kwargs": {"token": "hf_secret", "revision": "v1"}}
    recipe = to_recipe(*parse_call(None, {"model_name_or_path": "m", "output_dir": "o"} | values))
    assert recipe == {"model_name_or_path": "m", "output_dir": "o", "model_init_kwargs": {"revision": "v1"}}


def test_the_saved_recipe_keeps_a_learning_rate_that_only_looks_like_the_default():
    recipe = to_recipe(*parse([*BASE, "--use_peft", "--learning_rate", "1e-5"]))
    assert recipe == {"model_name_or_path": "model", "use_peft": True, "output_dir": "out", "learning_rate": 1e-5}
    assert "learning_rate" not in to_recipe(*parse([*BASE, "--use_peft"]))


def test_sources_and_column_maps_in_recipe_and_command_line(write):
    lines = """
datasets:
  - name: a.jsonl
    amount: 1.0
  - {path: org/b, amount: 1, revision: 0123, column_map: {x: chosen, y: null}}
  - c.csv
eval_datasets:
  held_out: {name: d.jsonl, split: test}
column_map: {better: chosen}
"""
    _, recipe, _ = parse([write(with_base(lines.strip()))])
    assert [(spec.name, spec.amount) for spec in recipe.train_specs()] == [
        ("a.jsonl", "1.0"),
        ("org/b", "1"),
        ("c.csv", "1.0"),
    ]
    assert recipe.train_specs()[1].column_map == {"x": "chosen", "y": None}
    assert recipe.eval_datasets == {"held_out": {"name": "d.jsonl", "split": "test"}}
    values = {key: getattr(recipe, key) for key in ("datasets", "eval_datasets", "column_map")}
    _, command_line, _ = parse([*BASE, *(part for k, v in values.items() for part in (f"--{k}", json.dumps(v)))])
    _, call, _ = parse_call(None, {"model_name_or_path": "model", "output_dir": "out"} | values)
    assert recipe == command_line == call
    both = to_recipe(*parse_call(None, {"model_name_or_path": "model", "output_dir": "out"} | values))
    assert parse([write(yaml.safe_dump(both))])[1] == recipe
