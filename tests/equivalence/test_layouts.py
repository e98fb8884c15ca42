"""Batches without padding give the rewards and gradients of padded ones."""

import copy
import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointImpl, checkpoint_wrapper
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from hf_reward.data.collator import PreferenceCollator
from hf_reward.data.layouts import shared_prompt_length
from hf_reward.modeling.adapters import add_adapter, base_model
from hf_reward.modeling.last_layer import _only_at
from hf_reward.modeling.layout import EXACT_WINDOWS
from hf_reward.modeling.score_head import bind_reward_forward, completion_rewards
from hf_reward.modeling.shared_prompt import AttentionPlan, UnsupportedAttentionError, attention_forward, use_attention


SIZES = {
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "num_labels": 1,
}
# Shorter than the longest prompt below.
WINDOW = {"sliding_window": 6}
MIXED = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"], **WINDOW}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "qwen2": ("qwen2", {}),
    "qwen2, window": ("qwen2", MIXED | {"use_sliding_window": True}),
    "qwen3": ("qwen3", {"head_dim": 8}),
    "qwen3, window": ("qwen3", MIXED | {"head_dim": 8, "use_sliding_window": True}),
    "mistral, window": ("mistral", WINDOW),
    "mixtral, window": ("mixtral", WINDOW | {"num_local_experts": 4}),
    "gemma3, window": ("gemma3_text", MIXED | {"head_dim": 8, "query_pre_attn_scalar": 8}),
    "phi3": ("phi3", {}),
    "phi3, window": ("phi3", WINDOW),
    "olmo2": ("olmo2", {}),
    "olmo3, window": ("olmo3", MIXED),
    "gpt_neox": ("gpt_neox", {}),
    "gpt2": ("gpt2", {}),
    "qwen3_moe": ("qwen3_moe", EXPERTS | {"head_dim": 8}),
    "qwen3_moe, window": ("qwen3_moe", EXPERTS | WINDOW | {"head_dim": 8, "use_sliding_window": True}),
}


