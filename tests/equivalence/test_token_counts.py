"""How many tokens are laid out, against TRL's collator on the same batches: what speed comes from, without a clock."""

import pytest
from torch.utils.data import RandomSampler
from trl.trainer.reward_trainer import DataCollatorForPreference

from benchmarks.step_time import LENGTHS, generated
from hf_reward.data.collator import PreferenceCollator


def tokens(name: str, pairs: int) -> dict[str, int]:
    """Tokens of one pass over generated pairs in random batches."""
    rows = generated(name, 640)
    order = list(RandomSampler(rows))
    theirs = DataCollatorForPreference(0)
    ours = {layout: PreferenceCollator(0, layout=layout) for layout in ("padded", "packed", "shared_prompt")}
    total = dict.fromkeys(("trl", *ours), 0)
    for start in range(0, len(order), pairs):
        batch = [rows[number] for number in order[start : start + pairs]]
        renamed = [{side.replace("_input", ""): ids for side, ids in row.items()} for row in batch]
        total["trl"] += theirs(renamed)["input_ids"].numel()
        for layout, collate in ours.items():
            total[layout] += collate(batch)["input_ids"].numel()
    return total


@pytest.mark.parametrize(("name", "ratio"), [("hh_like", 3.5), ("instruction_like", 2.2)])
def test_shared_prompts_take_a_fraction_of_trls_tokens(name: str, ratio: float) -> None:
    count = tokens(name, 16)
    assert count["padded"] == count["trl"]
    assert count["shared_prompt"] * ratio <= count["trl"]
    assert count["shared_prompt"] < count["packed"]


@pytest.mark.parametrize("name", LENGTHS)
def test_no_distribution_takes_more_tokens_than_trl(name: str) -> None:
    count = tokens(name, 8)
    assert count["shared_prompt"] <= count["packed"] <= count["trl"]
