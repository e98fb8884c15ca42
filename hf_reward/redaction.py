"""Tokens are never shown and never written: keys that hold them are left out, and their text is blotted out."""

import re
from typing import Any


_KEYS = ("hub_token", "token", "use_auth_token")
_TOKEN = re.compile(r"hf_[A-Za-z0-9]{20,}")


def redact(text: str) -> str:
    """
    The text without the access tokens of the Hub that stand in it.

    Examples:

    >>> redact("https://user:hf_abcdefghijklmnopqrstuvwxyz@huggingface.co is not there")
    'https://user:hf_...@huggingface.co is not there'
    """
    return _TOKEN.sub("hf_...", text)


def without_secrets(value: Any) -> Any:
    """
    A value without the keys that hold tokens, however deep, and without tokens in its texts.

    Examples:

    >>> without_secrets({"revision": "main", "token": "hf_abcdefghijklmnopqrstuvwxyz"})
    {'revision': 'main'}
    """
    if isinstance(value, dict):
        return {key: without_secrets(item) for key, item in value.items() if key not in _KEYS}
    if isinstance(value, list):
        return [without_secrets(item) for item in value]
    return redact(value) if isinstance(value, str) else value
