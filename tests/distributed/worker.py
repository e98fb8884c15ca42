"""
Runs several command lines of `hf_reward-train` one after the other in the processes that a launcher started, and
writes down what it sees of each: `worker.py CASES.json [--pretend_gpus] [--no_builds]`, a list of command lines in the
file.

`--pretend_gpus` is the shim for FSDP2: accelerate shards only on accelerators, so for the moment in which it decides,
the processes are said to be on XPUs. It depends on the inside of accelerate and has its place in tests alone.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback

from hf_reward.cli.errors import exit_code
from hf_reward.cli.recipe import parse
from hf_reward.cli.train import log_on_terminal
from hf_reward.modeling.adapters import base_model, head_parameters
from hf_reward.modeling.score_head import head_module
from hf_reward.training import run as story


# When the launcher was started; `first_step` counts from there for the first command line.
STARTED = float(os.environ.get("STARTED") or time.time())


class Seen(TrainerCallback):
    """Stored and computed dtypes of the score head, how its weight is split, and when the first step was done."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.seen: dict[str, Any] = {"outputs": [], "weights": []}
        self.hooks: list[Any] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        module = head_module(base_model(self.trainer.model))
        linear = [part for part in module.modules() if isinstance(part, nn.Linear)][-1]
        self.seen["mode"] = self.trainer.mode
        self.seen["layout"] = self.trainer.choice.layout
        self.hooks = [linear.register_forward_pre_hook(self._weight), linear.register_forward_hook(self._output)]

    def _weight(self, module: nn.Linear, inputs: tuple[torch.Tensor]) -> None:
        # A weight that was rounded on its way loses nothing when it is rounded again.
        weight = module.weight.detach()
        exact = bool((weight.float().bfloat16().float() != weight.float()).any())
        self.seen["weights"].append([str(weight.dtype), exact])

    def _output(self, module: nn.Linear, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        self.seen["outputs"].append(str(output.dtype))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # After the step, when FSDP2 has put away what it gathered.
        parameters = head_parameters(self.trainer.model).values()
        self.seen["stored"] = sorted({str(p.dtype) for p in parameters})
        self.seen["split"] = sorted({_split(p) for p in parameters})
        self.seen.setdefault("first_step", time.time() - STARTED)


def _split(parameter: Any) -> str:
    if hasattr(parameter, "ds_id"):
        return "ZeRO-3"
    return type(parameter.data).__name__


def pretend_gpus() -> None:
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType

    original = AcceleratorState.__init__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        if PartialState._shared_state.get("distributed_type") == DistributedType.MULTI_CPU:
            PartialState._shared_state["distributed_type"] = DistributedType.MULTI_XPU
        original(self, *args, **kwargs)

    AcceleratorState.__init__ = init


def main() -> int:
    if "--pretend_gpus" in sys.argv:
        pretend_gpus()
    if "--no_builds" in sys.argv:
        import deepspeed.ops

        # On a CPU DeepSpeed would compile its shared-memory communication first, for minutes; gloo alone does it too.
        deepspeed.ops.__compatible_ops__ = {}
    torch.set_num_threads(1)
    build = story.build_trainer
    observers: list[Seen] = []

    def build_observed(*args: Any) -> Any:
        trainer = build(*args)
        observers.append(Seen(trainer))
        trainer.add_callback(observers[-1])
        return trainer

    story.build_trainer = build_observed
    evaluate = story.evaluate

    def evaluate_observed(*args: Any) -> Any:
        metrics, scored = evaluate(*args)
        observers[-1].seen["rewards"] = [[pair.chosen_reward, pair.rejected_reward] for pair in scored]
        return metrics, scored

    story.evaluate = evaluate_observed
    for argv in json.loads(Path(sys.argv[1]).read_text()):
        with exit_code() as outcome, log_on_terminal():
            arguments = parse(argv)
            story.run(*arguments)
        if outcome.code:
            return outcome.code
        observer = observers.pop()
        for hook in observer.hooks:
            hook.remove()
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        Path(str(arguments[0].output_dir), f"seen-{rank}.json").write_text(json.dumps(observer.seen))
    return 0


if __name__ == "__main__":
    sys.exit(main())
