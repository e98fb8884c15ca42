"""Chat messages: one checked, a prompt told from its completions, transcripts and ShareGPT turns made into them."""

import re
from collections.abc import Mapping
from typing import Any

from hf_reward.data.checks import clean, is_list_of_objects, listed, shown, wrong
from hf_reward.errors import DataError


ROLES = ("system", "user", "assistant", "tool", "developer")

Message = dict[str, Any]

# What the turns of ShareGPT are called, in our roles.
_SHAREGPT_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "function_response": "tool",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
}
# Names that other formats give to our roles, for the remedy in the message.
_OTHER_ROLES = _SHAREGPT_ROLES | {"bot": "assistant", "model": "assistant", "function": "tool"}

_TRANSCRIPT_TURN = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")
_TRANSCRIPT_ROLES = {"Human": "user", "Assistant": "assistant"}


def side(value: Any, place: str, path: str) -> Any:
    """The prompt or one completion: text as it is, messages checked; one message alone becomes a list."""
    if isinstance(value, str):
        return clean(value, place, path)
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list) or not value:
        remedy = "Fill the value in, or remove the row" + (" or the column." if path == "prompt" else ".")
        raise wrong(place, path, shown(value), "text or a list of messages", remedy)
    return [_message(message, place, f"{path}[{index}]") for index, message in enumerate(value)]


def check_same_form(sides: Mapping[str, Any], place: str) -> None:
    """Sees that the prompt and all completions are text, or all are messages."""
    forms = {name: form_of(value) for name, value in sides.items()}
    first = next(iter(forms))
    for name, form in forms.items():
        if form != forms[first]:
            raise DataError(
                f"{place}: {first} is {forms[first]}, {name} is {form} (expected one form for all). "
                "Write all of them as text, or all as lists of messages; a column too many goes by "
                f'`column_map: {{"{first}": null}}`.'
            )


def form_of(value: Any) -> str:
    """`"text"` or `"messages"`."""
    return "text" if isinstance(value, str) else "messages"


def split_messages(
    prompt: list[Message] | None, sides: Mapping[str, list[Message]], place: str
) -> tuple[list[Message], list[list[Message]]]:
    """
    The prompt and what follows it on each side.

    Without a prompt of its own, the prompt is what all conversations share, up to a turn that the assistant answers.

    Raises:
        `DataError`: A side does not end with an answer, or a prompt does, or a completion does not start with one.
    """
    for name, turns in sides.items():
        if turns[-1]["role"] != "assistant":
            remedy = "End it with the answer that was judged."
            raise _wrong_role(place, f"{name}[{len(turns) - 1}]", turns[-1], "assistant at the end", remedy)
    if prompt is None:
        conversations = list(sides.values())
        shared = _shared_turns(conversations)
        return conversations[0][:shared], [turns[shared:] for turns in conversations]
    if prompt[-1]["role"] == "assistant":
        remedy = "Move that turn to the start of both completions."
        raise _wrong_role(place, f"prompt[{len(prompt) - 1}]", prompt[-1], "another role at the end", remedy)
    for name, turns in sides.items():
        if turns[0]["role"] != "assistant":
            remedy = "Beside a prompt write the answer only, or remove `prompt` if both sides hold the conversation."
            raise _wrong_role(place, f"{name}[0]", turns[0], "assistant at the start", remedy)
    return prompt, list(sides.values())


def is_transcript(value: Any) -> bool:
    r"""
    Whether a value is text in the form of Anthropic's HH data.

    Examples:

    >>> is_transcript("\n\nHuman: Hi\n\nAssistant: Hello"), is_transcript("Human beings are mammals.")
    (True, False)
    """
    return isinstance(value, str) and _TRANSCRIPT_TURN.match(value) is not None


def from_transcript(text: str, place: str, path: str) -> list[Message]:
    r"""
    Messages of a transcript; doubled turns of one speaker become one message, joined by an empty line.

    Examples:

    >>> from_transcript("\n\nHuman: Hi\n\nAssistant: Hello ", "row 1", "chosen")
    [{'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': 'Hello'}]
    """
    _, *parts = _TRANSCRIPT_TURN.split(text)
    if not is_transcript(text):
        expected = r"a transcript that starts with \n\nHuman: or \n\nAssistant:"
        raise wrong(place, path, shown(text), expected, "Correct the row, or name the source's `dataset_format`.")
    messages: list[Message] = []
    for speaker, content in zip(parts[::2], parts[1::2], strict=True):
        role, content = _TRANSCRIPT_ROLES[speaker], content.strip()
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] = f"{messages[-1]['content']}\n\n{content}".strip()
        else:
            messages.append({"role": role, "content": content})
    return messages


def from_sharegpt(value: Any) -> Any:
    """
    Turns of ShareGPT (`from`, `value`) as messages; what is none is left for the checks to name.

    Examples:

    >>> from_sharegpt([{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}])
    [{'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': 'Hello'}]
    """
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        return value
    return [_sharegpt_turn(turn) for turn in value]


def _sharegpt_turn(turn: Any) -> Any:
    if not isinstance(turn, dict) or "from" not in turn:
        return turn
    role = turn["from"]
    if isinstance(role, str):
        role = _SHAREGPT_ROLES.get(role.lower(), role)
    return {"role": role, "content": turn.get("value")}


def _message(message: Any, place: str, path: str) -> Message:
    if not isinstance(message, dict):
        raise wrong(place, path, shown(message), "a message", 'Write each turn as {"role": "user", "content": "..."}.')
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        other = _OTHER_ROLES.get(role) if isinstance(role, str) else None
        remedy = f"Write `{other}` in its place." if other else "Rename the role."
        if "role" not in message:
            remedy = f'The keys found are {listed(message)}; write each turn as {{"role": "user", "content": "..."}}.'
        raise wrong(place, f"{path}.role", shown(role), f"one of {', '.join(ROLES)}", remedy)
    if content is None and not (role == "assistant" and is_list_of_objects(message.get("tool_calls"))):
        remedy = "Write the text, or remove the row; only an assistant turn with `tool_calls` may go without content."
        raise wrong(place, f"{path}.content", "None", "text", remedy)
    if content is not None and not isinstance(content, str):
        _check_parts(content, place, f"{path}.content")
    cleaned: Message = clean(message, place, path)
    return cleaned


def _check_parts(content: Any, place: str, path: str) -> None:
    """Content that is not text must be a list of text parts."""
    remedy = 'Write the content as text, or as a list of {"type": "text", "text": "..."}.'
    if not isinstance(content, list) or not content:
        raise wrong(place, path, shown(content), "text", remedy)
    for index, part in enumerate(content):
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise wrong(place, f"{path}[{index}]", shown(part), "a part of type text", remedy)


def _wrong_role(place: str, path: str, message: Message, expected: str, remedy: str) -> DataError:
    return wrong(place, f"{path}.role", shown(message["role"]), expected, remedy)


def _shared_turns(conversations: list[list[Message]]) -> int:
    """How many turns the conversations share as prompt, so that the turn after it is an answer on every side."""
    first, *others = conversations
    shared, most = 0, min(map(len, conversations)) - 1
    while shared < most and all(first[shared] == other[shared] for other in others):
        shared += 1
    # A prompt asks: where the sides part after an answer, or at a question or a tool result, the turns before belong
    # to the completions.
    while shared and any(turns[shared]["role"] != "assistant" for turns in conversations):
        shared -= 1
    return shared
