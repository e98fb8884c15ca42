"""The tokenizer of a reward model: a pad token of its own, one closing token, and a chat template that says so."""

import logging
import re

from transformers import AddedToken, AutoTokenizer, PreTrainedTokenizerBase

from hf_reward.data.chat_templates import close_with_one_token, find_chat_template, prepend_bos
from hf_reward.errors import ConfigurationError


logger = logging.getLogger(__name__)


def load_tokenizer(
    name_or_path: str, revision: str | None = None, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """
    Load a tokenizer from a folder or the Hub.

    Raises:
        `ConfigurationError`: Nothing there can be loaded as a tokenizer.
    """
    try:
        return AutoTokenizer.from_pretrained(name_or_path, revision=revision, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"No tokenizer could be loaded from {name_or_path!r}: {str(error).splitlines()[0]} Give a folder that "
            "holds one, a Hub id, or name it apart by `tokenizer_name_or_path`."
        ) from error


def prepare_tokenizer(
    tokenizer: PreTrainedTokenizerBase,
    *,
    eos_token: str | None = None,
    pad_token: str | None = None,
    chat_template_path: str | None = None,
    add_bos: bool = False,
    trust_remote_code: bool = False,
    embedding_rows: int | None = None,
) -> list[str]:
    """
    Make a tokenizer fit for reward modelling, in place; a second call changes nothing more.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): The tokenizer that will be saved beside the model.
        eos_token, pad_token (`str`, *optional*): Tokens of the vocabulary to use instead of the tokenizer's own.
        chat_template_path (`str`, *optional*): A shipped template's name, a Jinja file, or another tokenizer.
        add_bos (`bool`, *optional*, defaults to `False`): Let the chat template start with BOS.
        trust_remote_code (`bool`, *optional*, defaults to `False`): For a tokenizer named by `chat_template_path`.
        embedding_rows (`int`, *optional*): Rows of the model's embedding; a reserved token must lie below.

    Returns:
        `list[str]`: what was changed, a sentence each.
    """
    changes = []
    for role, token in (("eos_token", eos_token), ("pad_token", pad_token)):
        if token is not None:
            if token not in tokenizer.get_vocab():
                raise ConfigurationError(f"`{role}` is {token!r}, which is not in the tokenizer's vocabulary.")
            setattr(tokenizer, role, token)
    if chat_template_path is not None:
        tokenizer.chat_template = find_chat_template(chat_template_path, trust_remote_code)
    if add_bos:
        prepend_bos(tokenizer)
    if tokenizer.chat_template is not None:
        changes.append(close_with_one_token(tokenizer))
    changes.append(_give_own_pad_token(tokenizer, embedding_rows))
    tokenizer.padding_side = "right"
    said = [change for change in changes if change]
    for change in said:
        logger.info(change)
    return said


def _give_own_pad_token(tokenizer: PreTrainedTokenizerBase, embedding_rows: int | None) -> str | None:
    """A pad token that is neither missing nor EOS: first a reserved one of the vocabulary, only then a new one."""
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id != tokenizer.eos_token_id:
        return None
    reason = "missing" if tokenizer.pad_token_id is None else "the EOS token"
    token = _reserved_token(tokenizer, embedding_rows)
    if token is not None:
        tokenizer.pad_token = token
        return f"pad token: was {reason}, now the reserved token {token}"
    name = "<pad>"
    while name in tokenizer.get_vocab():
        name = f"<{name}>"
    tokenizer.add_special_tokens({"pad_token": AddedToken(name, special=True, normalized=False)})
    return f"pad token: was {reason}, now {name}, added to the vocabulary"


def _reserved_token(tokenizer: PreTrainedTokenizerBase, embedding_rows: int | None) -> str | None:
    """An existing token made for padding or for nothing, which is neither BOS, EOS, UNK nor in the chat template."""
    taken = {tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token, tokenizer.cls_token, tokenizer.sep_token}
    template = str(tokenizer.chat_template or "")
    limit = len(tokenizer) if embedding_rows is None else embedding_rows
    free = [
        token.content
        for index, token in sorted(tokenizer.added_tokens_decoder.items())
        if token.special and index < limit and token.content not in taken and token.content not in template
    ]
    for pattern in (r"^\W*pad\W*$", r"finetune.*pad", r"(?<!image_)(?<!vision_)(?<!video_)pad", r"reserved|unused"):
        for token in free:
            if re.search(pattern, token, flags=re.IGNORECASE):
                return token
    return None
