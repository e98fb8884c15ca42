"""Where a reward is read, how a head starts, and that it computes in float32."""

import copy
import math

import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, BertConfig, GPT2Config, PreTrainedModel, RobertaConfig

from hf_reward.modeling.score_head import (
    bind_reward_forward,
    init_score_head,
    keep_head_in_float32,
    last_token_positions,
    release_reward_forward,
    restore_reward_forward,
)


def batch(model: PreTrainedModel, side: str = "right", extra: int = 0) -> dict[str, torch.Tensor]:
    rows = [[5, 6, 7, 8, 9], [5, 6], [11, 12, 13]]
    length = 5 + extra
    ids = torch.full((3, length), model.config.get_text_config().pad_token_id)
    mask = torch.zeros((3, length), dtype=torch.long)
    for number, row in enumerate(rows):
        place = slice(0, len(row)) if side == "right" else slice(length - len(row), length)
        ids[number, place], mask[number, place] = torch.tensor(row), 1
    return {"input_ids": ids, "attention_mask": mask}


def rewards(model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs, reward_positions=last_token_positions(inputs["attention_mask"])).logits


def gpt2() -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(
        GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=64, num_labels=1, pad_token_id=0)
    ).eval()


def encoder(kind: type) -> PreTrainedModel:
    torch.manual_seed(0)
    config = kind(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        num_labels=1,
        pad_token_id=0,
        initializer_range=0.3,
    )
    return AutoModelForSequenceClassification.from_config(config).eval()


MODELS = {
    "llama": None,
    "gpt2": gpt2,
    "bert": lambda: encoder(BertConfig),
    "roberta": lambda: encoder(RobertaConfig),
}


@pytest.mark.parametrize("name", MODELS)
def test_rewards_equal_the_models_own_and_do_not_depend_on_padding(name: str, reward_model: PreTrainedModel) -> None:
    model = reward_model.eval() if MODELS[name] is None else MODELS[name]()
    with torch.no_grad():
        own = model(**batch(model)).logits.squeeze(-1)
    bind_reward_forward(model)
    torch.testing.assert_close(rewards(model, batch(model)), own, rtol=0, atol=1e-6)
    torch.testing.assert_close(rewards(model, batch(model, extra=9)), own, rtol=0, atol=1e-6)
    if name == "llama":  # rotary positions are relative
        torch.testing.assert_close(rewards(model, batch(model, side="left", extra=2)), own, rtol=0, atol=1e-6)
    # Without positions the model does what it always did.
    with torch.no_grad():
        torch.testing.assert_close(model(**batch(model)).logits.squeeze(-1), own, rtol=0, atol=1e-6)
    assert own.std() > 1e-3


def test_rewards_follow_reward_positions_in_any_order(reward_model: PreTrainedModel) -> None:
    for model in (reward_model.eval(), encoder(BertConfig)):
        bind_reward_forward(model)
        inputs = batch(model)
        positions = last_token_positions(inputs["attention_mask"])
        with torch.no_grad():
            forward, backward = (model(**inputs, reward_positions=p).logits for p in (positions, positions.flip(0)))
        assert torch.equal(forward.flip(0), backward)


@pytest.mark.parametrize("make", [None, lambda: encoder(RobertaConfig)])
def test_the_head_computes_in_float32_under_autocast(make, reward_model: PreTrainedModel) -> None:
    model = reward_model.eval() if make is None else make()
    bind_reward_forward(model)
    head = model.score if make is None else model.classifier.out_proj
    seen = {}
    head.register_forward_hook(lambda module, inputs, output: seen.update(hidden=inputs[0], output=output))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = rewards(model, batch(model))
    assert result.dtype == seen["output"].dtype == torch.float32
    bias = 0 if head.bias is None else head.bias.double()
    exact = seen["hidden"].double() @ head.weight.double().T + bias
    torch.testing.assert_close(seen["output"].double(), exact, rtol=1e-5, atol=1e-6)


def test_a_half_precision_model_keeps_its_head_in_float32_and_a_double_one_its_double(
    reward_model: PreTrainedModel,
) -> None:
    half = copy.deepcopy(reward_model).bfloat16().eval()
    keep_head_in_float32(half)
    assert half.score.weight.dtype == torch.float32
    assert half.model.embed_tokens.weight.dtype == torch.bfloat16
    bind_reward_forward(half)
    assert rewards(half, batch(half)).dtype == torch.float32
    # Released, it must still take the hidden states of its backbone.
    release_reward_forward(half)
    with torch.no_grad():
        assert half(**batch(half)).logits.shape == (3, 1)
    double = reward_model.double().eval()
    keep_head_in_float32(double)
    bind_reward_forward(double)
    assert rewards(double, batch(double)).dtype == torch.float64


def test_the_users_model_gets_its_own_forward_back(reward_model: PreTrainedModel) -> None:
    before = reward_model.forward
    state = {name: value.clone() for name, value in reward_model.state_dict().items()}
    bind_reward_forward(reward_model)
    assert reward_model.forward != before
    taken = release_reward_forward(reward_model)
    assert reward_model.forward == before
    assert "forward" not in reward_model.__dict__
    assert "forward" not in reward_model.score.__dict__
    assert reward_model.state_dict().keys() == state.keys()
    restore_reward_forward(taken)
    assert rewards(reward_model, batch(reward_model)).shape == (3,)


def test_a_copy_of_a_bound_model_reads_its_own_weights(reward_model: PreTrainedModel) -> None:
    bind_reward_forward(reward_model)
    twin = copy.deepcopy(reward_model)
    with torch.no_grad():
        twin.score.weight.zero_()
    assert rewards(twin, batch(twin)).abs().max() == 0
    assert rewards(reward_model, batch(reward_model)).abs().max() > 0


def test_a_fresh_head_has_the_std_of_the_seed_and_depends_on_the_seed_alone() -> None:
    head, twin = nn.Linear(4095, 1, bias=False), nn.Linear(4095, 1, bias=False)
    init_score_head(head, seed=3)
    torch.manual_seed(99)
    init_score_head(twin, seed=3)
    assert torch.equal(head.weight, twin.weight)
    assert head.weight.std().item() == pytest.approx(1 / math.sqrt(4096), rel=0.05)
    init_score_head(twin, seed=4)
    assert not torch.equal(head.weight, twin.weight)


def test_last_token_positions_on_either_side() -> None:
    mask = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1], [1, 1, 1, 1]])
    assert last_token_positions(mask).tolist() == [1, 7, 11]
