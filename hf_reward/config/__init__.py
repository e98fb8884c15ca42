"""What a run can be told: the training configuration, the model, the data, and the seed system's names for them."""

from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from hf_reward.config.data_arguments import DataArguments
    from hf_reward.config.launch_arguments import LaunchArguments
    from hf_reward.config.model_arguments import ModelArguments
    from hf_reward.config.reward_config import RewardConfig

__all__ = ["DataArguments", "LaunchArguments", "ModelArguments", "RewardConfig"]


def __getattr__(name: str) -> Any:
    # Lazy, because the help text is printed without waiting for torch and transformers.
    if name == "RewardConfig":
        from hf_reward.config.reward_config import RewardConfig

        return RewardConfig
    if name == "ModelArguments":
        from hf_reward.config.model_arguments import ModelArguments

        return ModelArguments
    if name == "DataArguments":
        from hf_reward.config.data_arguments import DataArguments

        return DataArguments
    if name == "LaunchArguments":
        from hf_reward.config.launch_arguments import LaunchArguments

        return LaunchArguments
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
