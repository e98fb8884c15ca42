"""What a trainer does with devices and loader processes, in one process."""

import pytest
import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from hf_reward import ConfigurationError, RewardConfig, RewardTrainer


def trainer(model, tokenizer, data, folder, **settings) -> RewardTrainer:
    config = {"per_device_train_batch_size": 2, "use_cpu": True, "report_to": "none", "seed": 5}
    return RewardTrainer(
        model, RewardConfig(str(folder), **(config | settings)), train_dataset=data, processing_class=tokenizer
    )


def test_loader_processes_and_prefetching_keep_the_order_of_the_batches(
    reward_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, chat_pairs: Dataset, tmp_path
) -> None:
    orders = []
    for settings in (
        {},
        {"dataloader_num_workers": 2},
        {"dataloader_num_workers": 2, "dataloader_prefetch_factor": 4, "dataloader_persistent_workers": True},
    ):
        loader = trainer(reward_model, tokenizer, chat_pairs, tmp_path, **settings).get_train_dataloader()
        orders.append([batch["input_ids"] for _ in range(2) for batch in loader])
    assert len(orders[0]) == 8
    assert any(not torch.equal(first, second) for first, second in zip(orders[0][:4], orders[0][4:], strict=True))
    for order in orders[1:]:
        assert all(torch.equal(first, second) for first, second in zip(orders[0], order, strict=True))


def test_several_gpus_in_one_process_are_refused_with_the_command_to_use(
    reward_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, chat_pairs: Dataset, tmp_path
) -> None:
    args = RewardConfig(str(tmp_path), use_cpu=True, report_to="none")
    args._n_gpu = 4
    with pytest.raises(ConfigurationError, match=r"4 GPUs are visible .* --accelerate_config ddp.*nproc_per_node 4"):
        RewardTrainer(reward_model, args, train_dataset=chat_pairs, processing_class=tokenizer)


def test_a_model_that_is_split_over_the_gpus_is_not(
    reward_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, chat_pairs: Dataset, tmp_path
) -> None:
    args = RewardConfig(str(tmp_path), use_cpu=True, report_to="none")
    args._n_gpu = 2
    reward_model.hf_device_map = {"model": 0, "score": 1}
    assert RewardTrainer(reward_model, args, train_dataset=chat_pairs, processing_class=tokenizer).args.n_gpu == 1
