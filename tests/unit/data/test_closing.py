"""Plain text: BOS once, one closing token, for tokenizers that add tokens of their own and for those that do not."""

import pytest
from datasets import Dataset
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from hf_reward.data.encoding import close_text
from hf_reward.data.reading import detect_reader
from hf_reward.data.tokenization import RowRules, tokenize_dataset


def with_tokens(tokenizer: PreTrainedTokenizerFast, template: str) -> PreTrainedTokenizerFast:
    tokenizer._tokenizer.post_processor = TemplateProcessing(
        single=template, special_tokens=[("<bos>", tokenizer.bos_token_id), ("<eos>", tokenizer.eos_token_id)]
    )
    return tokenizer


def pair(tokenizer: PreTrainedTokenizerFast, **row: str) -> dict[str, list]:
    rows = Dataset.from_list([row])
    return tokenize_dataset(rows, detect_reader(rows, "rows"), tokenizer, "rows", RowRules())[:]


@pytest.mark.parametrize("template", ["$A", "<bos> $A", "<bos> $A <eos>", "$A <eos>"])
@pytest.mark.parametrize("literal", ["", "<bos>"])
@pytest.mark.parametrize("ending", ["", "<eos>"])
def test_bos_once_and_eos_once(template: str, literal: str, ending: str, tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer = with_tokens(tokenizer, template)
    out = pair(tokenizer, prompt=f"{literal}ab", chosen=f"cd{ending}", rejected=f"e{ending}")
    bos = [tokenizer.bos_token_id] if literal or "<bos>" in template else []
    body = tokenizer("abcd", add_special_tokens=False)["input_ids"]
    assert out["chosen_input_ids"] == [[*bos, *body, tokenizer.eos_token_id]]
    assert out["prompt_length"] == [len(bos) + 2]


def test_a_tokenizer_without_eos_keeps_its_own_closing_token(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer = with_tokens(tokenizer, "<bos> $A <eos>")
    tokenizer.sep_token, tokenizer.eos_token = "<eos>", None
    assert close_text(tokenizer("a")["input_ids"], tokenizer) == tokenizer("a")["input_ids"]
    assert len(tokenizer("a")["input_ids"]) == 3


def test_a_completion_that_holds_the_pad_token_is_dropped_and_counted(tokenizer: PreTrainedTokenizerFast) -> None:
    assert pair(tokenizer, prompt="a", chosen="b<pad>c", rejected="d")["drop_reason"] == ["pad_token_in_completion"]
    assert pair(tokenizer, prompt="a<pad>", chosen="bc", rejected="d")["drop_reason"] == [""]
