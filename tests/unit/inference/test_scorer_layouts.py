"""Many inputs are scored without padding and prompts once, with the rewards of padded rows."""

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from hf_reward import RewardScorer
from hf_reward.inference import scorer as module


@pytest.fixture
def scorer(reward_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> RewardScorer:
    return RewardScorer(reward_model, tokenizer)


def conversations(prompts: int, completions: int) -> list[list[dict[str, str]]]:
    return [
        [
            {"role": "user", "content": f"Question number {prompt}, which is not short at all?"},
            {"role": "assistant", "content": f"{'word ' * answer}{prompt}"},
        ]
        for answer in range(completions)
        for prompt in range(prompts)
    ]


def test_best_of_n_computes_every_prompt_once(scorer: RewardScorer, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = conversations(5, 6)
    padded = torch.tensor(scorer.score(inputs, batch_size=4))
    monkeypatch.setattr(module, "_TOKENS_AT_ONCE", 700)
    laid_out: list[int] = []
    kept = module.lay_out

    def spy(groups, *rest):
        laid_out.append(len(groups))
        return kept(groups, *rest)

    monkeypatch.setattr(module, "lay_out", spy)
    packed = torch.tensor(scorer.score(inputs))
    assert scorer._layout is not None
    assert scorer._layout.layout == "shared_prompt"
    assert 5 <= sum(laid_out) < 15 < len(inputs)
    torch.testing.assert_close(packed, padded, rtol=0, atol=5e-6)
    assert padded.std() > 1e-2


def test_few_inputs_are_padded(scorer: RewardScorer) -> None:
    assert len(scorer.score(conversations(2, 3))) == 6
    assert scorer._layout is None


def test_equal_inputs_get_equal_rewards(scorer: RewardScorer) -> None:
    inputs = conversations(1, 2) * 10
    rewards = torch.tensor(scorer.score(inputs))
    torch.testing.assert_close(rewards[::2], rewards[:1].expand(10), rtol=0, atol=1e-6)
    torch.testing.assert_close(rewards, torch.tensor(scorer.score(inputs, batch_size=8)), rtol=0, atol=5e-6)
