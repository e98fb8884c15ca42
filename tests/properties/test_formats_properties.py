"""What holds for every preference row, whatever its content."""

from hypothesis import given
from hypothesis import strategies as st

from hf_reward.data.formats import parse_row, parse_token_row, prompt_key
from hf_reward.errors import DataError


text = st.text(max_size=8)
turn = st.builds(lambda role, content: {"role": role, "content": content}, st.sampled_from(["user", "tool"]), text)
answer = text.map(lambda content: {"role": "assistant", "content": content})
system = text.map(lambda content: {"role": "system", "content": content})

# A prompt: perhaps a system message, questions each answered, and a last question.
prompts = st.builds(
    lambda first, exchanges, last: [*first, *(message for pair in exchanges for message in pair), last],
    st.lists(system, max_size=1),
    st.lists(st.tuples(turn, answer), max_size=2),
    turn,
)
completions = st.builds(
    lambda first, more: [first, *(message for pair in more for message in pair)],
    answer,
    st.lists(st.tuples(turn, answer), max_size=2),
)
options = st.fixed_dictionaries(
    {},
    optional={
        "tools": st.none() | st.lists(st.fixed_dictionaries({"name": text}), max_size=2),
        "chat_template_kwargs": st.none() | st.dictionaries(text, st.booleans(), max_size=2),
        "margin": st.floats(-100, 100) | st.integers(-100, 100),
        "weight": st.floats(0, 100),
        "id": st.integers(),
    },
)


@given(prompts, completions, completions, options)
def test_explicit_and_implicit_spelling_are_one_row(prompt, chosen, rejected, extra):
    if chosen[0] == rejected[0]:  # a shared first answer would be read as part of the prompt
        rejected = [{**rejected[0], "content": rejected[0]["content"] + "!"}, *rejected[1:]]
    explicit = parse_row({"prompt": prompt, "chosen": chosen, "rejected": rejected, **extra}, "row 1")
    implicit = parse_row({"chosen": prompt + chosen, "rejected": prompt + rejected, **extra}, "row 1")
    assert explicit == implicit
    assert (explicit.prompt, explicit.completions) == (prompt, [chosen, rejected])
    assert prompt_key(explicit) == prompt_key(implicit)


@given(prompts, completions, completions)
def test_no_turn_of_an_implicit_row_is_lost(prompt, chosen, rejected):
    row = parse_row({"chosen": prompt + chosen, "rejected": prompt + rejected}, "row 1")
    assert [row.prompt + side for side in row.completions] == [prompt + chosen, prompt + rejected]
    assert all(side[0]["role"] == side[-1]["role"] == "assistant" for side in row.completions)


surrogates = st.text(st.characters(categories=["Cs", "L"]), max_size=3)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | surrogates
roles = st.sampled_from(["user", "assistant", "robot", "system"]) | scalars
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "tool_calls", "type", "text"]) | surrogates, inner, max_size=3
        )
        | st.fixed_dictionaries({"role": roles, "content": inner})
    ),
    max_leaves=8,
)
names = [
    "prompt",
    "chosen",
    "rejected",
    "tools",
    "chat_template_kwargs",
    "margin",
    "weight",
    "chosen_ids",
    "rejected_ids",
]


@given(st.dictionaries(st.sampled_from(names) | surrogates, values, max_size=9))
def test_anything_is_a_row_or_a_data_error(row):
    for parse in (parse_row, parse_token_row):
        message = "row 1: "
        try:
            parse(row, "row 1")
        except DataError as error:
            message = str(error)
        assert message.startswith("row 1: ")
        assert message.isprintable()  # what cannot be printed helps nobody
