"""The sample table: after each evaluation, some pairs with their rewards, on the terminal and in the trackers."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from transformers import (
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.integrations.integration_utils import TensorBoardCallback, TrackioCallback, WandbCallback

from hf_reward.evaluation.pairs import ScoredPair, sample_indices
from hf_reward.evaluation.tables import pairs_table, print_table, verdict


COLUMNS = ("kind", "prompt", "chosen", "rejected", "chosen_reward", "rejected_reward", "verdict")
Samples = dict[str, list[ScoredPair]]


def read_pair(row: Mapping[str, Any], rewards: Sequence[float], tokenizer: Any, index: int) -> ScoredPair:
    """
    A tokenised pair as text with its rewards; of a larger group, its best and its worst completion.

    Args:
        row (`Mapping`): A row of a tokenised dataset.
        rewards (`Sequence[float]`): Its rewards, best completion first; more than it has completions are ignored.
        tokenizer (`PreTrainedTokenizerBase`): What the ids are decoded by.
        index (`int`): Place of the row in its dataset, from 0.
    """
    group = row.get("completion_input_ids")
    if group is None:
        group = [row["chosen_input_ids"], row["rejected_input_ids"]]
    prompt_length = row.get("prompt_length", 0)

    def text(ids: Sequence[int]) -> str:
        return str(tokenizer.decode(ids, skip_special_tokens=True)).strip()

    return ScoredPair(
        prompt=text(group[0][:prompt_length]),
        chosen=text(group[0][prompt_length:]),
        rejected=text(group[-1][prompt_length:]),
        chosen_reward=float(rewards[0]),
        rejected_reward=float(rewards[len(group) - 1]),
        index=index,
    )


class SampleTable(TrainerCallback):
    """
    Show best, worst and random pairs after each evaluation: prompt, both sides, both rewards, right or wrong.

    The trainer hands the rewards over at the end of its evaluation loop; they are shown once the metrics are logged.

    Args:
        count (`int`): Pairs of each kind; 0 shows none.
        seed (`int`): Of the random pairs, which are the same at every evaluation.
    """

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed = count, seed
        # The trainer's own list: those of them that speak to a tracker get the table too.
        self.callbacks: Sequence[TrainerCallback] = ()
        self._samples: Samples = {}
        self._name = ""

    def take(self, dataset: Any, rewards: Any, tokenizer: Any, name: str) -> None:
        """
        Choose the pairs of an evaluation.

        Args:
            dataset (`Dataset`): Its tokenised rows; of a stream, which cannot be read again, nothing is shown.
            rewards (`numpy.ndarray`):
                In the order of the dataset, best completion first; (G, k). Nothing is shown of another shape, which
                `preprocess_logits_for_metrics` or `batch_eval_metrics` may have made.
            tokenizer (`PreTrainedTokenizerBase`): What the ids are decoded by.
            name (`str`): The prefix of the metrics.
        """
        self._samples, self._name = {}, name
        if not self.count or np.ndim(rewards) != 2 or not hasattr(dataset, "__len__"):
            return
        rewards = np.asarray(rewards)
        columns = set(getattr(dataset, "column_names", ()))
        sizes = [len(group) for group in dataset["completion_input_ids"]] if "completion_input_ids" in columns else 2
        last = rewards[np.arange(len(rewards)), np.asarray(sizes) - 1]
        chosen = sample_indices((rewards[:, 0] - last).tolist(), self.count, self.seed)
        self._samples = {
            kind: [read_pair(dataset[place], rewards[place], tokenizer, place) for place in places]
            for kind, places in chosen.items()
        }

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Show what was taken."""
        samples, self._samples = self._samples, {}
        if not samples or not state.is_world_process_zero:
            return
        title = f"{self._name}, step {state.global_step}: best, worst and random pairs"
        print_table(pairs_table(samples["best"], samples["worst"], samples["random"], title))
        for callback in self.callbacks:
            send_table(callback, f"{self._name}/pairs", table_rows(samples), state.global_step)


def table_rows(samples: Samples) -> list[list[Any]]:
    """The pairs as rows of [`COLUMNS`]."""
    return [
        [kind, pair.prompt, pair.chosen, pair.rejected, pair.chosen_reward, pair.rejected_reward, verdict(pair)]
        for kind, pairs in samples.items()
        for pair in pairs
    ]


def markdown_table(rows: Iterable[Iterable[Any]]) -> str:
    r"""
    The rows as a Markdown table, for trackers that know text alone.

    Examples:

    >>> markdown_table([["best", "a|b", "c\nd", "e", 1.0, -0.5, "right"]]).splitlines()[-1]
    '| best | a\\|b | c d | e | +1.0000 | -0.5000 | right |'
    """

    def cell(value: Any) -> str:
        text = f"{value:+.4f}" if isinstance(value, float) else " ".join(str(value).split())
        return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")

    lines = [COLUMNS, ("---",) * len(COLUMNS), *([cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def send_table(callback: TrainerCallback, name: str, rows: Sequence[Iterable[Any]], step: int) -> None:
    """Give the table to a tracker, if that is what the callback speaks to and its run is open."""
    if isinstance(callback, TensorBoardCallback):
        if callback.tb_writer is not None:
            callback.tb_writer.add_text(name, markdown_table(rows), step)
    elif isinstance(callback, WandbCallback):
        import wandb

        if wandb.run is not None:
            table = wandb.Table(columns=list(COLUMNS), data=list(rows))
            wandb.log({name: table, "train/global_step": step})
    elif isinstance(callback, TrackioCallback) and callback._initialized:
        import trackio
        from pandas import DataFrame

        table = trackio.Table(dataframe=DataFrame(rows, columns=list(COLUMNS)))
        trackio.log({name: table, "train/global_step": step})
