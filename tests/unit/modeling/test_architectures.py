"""Every architecture: all that should train does, plain reading gives the same rewards, the head is float32."""

import copy
from pathlib import Path

import pytest
import torch
import transformers
from datasets import Dataset
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from hf_reward import ConfigurationError, RewardConfig, RewardTrainer, load_reward_model
from hf_reward.inference.merging import probe_rows, rewards_of
from hf_reward.inference.scorer import RewardScorer
from hf_reward.modeling.score_head import bind_reward_forward, head_module, last_token_positions


SIZES = {
    "vocab_size": 262,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
GEMMA = {"head_dim": 8, "query_pre_attn_scalar": 8, "layer_types": ["sliding_attention", "full_attention"]}
DECODERS = {
    "llama": {},
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "mistral": {},
    "gemma2": GEMMA,
    "gemma3_text": GEMMA,
    "phi3": {"partial_rotary_factor": 1.0},
    "olmo2": {},
    "gpt_neox": {},
    "gpt2": {},
    "qwen3_moe": EXPERTS | {"num_experts": 4, "head_dim": 8},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
}
ENCODERS = {
    "bert": {},
    "roberta": {"max_position_embeddings": 300},
    "deberta-v2": {
        "relative_attention": True,
        "position_buckets": 8,
        "pos_att_type": ["p2c", "c2p"],
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
        "type_vocab_size": 0,
    },
    "modernbert": {"cls_token_id": 1, "sep_token_id": 2, "global_attn_every_n_layers": 2, "local_attention": 16},
}
MODELS = DECODERS | ENCODERS

# A bias behind everything else shifts all rewards alike, so pairs give it no gradient (rounding may); everything else
# must change.
MAY_STAY = {"classifier.bias", "classifier.out_proj.bias", "transformer.ln_f.bias", "gpt_neox.final_layer_norm.bias"}


def build(kind: str) -> PreTrainedModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **(SIZES | {"num_labels": 1} | MODELS[kind]))
    return AutoModelForSequenceClassification.from_config(config)


def trainer(model: PreTrainedModel, tokenizer, data: Dataset, folder: Path, **settings) -> RewardTrainer:
    config = {
        "output_dir": str(folder),
        "use_cpu": True,
        "report_to": "none",
        "max_steps": 1,
        "per_device_train_batch_size": 7,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "save_strategy": "no",
        "gradient_checkpointing": False,
        "disable_tqdm": True,
    }
    return RewardTrainer(model, RewardConfig(**(config | settings)), train_dataset=data, processing_class=tokenizer)