def build(name: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    torch.manual_seed(0)
    kind, changes = MODELS[name]
    config = AutoConfig.for_model(kind, **(SIZES | changes))
    model = AutoModelForSequenceClassification.from_config(config).to(dtype)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    bind_reward_forward(model)
    return model


def tokens(count: int, seed: int) -> list[int]:
    return torch.randint(3, 99, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def group(prompt: int, *completions: int, seed: int = 0) -> dict[str, list[list[int]]]:
    """A row whose completions share exactly so many tokens."""
    start = tokens(prompt, seed)
    rests = [tokens(length, 100 * seed + rank + 1) for rank, length in enumerate(completions)]
    for rank, rest in enumerate(rests):
        if rest:
            rest[0] = 3 + (seed + rank) % 90
    return {"completion_input_ids": [start + rest for rest in rests]}


ROWS = {
    "pairs": [group(9, 5, 3, seed=1), group(14, 2, 7, seed=2), group(4, 11, 11, seed=3)],
    "no common prompt": [group(0, 5, 3, seed=4), group(7, 2, 2, seed=5)],
    "one token prompt": [group(1, 5, 3, seed=6), group(1, 1, 1, seed=7)],
    "empty completion": [group(6, 4, 0, seed=8), group(5, 0, 3, seed=9), group(4, 0, 0, 2, seed=14)],
    "groups": [group(8, 4, 2, 6, seed=10), group(3, 2, 4, 1, 5, 3, seed=11), group(5, 2, 2, seed=12)],
    "one group": [group(9, 5, 3, seed=13)],
}
EDGES = [row for name, rows in ROWS.items() if name != "pairs" for row in rows]


def scored(model: nn.Module, rows: list[dict[str, Any]], layout: str) -> tuple[Tensor, dict[str, Tensor]]:
    """Rewards of the rows, and the gradients of a weighted sum of their logistic losses."""
    batch = PreferenceCollator(0, layout=layout)(rows)
    model.zero_grad()
    rewards = completion_rewards(model, batch)
    weights = torch.linspace(-1, 1, len(rewards), dtype=rewards.dtype) + 0.1
    nn.functional.softplus(rewards * weights).sum().backward()
    return rewards.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def assert_equal(found: Any, expected: Any, rewards: float, gradients: float) -> None:
    torch.testing.assert_close(found[0], expected[0], rtol=0, atol=rewards)
    assert expected[0].std() > 1e-2
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        assert (found[1][name] - gradient).norm() <= gradients * gradient.norm() + 1e-7, name


@pytest.mark.parametrize("name", MODELS)
def test_rewards_and_gradients_are_those_of_padded_rows(name: str) -> None:
    model = build(name)
    for rows in (ROWS["pairs"], EDGES):
        model.set_attn_implementation("sdpa")
        padded = scored(model, rows, "padded")
        use_attention(model)
        for layout in ("padded", "packed", "shared_prompt"):
            assert_equal(scored(model, rows, layout), padded, 2e-6, 1e-5)


def test_every_exact_window_is_tested_with_one_that_is_exceeded() -> None:
    tested = {kind for kind, changes in MODELS.values() if "sliding_window" in changes}
    assert tested == EXACT_WINDOWS
    assert max(shared_prompt_length(row["completion_input_ids"]) for row in ROWS["pairs"]) > WINDOW["sliding_window"]


@pytest.mark.parametrize("layout", ["padded", "packed", "shared_prompt"])
def test_rewards_are_those_of_the_models_own_forward_row_by_row(layout: str) -> None:
    model = build("llama")
    use_attention(model)
    with torch.no_grad():
        alone = [
            model(input_ids=torch.tensor([completion])).logits[0, 0]
            for row in EDGES
            for completion in row["completion_input_ids"]
        ]
    torch.testing.assert_close(scored(model, EDGES, layout)[0], torch.stack(alone), rtol=0, atol=2e-6)


def test_in_float64_they_are_the_same_to_the_last_digits() -> None:
    # GPT-2: its norms stay in float64.
    model = build("gpt2", torch.float64)
    padded = scored(model, EDGES, "padded")
    use_attention(model)
    for layout in ("packed", "shared_prompt"):
        found = scored(model, EDGES, layout)
        torch.testing.assert_close(found[0], padded[0], rtol=0, atol=1e-13)
        for name, gradient in padded[1].items():
            assert (found[1][name] - gradient).norm() <= 1e-10 * gradient.norm() + 1e-14, name


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", ["llama", "gpt2", "mistral, window"])
def test_gradient_checkpointing_changes_nothing(name: str, reentrant: bool) -> None:
    model = build(name).train()
    padded = scored(model, EDGES, "padded")
    use_attention(model)
    model.activation_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    for layout in ("packed", "shared_prompt"):
        assert_equal(scored(model, EDGES, layout), padded, 2e-6, 1e-5)


def tokens_seen(model: PreTrainedModel, rows: list[dict[str, Any]], layout: str) -> tuple[dict[str, list[int]], Any]:
    """How many tokens go through the parts of every layer, and the rewards and gradients."""
    seen: dict[str, list[int]] = {name: [] for name in ("q_proj", "k_proj", "v_proj", "o_proj", "down_proj")}
    hooks = [
        module.register_forward_hook(lambda _, args, out, into=into: into.append(args[0].shape[:-1].numel()))
        for name, into in seen.items()
        for place, module in model.named_modules()
        if place.endswith(name)
    ]
    found = scored(model, rows, layout)
    for hook in hooks:
        hook.remove()
    return seen, found


def test_the_last_layer_sees_the_tokens_of_rewards_alone_but_for_keys_and_values() -> None:
    model = build("llama")
    rows = [group(9, 5, 3, seed=1), group(4, 0, 0, 2, seed=14)]
    seen, padded = tokens_seen(model, rows, "padded")
    # Five rows of up to 14 tokens.
    assert all(tokens == [70, 70, 70] for tokens in seen.values())
    use_attention(model)
    for layout, laid_out in (("packed", 14 + 12 + 4 + 4 + 6), ("shared_prompt", 9 + 5 + 3 + 4 + 2)):
        seen, found = tokens_seen(model, rows, layout)
        # Two completions that end with their prompt are read at one token if they share it.
        last = 4 if layout == "shared_prompt" else 5
        assert seen.pop("k_proj") == seen.pop("v_proj") == [laid_out] * 3
        assert all(tokens == [laid_out, laid_out, last] for tokens in seen.values())
        assert_equal(found, padded, 2e-6, 1e-5)


@pytest.mark.parametrize("call", [lambda part, row: part(input=row), lambda part, row: part(row[0]).unsqueeze(0)])
def test_a_part_that_is_not_called_with_a_row_stays_whole(call: Callable[[nn.Module, Tensor], Tensor]) -> None:
    part, row = nn.Linear(4, 3), torch.randn(1, 5, 4)
    whole = part(row)
    with _only_at(torch.tensor([1, 3]), part):
        assert torch.equal(call(part, row), whole)
        narrow = part(row)
    torch.testing.assert_close(narrow, whole * torch.tensor([0, 1, 0, 1, 0]).view(1, 5, 1))
    assert torch.equal(part(row), whole)


@pytest.mark.parametrize("by", ["transformers", "FSDP"])
def test_a_last_layer_that_is_computed_twice_stays_whole(by: str) -> None:
    model = build("llama").train()
    padded = scored(model, EDGES, "padded")
    use_attention(model)
    if by == "transformers":
        model.activation_checkpointing_enable({"use_reentrant": False})
    else:
        wrapped = partial(checkpoint_wrapper, checkpoint_impl=CheckpointImpl.NO_REENTRANT)
        model.model.layers = nn.ModuleList(map(wrapped, model.model.layers))
    tokens = PreferenceCollator(0, layout="shared_prompt")(EDGES)["input_ids"].numel()
    seen, found = tokens_seen(model, EDGES, "shared_prompt")
    assert set(itertools.chain.from_iterable(seen.values())) == {tokens}
    assert len(seen["q_proj"]) == 6
    names = [name.replace("_checkpoint_wrapped_module.", "") for name in found[1]]
    assert_equal((found[0], dict(zip(names, found[1].values(), strict=True))), padded, 2e-6, 1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_lora_is_exact(checkpointing: bool) -> None:
    model = add_adapter(build("llama"), LoraConfig(r=4, target_modules="all-linear"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    padded = scored(model, EDGES, "padded")
    use_attention(base_model(model))
    if checkpointing:
        model.train()
        model.activation_checkpointing_enable({"use_reentrant": False})
    for layout in ("packed", "shared_prompt"):
        assert_equal(scored(model, EDGES, layout), padded, 2e-6, 1e-5)


def test_under_autocast_they_are_as_near_to_float32_as_padded_rows_are() -> None:
    model = build("llama")
    rows = [group(10 + seed % 7, 3 + seed % 5, 2 + seed % 6, seed=seed) for seed in range(32)]
    exact = scored(model, rows, "padded")
    distance = {}
    for layout in ("padded", "packed", "shared_prompt"):
        if layout != "padded":
            use_attention(model)
        with torch.autocast("cpu", torch.bfloat16):
            rewards, gradients = scored(model, rows, layout)
        assert rewards.dtype == torch.float32
        flat = [torch.cat([g.flatten() for g in values.values()]) for values in (gradients, exact[1])]
        distance[layout] = (
            ((rewards - exact[0]).norm() / exact[0].norm()).item(),
            ((flat[0] - flat[1]).norm() / flat[1].norm()).item(),
        )
    for layout, (of_rewards, of_gradients) in distance.items():
        assert 1e-4 < of_rewards <= 1.2 * distance["padded"][0], layout
        assert 1e-4 < of_gradients <= 1.2 * distance["padded"][1], layout


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 20), st.lists(st.integers(0, 12), min_size=2, max_size=5)), min_size=1, max_size=5
    )
)
def test_any_lengths_give_the_rewards_of_padded_rows(shapes: list[tuple[int, list[int]]]) -> None:
    # A sequence has at least one token.
    rows = [group(max(p, 1) if 0 in sizes else p, *sizes, seed=n) for n, (p, sizes) in enumerate(shapes)]
    model = MEMO.setdefault("model", build("qwen3, window"))
    model.set_attn_implementation("sdpa")
    with torch.no_grad():
        padded = completion_rewards(model, PreferenceCollator(0)(rows))
        use_attention(model)
        for layout in ("packed", "shared_prompt"):
            found = completion_rewards(model, PreferenceCollator(0, layout=layout)(rows))
            torch.testing.assert_close(found, padded, rtol=0, atol=5e-6)


MEMO: dict[str, PreTrainedModel] = {}


@pytest.mark.parametrize("window", [None, 4])
def test_the_block_mask_shows_the_same_tokens(window: int | None) -> None:
    """Flex attention has no backward pass on a CPU; what it would see is looked at here."""
    spans = ((3, (2, 0, 4)), (0, (2, 3)), (5, (1, 1)))
    plan = AttentionPlan(spans, torch.device("cpu"))
    length = sum(prompt + sum(sizes) for prompt, sizes in spans)
    seen = torch.zeros(length, length, dtype=torch.bool)
    start = 0
    for prompt, sizes in spans:
        prompt_places = list(range(start, start + prompt))
        end = start + prompt
        for size in sizes or ():
            places = [*prompt_places, *range(end, end + size)]
            for (i, query), (j, key) in itertools.product(enumerate(places), repeat=2):
                seen[query, key] |= j <= i and (window is None or i - j < window)
            end += size
        start = end
    mask = plan.block_mask(window)
    grid = torch.arange(length)
    zero = torch.zeros((), dtype=torch.long)
    assert torch.equal(torch.stack([mask.mask_mod(zero, zero, query, grid) for query in grid]), seen)


def test_flex_attention_gives_the_same_output() -> None:
    from hf_reward.modeling.shared_prompt import _by_flex, _by_segments

    spans = ((3, (2, 4)), (0, (2, 3)))
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(1, 4, 14, 16, generator=generator)
    k, v = torch.randn(2, 1, 2, 14, 16, generator=generator)
    plan = AttentionPlan(spans, q.device)
    module = nn.Module()
    module.num_key_value_groups = 2
    with torch.no_grad():
        flex = _by_flex(module, q, k, v, plan, 0.25, None)
    torch.testing.assert_close(flex, _by_segments(q, k, v, plan, 0.25, None), rtol=0, atol=1e-5)


def test_the_variable_length_kernel_is_given_the_same_sequences() -> None:
    """The kernel itself runs on a GPU only; what it is given is checked against one sequence after another."""
    spans = ((3, (2, 0, 4)), (0, (2, 3)), (5, (1, 1)))
    arguments = AttentionPlan(spans, torch.device("cpu")).varlen
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, 4, 21, 16, generator=generator, dtype=torch.float64)
    queries, keys = (ends.tolist() for ends in arguments["cu_seqlens"])
    k_all, v_all = (tensor[0].index_select(1, arguments["key_index"]) for tensor in (k, v))
    outputs = []
    for (first_q, end_q), (first_k, end_k) in zip(itertools.pairwise(queries), itertools.pairwise(keys), strict=True):
        part_q, part_k, part_v = q[0, :, first_q:end_q], k_all[:, first_k:end_k], v_all[:, first_k:end_k]
        hidden = torch.ones(end_q - first_q, end_k - first_k).triu(1 + (end_k - first_k) - (end_q - first_q)).bool()
        scores = (part_q @ part_k.mT / 4).masked_fill(hidden, float("-inf"))
        outputs.append(scores.softmax(-1) @ part_v)
    expected, _ = attention_forward(
        nn.Module(), q, k, v, None, scaling=0.25, attention_plan=AttentionPlan(spans, q.device)
    )
    torch.testing.assert_close(torch.cat(outputs, dim=1).transpose(0, 1), expected[0], rtol=0, atol=1e-12)
    assert arguments["longest"] == [6, 7]


