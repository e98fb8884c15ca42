"""The formats that preference data comes in: how each is told, and how its rows become rows of the plain format."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from hf_reward.data.checks import finite, shown, wrong
from hf_reward.data.formats import has_token_ids
from hf_reward.data.messages import form_of, from_sharegpt, from_transcript, is_transcript
from hf_reward.errors import DataError


RawRow = dict[str, Any]

# Names under which published sets of labelled pairs keep the scores of the two sides.
SCORE_COLUMNS = (
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("chosen_rating", "rejected_rating"),
    ("chosen-rating", "rejected-rating"),
)
_SIDES = ("prompt", "chosen", "rejected")
_OPTIONS = ("tools", "chat_template_kwargs", "margin", "weight", "chosen_probability", "tie")
_TURN_MARK = "<extra_id_1>"  # how HelpSteer2 writes earlier turns into a prompt


@dataclass(frozen=True)
class Schema:
    """
    One format.

    Attributes:
        needs (`tuple[str, ...]`): Columns without which a source is not of this format.
        looks (`Callable`): Whether a first row, which has those columns, is of this format.
        plain (`Callable`): From a row, its place and the name of a score to a row of the plain format.
        scored (`bool`): Whether every row has scores.
        labelled (`bool`): Whether the columns say which side is the better one.
        groups (`bool`): Whether a row can have more than two completions.
    """

    needs: tuple[str, ...]
    looks: Callable[[Mapping[str, Any]], bool]
    plain: Callable[[RawRow, str, str | None], RawRow]
    scored: bool = False
    labelled: bool = False
    groups: bool = False


def detect_format(columns: list[str], row: Mapping[str, Any]) -> str | None:
    """
    The name of the format that a source with these columns and this first row has; `None` if it has none.

    Examples:

    >>> detect_format(["chosen", "rejected"], {"chosen": "Hi Yes", "rejected": "Hi No"})
    'pairs'
    >>> detect_format(["prompt", "responses"], {}) is None
    True
    """
    if has_token_ids(columns):
        return "tokens"
    found = set(columns)
    fits = (name for name, schema in SCHEMAS.items() if found.issuperset(schema.needs) and schema.looks(row))
    return next(fits, None)


def score_columns(columns: Collection[str]) -> tuple[str, str] | None:
    """The two columns with the scores of chosen and rejected, if a source has them."""
    return next((names for names in SCORE_COLUMNS if names[0] in columns and names[1] in columns), None)


def _pairs(row: RawRow, place: str, score: str | None) -> RawRow:
    names = score_columns(row)
    if names is None or "scores" in row or (row[names[0]] is None and row[names[1]] is None):
        return row
    return row | {"scores": [row[names[0]], row[names[1]]]}


def _with_repeated_prompt(row: RawRow, place: str, score: str | None) -> RawRow:
    """Leaves out a `prompt` in text that the conversations of both sides hold as a question."""
    prompt = row.get("prompt")
    if not isinstance(prompt, str) or not isinstance(row.get("chosen"), list):
        return _pairs(row, place, score)
    questions = [
        turn.get("content") for turn in row["chosen"] if isinstance(turn, dict) and turn.get("role") == "user"
    ]
    if prompt.strip() not in [text.strip() for text in questions if isinstance(text, str)]:
        remedy = 'Correct the row, or leave the column out by `column_map: {"prompt": null}`.'
        raise wrong(place, "prompt", shown(prompt), "text that is a question in `chosen`", remedy)
    return _pairs({key: value for key, value in row.items() if key != "prompt"}, place, score)


def _transcripts(row: RawRow, place: str, score: str | None) -> RawRow:
    """Human and Assistant transcripts; a `prompt` beside them is what both begin with."""
    start = row.get("prompt") or ""
    sides: RawRow = {}
    for name in ("chosen", "rejected"):
        if not isinstance(row.get(name), str) or not isinstance(start, str):
            raise wrong(place, name, shown(row.get(name)), "a transcript", "Correct the row, or remove it.")
        sides[name] = from_transcript(start + row[name], place, name)
    return _options(row) | sides


def _sharegpt(row: RawRow, place: str, score: str | None) -> RawRow:
    sides = {name: from_sharegpt(row[name]) for name in ("chosen", "rejected")}
    if "conversations" in row:
        prompt = from_sharegpt(row["conversations"])
        if row.get("system") and isinstance(prompt, list):
            prompt = [{"role": "system", "content": row["system"]}, *prompt]
        sides["prompt"] = prompt
    return _pairs(_options(row) | sides | _scores_of(row), place, score)


def _ultrafeedback(row: RawRow, place: str, score: str | None) -> RawRow:
    completions = row["completions"]
    if not isinstance(completions, list) or not all(isinstance(item, dict) for item in completions):
        raise wrong(place, "completions", shown(completions), "a list of objects", "Correct the row, or remove it.")
    scores = [_ultrafeedback_score(item, f"completions[{n}]", place, score) for n, item in enumerate(completions)]
    answers = [[{"role": "assistant", "content": item.get("response")}] for item in completions]
    question = [{"role": "user", "content": row["instruction"]}]
    return _options(row) | {"prompt": question, "completions": answers, "scores": scores}


def _ultrafeedback_score(completion: RawRow, path: str, place: str, score: str | None) -> float:
    """The named score, or the overall score, or the mean of the ratings of the four aspects."""
    annotations = completion.get("annotations") or {}
    ratings = {
        aspect: _as_number(judged.get("Rating")) for aspect, judged in annotations.items() if isinstance(judged, dict)
    }
    if score is not None:
        value = _as_number(completion.get(score, ratings.get(score)))
    else:
        names = ("overall_score", "fine-grained_score")
        value = next((completion[name] for name in names if completion.get(name) is not None), None)
        given = [rating for rating in ratings.values() if rating is not None]
        value = _as_number(value) if value is not None else (sum(given) / len(given) if given else None)
    remedy = "Name a score that all completions have in `score_column`, or say `on_bad_row: drop`."
    return finite(value, place, f"{path}.{score or 'overall_score'}", remedy)


def _helpsteer2(row: RawRow, place: str, score: str | None) -> RawRow:
    """Rows of one prompt that the loader has put together: their answers and ratings."""
    if not isinstance(row["response"], list):
        raise DataError(
            f"{place}: `response` is {shown(row['response'])} (expected the answers to one prompt together). Name the "
            "source in a recipe, where rows of one prompt are put together, or give pairs."
        )
    answers = [[{"role": "assistant", "content": text}] for text in row["response"]]
    ratings = row.get(score or "helpfulness")
    return _options(row) | {"prompt": _turns(row["prompt"]), "completions": answers, "scores": ratings}


def _helpsteer2_preference(row: RawRow, place: str, score: str | None) -> RawRow:
    return _judged(row, ("response_1", "response_2"), "preference_strength", _turns(row["prompt"]), place)


def _helpsteer3(row: RawRow, place: str, score: str | None) -> RawRow:
    return _judged(row, ("response1", "response2"), "overall_preference", row["context"], place)


def _judged(row: RawRow, names: tuple[str, str], judgement: str, prompt: Any, place: str) -> RawRow:
    """Two answers and a number that is below 0 where the first is better; its size becomes the score of the better."""
    remedy = "Give every row the judgement, or say `on_bad_row: drop`."
    strength = finite(row[judgement], place, judgement, remedy)
    better, worse = names if strength <= 0 else names[::-1]
    answers = [[{"role": "assistant", "content": row[name]}] for name in (better, worse)]
    return _options(row) | {"prompt": prompt, "completions": answers, "scores": [abs(strength), 0.0]}


def _turns(prompt: Any) -> Any:
    """The turns in a prompt of HelpSteer2: a question, and where there were more, each under its speaker's name."""
    if not isinstance(prompt, str):
        return prompt
    first, *others = prompt.split(_TURN_MARK)
    turns = [{"role": "user", "content": first.strip()}]
    for turn in others:
        speaker, _, content = turn.partition("\n")
        turns.append({"role": speaker.strip().lower(), "content": content.strip()})
    return turns


