import string

import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from hf_reward.cli.recipe import parse, parse_call, to_recipe
from hf_reward.cli.schema import known_keys
from hf_reward.errors import ConfigurationError


SETTINGS = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

WORDS = st.text(string.ascii_letters + string.digits + " _-.:#'\"{}[]é", min_size=1, max_size=12) | st.sampled_from(
    ["none", "null", "~", "no", "yes", "true", "1e-5", "1.0", "007", "2024-01-01", "--seed", "=", "{a"]
)
RATES = st.floats(1e-8, 1.0)
COUNTS = st.integers(1, 10**6)
NAMES = st.text(string.ascii_lowercase, min_size=1, max_size=5)
MIXTURES = st.lists(st.tuples(NAMES, st.sampled_from(["1", "1.0", "0.5", "30"])), min_size=1, max_size=3).map(
    lambda pairs: [text for pair in pairs for text in pair]
)

RECIPES = st.fixed_dictionaries(
    {"model_name_or_path": WORDS, "output_dir": NAMES},
    optional={
        "learning_rate": RATES,
        "adam_epsilon": RATES,
        "use_peft": st.booleans(),
        "lora_r": COUNTS,
        "max_length": st.none() | COUNTS,
        "max_prompt_length": st.none() | COUNTS,
        "per_device_train_batch_size": COUNTS,
        "total_episodes": st.none() | COUNTS,
        "num_evals": st.none() | st.integers(0, 9),
        "center_rewards_coefficient": st.none() | st.floats(-1, 1),
        "eval_strategy": st.sampled_from(["no", "steps", "epoch"]),
        "gradient_checkpointing": st.booleans(),
        "bf16": st.none() | st.booleans(),
        "disable_dropout": st.booleans(),
        "dtype": st.sampled_from(["auto", "float32", "bfloat16", "float16"]),
        "run_name": st.none() | WORDS,
        "eos_token": st.none() | WORDS,
        "report_to": st.sampled_from(["none", "tensorboard", ["tensorboard", "trackio"]]),
        "model_init_kwargs": st.none() | st.dictionaries(st.sampled_from("abc"), st.integers() | st.booleans()),
        "dataset_mixer_list": MIXTURES,
        "eval_overlap": st.sampled_from(["error", "drop", "allow"]),
    },
)


@SETTINGS
@given(values=RECIPES)
def test_recipe_to_dataclasses_to_recipe_is_the_identity(tmp_path, values):
    first = parse_call(None, values)
    recipe = to_recipe(*first)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True), encoding="utf-8")
    second = parse([str(path)])
    assert second == first
    assert to_recipe(*second) == recipe
    # What is left out is what the defaults say.
    assert set(recipe) <= set(values)


@SETTINGS
@given(key=st.sampled_from(known_keys()), place=st.integers(0, 60), edit=st.sampled_from(["add", "drop", "change"]),
       letter=st.sampled_from(string.ascii_lowercase + string.digits + "_-"))  # fmt: skip
def test_no_misspelt_key_passes(tmp_path, key, place, edit, letter):
    place %= len(key)
    before, after = key[:place], key[place + 1 :]
    wrong = {"add": before + letter + key[place:], "drop": before + after, "change": before + letter + after}[edit]
    assume(wrong not in known_keys())
    path = tmp_path / "recipe.yaml"
    path.write_text(f"model_name_or_path: m\noutput_dir: o\n? {wrong!r}\n: 1\n", encoding="utf-8")
    try:
        parse([str(path)])
    except ConfigurationError as error:
        assert str(error).startswith(f"{path}, line 3: unknown key `{wrong}`; ")  # noqa: PT017
    else:
        raise AssertionError(f"{wrong} passed")