@pytest.mark.parametrize(
    "extra",
    [{"softcap": 30.0}, {"s_aux": torch.zeros(4)}, {"position_bias": torch.zeros(1)}, {"dropout": 0.1}],
    ids=["softcap", "sinks", "bias", "dropout"],
)
def test_what_is_not_known_is_refused(extra: dict[str, Any]) -> None:
    q = torch.zeros(1, 4, 5, 8)
    with pytest.raises(UnsupportedAttentionError, match=next(iter(extra))):
        attention_forward(nn.Module(), q, q, q, None, attention_plan=AttentionPlan(((5, (0, 0)),), q.device), **extra)


def test_layers_that_do_not_ask_for_attention_are_noticed() -> None:
    model = build("llama")  # its attention was not replaced
    with pytest.raises(UnsupportedAttentionError, match="0 of the 3 layers"):
        scored(model, ROWS["pairs"], "shared_prompt")


def test_no_layer_makes_a_mask_over_the_whole_row(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("qwen3, window")
    use_attention(model)
    sizes: list[int] = []
    kept = nn.functional.scaled_dot_product_attention

    def spy(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, **kwargs: Any) -> Tensor:
        sizes.append(0 if mask is None else mask.numel())
        return kept(query, key, value, mask, **kwargs)

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", spy)
    scored(copy.deepcopy(model), ROWS["pairs"], "shared_prompt")
    longest = max(len(c) for row in ROWS["pairs"] for c in row["completion_input_ids"])
    assert len(sizes) == 3 * 6  # layers times completions
    assert max(sizes) <= longest * longest
