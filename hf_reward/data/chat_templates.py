"""Chat templates: where one comes from, and that a conversation rendered by it ends with exactly one closing token."""

from importlib import resources
from pathlib import Path

from jinja2 import TemplateError
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from hf_reward.errors import ConfigurationError


_TEMPLATES = resources.files("hf_reward.data") / "templates"
_PROBE = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}]


def shipped_templates() -> list[str]:
    """Names of the chat templates that come with the package."""
    return sorted(entry.name.removesuffix(".jinja") for entry in _TEMPLATES.iterdir() if entry.name.endswith(".jinja"))


def find_chat_template(where: str, trust_remote_code: bool = False) -> str:
    """
    Find a chat template by the name of one shipped here, a Jinja file, or another tokenizer (folder or Hub id).

    Raises:
        `ConfigurationError`: There is no such template.
    """
    if where in shipped_templates():
        return (_TEMPLATES / f"{where}.jinja").read_text(encoding="utf-8")
    if Path(where).is_file():
        return Path(where).read_text(encoding="utf-8")
    try:
        template = AutoTokenizer.from_pretrained(where, trust_remote_code=trust_remote_code).chat_template
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"`chat_template_path` is {where!r}: neither a template shipped here ({', '.join(shipped_templates())}), "
            f"nor a file, nor a tokenizer that could be loaded ({str(error).splitlines()[0]})."
        ) from error
    if template is None:
        raise ConfigurationError(f"`chat_template_path` is {where!r}: this tokenizer has no chat template.")
    return str(template)


def prepend_bos(tokenizer: PreTrainedTokenizerBase) -> None:
    """
    Let the chat template start with the BOS token (`add_bos`).

    Raises:
        `ConfigurationError`: There is no chat template or no BOS token, or the template writes one already.
    """
    if tokenizer.chat_template is None or tokenizer.bos_token is None:
        missing = "chat template" if tokenizer.chat_template is None else "BOS token"
        raise ConfigurationError(f"`add_bos` is true, but the tokenizer has no {missing}.")
    if render(tokenizer, _PROBE).startswith(tokenizer.bos_token):
        raise ConfigurationError(
            "`add_bos` is true, but the chat template starts with the BOS token already. Drop it."
        )
    tokenizer.chat_template = "{{- bos_token }}" + tokenizer.chat_template


def close_with_one_token(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """
    Make conversations end with a closing token, since the reward is read at the last token; say what was changed.

    A template that writes whitespace after its end-of-turn token loses it, a template that closes the last turn with
    no special token gets EOS. The change goes into `tokenizer.chat_template` (into each, where there are several), so
    that whoever loads the saved tokenizer renders the very ids of training. Prompts (`add_generation_prompt=True`)
    stay as they are.

    Returns:
        `str` or `None`: what was changed, in one sentence.
    """
    if not isinstance(tokenizer.chat_template, dict):
        tokenizer.chat_template, change = _close(tokenizer, str(tokenizer.chat_template))
        return change
    closed = {name: _close(tokenizer, template) for name, template in tokenizer.chat_template.items()}
    tokenizer.chat_template = {name: template for name, (template, _) in closed.items()}
    return next((change for _, change in closed.values() if change), None)


def _close(tokenizer: PreTrainedTokenizerBase, template: str) -> tuple[str, str | None]:
    rendered = render(tokenizer, _PROBE, template)
    closed = rendered.rstrip()
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    if closed.endswith(tuple(special)):
        ending = rendered[len(closed) :]
        if not ending:
            return template, None
        expression = f"hf_reward_text[:-{len(ending)}] if hf_reward_text.endswith({ending!r}) else hf_reward_text"
        change = f"{ending!r} after the end-of-turn token is dropped"
    elif tokenizer.eos_token is not None:
        expression = "hf_reward_text + eos_token"
        change = f"{tokenizer.eos_token} is added, which the template did not write"
    else:
        return template, None
    repaired = (
        "{% set hf_reward_text %}"
        + template
        + "{% endset %}{{- hf_reward_text if add_generation_prompt else ("
        + expression
        + ") }}"
    )
    if not render(tokenizer, _PROBE, repaired).startswith(closed):
        raise ConfigurationError(
            "The chat template cannot be closed with one token; give one by `chat_template_path`."
        )
    return repaired, f"chat template: {change}, at the end of a conversation"


def render(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], template: str | None = None) -> str:
    """
    The text that the tokenizer's chat template, or another one, makes of a conversation.

    Raises:
        `ConfigurationError`: It is no template, or it reaches out of the sandbox in which transformers runs it.
    """
    try:
        return str(tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False))
    except TemplateError as error:
        raise ConfigurationError(
            f"The chat template cannot be rendered ({type(error).__name__}: {error}); give another by "
            "`chat_template_path`."
        ) from error