def _options(row: RawRow) -> RawRow:
    return {name: row[name] for name in _OPTIONS if name in row}


def _scores_of(row: RawRow) -> RawRow:
    names = score_columns(row)
    return {name: row[name] for name in names} if names else {}


def _as_number(value: Any) -> Any:
    """A number that stands as text; what is none stays as it is, except the words for a missing one."""
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        return None if value.strip() in ("", "N/A") else value


def _same(row: RawRow, place: str, score: str | None) -> RawRow:
    return row


def _any(row: Mapping[str, Any]) -> bool:
    return True


def _prompt_is_repeated(row: Mapping[str, Any]) -> bool:
    chosen = row.get("chosen")
    first = chosen[0] if isinstance(chosen, list) and chosen else None
    return isinstance(row.get("prompt"), str) and isinstance(first, dict) and first.get("role") in ("user", "system")


def _has_transcripts(row: Mapping[str, Any]) -> bool:
    start = row.get("prompt") or ""
    return isinstance(start, str) and isinstance(row.get("chosen"), str) and is_transcript(start + row["chosen"])


def _has_sharegpt_turns(row: Mapping[str, Any]) -> bool:
    chosen = row.get("chosen")
    first = chosen[0] if isinstance(chosen, list) and chosen else chosen
    return isinstance(first, dict) and "from" in first


# In the order in which they are looked for: the first that fits is the format of a source.
SCHEMAS: dict[str, Schema] = {
    "helpsteer3": Schema(("context", "response1", "response2", "overall_preference"), _any, _helpsteer3, True),
    "helpsteer2_preference": Schema(
        ("prompt", "response_1", "response_2", "preference_strength"), _any, _helpsteer2_preference, True
    ),
    "helpsteer2": Schema(("prompt", "response", "helpfulness"), _any, _helpsteer2, True, groups=True),
    "ultrafeedback": Schema(("instruction", "completions"), _any, _ultrafeedback, True, groups=True),
    "sharegpt": Schema(("chosen", "rejected"), _has_sharegpt_turns, _sharegpt, labelled=True),
    "hh": Schema(("chosen", "rejected"), _has_transcripts, _transcripts, labelled=True),
    "ultrafeedback_binarized": Schema(
        ("prompt", "chosen", "rejected"), _prompt_is_repeated, _with_repeated_prompt, labelled=True
    ),
    "pairs": Schema(("chosen", "rejected"), _any, _pairs, labelled=True),
    "ranked": Schema(("completions",), _any, _same, groups=True),
    "tokens": Schema((), lambda row: False, _pairs, labelled=True),
}
FORMATS = tuple(SCHEMAS)


def first_form(row: Mapping[str, Any]) -> str | None:
    """Whether the sides of a first row are text or messages, to hold the other rows to it."""
    values = [row[name] for name in _SIDES if name in row]
    if isinstance(row.get("completions"), list):
        values += row["completions"]
    return next((form_of(value) for value in values if isinstance(value, str | list | dict)), None)