def gradients(model: PreTrainedModel, tokenizer, data: Dataset, folder: Path, **settings) -> dict[str, torch.Tensor]:
    """What one training step sees, without the step (the learning rate is the smallest there is)."""
    seen: dict[str, torch.Tensor] = {}

    class Spy(transformers.TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
            seen.update({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})

    one = trainer(copy.deepcopy(model), tokenizer, data, folder, max_grad_norm=0.0, **settings)
    one.add_callback(Spy())
    one.train()
    return seen


@pytest.mark.parametrize("kind", MODELS)
def test_one_step_changes_every_parameter_and_the_saved_model_reads_the_same(
    kind: str, tokenizer, chat_pairs: Dataset, tmp_path: Path
) -> None:
    model = build(kind)
    before = copy.deepcopy(dict(model.named_parameters()))
    one = trainer(model, tokenizer, chat_pairs, tmp_path)
    one.train()
    unchanged = {name for name, weight in model.named_parameters() if torch.equal(weight, before[name])}
    assert unchanged - MAY_STAY == set()
    assert all(torch.isfinite(weight).all() for weight in model.parameters())
    # The saved checkpoint, read by plain transformers, gives our rewards.
    one.save_model()
    with one.reward_forward():
        ours = rewards_of(one.model, tokenizer)
    assert ours.std() > 1e-3
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(rewards_of(plain, tokenizer, own_forward=True), ours, rtol=0, atol=1e-5)
    again = RewardScorer.from_pretrained(tmp_path, device="cpu")
    torch.testing.assert_close(again.score_ids(probe_rows(tokenizer)), ours, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", MODELS)
def test_checkpointing_gives_the_same_gradients(kind: str, tokenizer, chat_pairs: Dataset, tmp_path: Path) -> None:
    model = build(kind)
    data = chat_pairs.select(range(3))
    padded = gradients(model, tokenizer, data, tmp_path, batch_layout="padded", gradient_checkpointing=False)
    laid_out = gradients(model, tokenizer, data, tmp_path, gradient_checkpointing=False)
    assert max(gradient.abs().max() for gradient in padded.values()) > 1e-3
    for reentrant in (False, True):
        kwargs = {"use_reentrant": reentrant}
        if reentrant and kind == "deberta-v2":
            continue  # refused, see below
        checkpointing = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": kwargs}
        other = gradients(model, tokenizer, data, tmp_path, batch_layout="padded", **checkpointing)
        assert set(other) == set(padded)
        for name, gradient in padded.items():
            torch.testing.assert_close(other[name], gradient, rtol=1e-4, atol=1e-7, msg=f"{name}, {reentrant=}")
        # In the layout that the model gets, the last layer is whole here, so its sums are made in another order.
        other = gradients(model, tokenizer, data, tmp_path, **checkpointing)
        assert set(other) == set(laid_out)
        for name, gradient in laid_out.items():
            assert (other[name] - gradient).norm() <= 1e-5 * gradient.norm() + 1e-7, f"{name}, {reentrant=}"


@pytest.mark.parametrize("kind", MODELS)
def test_the_head_is_float32_under_bfloat16_autocast(kind: str) -> None:
    model = build(kind).eval()
    bind_reward_forward(model)
    seen = []
    linears = [module for module in head_module(model).modules() if isinstance(module, nn.Linear)]
    for linear in linears:
        linear.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    ids = torch.randint(6, 262, (3, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        rewards = model(input_ids=ids, attention_mask=mask, reward_positions=last_token_positions(mask)).logits
    assert seen == [torch.float32] * len(linears)
    assert rewards.dtype == torch.float32
    # More digits than bfloat16 has.
    assert not torch.equal(rewards, rewards.bfloat16().float())


@pytest.mark.parametrize("kind", MODELS)
def test_a_causal_or_masked_checkpoint_becomes_a_reward_model(kind: str, tmp_path: Path, caplog) -> None:
    config = AutoConfig.for_model(kind, **(SIZES | MODELS[kind]))
    factory = transformers.AutoModelForCausalLM if kind in DECODERS else transformers.AutoModelForMaskedLM
    torch.manual_seed(0)
    pretrained = factory.from_config(config)
    pretrained.save_pretrained(tmp_path)
    model = load_reward_model(str(tmp_path), seed=3)
    head = head_module(model)
    assert "start at random" not in caplog.text
    if kind in DECODERS:
        assert (head.in_features, head.out_features) == (16, 1)
        assert head.weight.std().item() == pytest.approx(1 / 17**0.5, rel=0.5)
    backbone = dict(pretrained.base_model.named_parameters())
    for name, weight in model.base_model.named_parameters():
        if name in backbone:
            assert torch.equal(weight, backbone[name]), name
    assert torch.equal(
        load_reward_model(str(tmp_path), seed=3)(torch.tensor([[5, 6]])).logits, model(torch.tensor([[5, 6]])).logits
    )


def test_a_deberta_cannot_be_checkpointed_reentrantly(tokenizer, chat_pairs: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="found use_reentrant: true with a DeBERTa"):
        trainer(
            build("deberta-v2"),
            tokenizer,
            chat_pairs,
            tmp_path,
            gradient_checkpointing=True,
            gradient_checkpointing_kwargs={"use_reentrant": True},
        )


def test_a_roberta_keeps_the_pad_token_that_its_positions_start_from(tokenizer, chat_pairs, tmp_path) -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model("roberta", **(SIZES | {"num_labels": 1, "pad_token_id": 1}))
    model = AutoModelForSequenceClassification.from_config(config)
    with pytest.raises(ConfigurationError, match="has the id 0, but a roberta model numbers its positions"):
        trainer(model, tokenizer, chat_pairs, tmp_path)
