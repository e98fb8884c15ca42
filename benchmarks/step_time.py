"""
Whole training steps of TRL's RewardTrainer and of this one in every batch layout, on the same pairs, interleaved.

    python benchmarks/step_time.py --data pairs.jsonl --output hh.json          # a file of pairs
    python benchmarks/step_time.py --lengths hh_like instruction_like           # generated pairs, the default
    python benchmarks/step_time.py --profile                                    # and where the time of a step goes
    python benchmarks/step_time.py --show hh.json instruction.json              # table and chart of earlier runs

A step is collation, forward, backward, clipping and fused AdamW, on one thread. Every batch of pairs is drawn at
random as TRL's sampler draws it, and goes through all systems one after another; only the length-grouped layout
divides the same pairs into other batches. Time is CPU time of the process, so that other work on the machine counts
little. Peak memory is the high-water mark of the resident set above what it was before the step; weights and optimizer
state are not in it; it is measured in steps of its own, for which freed memory is given back first: a timed step would
pay for getting it again. The bound is the time of the matrix products with weights alone that every token needs once,
at the rate of the best product that was seen in the run. Results are written batch by batch, and a run that was
stopped goes on where it was.
"""

import argparse
import ctypes
import json
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from statistics import mean, median, quantiles
from typing import Any

import torch
import transformers
import trl
from datasets import Dataset
from torch.utils.data import RandomSampler
from transformers import AutoModelForSequenceClassification, LlamaConfig, PreTrainedModel, PreTrainedTokenizerFast

from hf_reward import RewardConfig, RewardTrainer
from hf_reward.config import DataArguments
from hf_reward.data.batching import LengthGroupedSampler, row_tokens
from hf_reward.data.loading import load_sources
from hf_reward.training.setup import prepare_dataset


# Quantiles (0, 5, 10, 25, 50, 75, 90, 95, 99 and 100 %) of the tokens of shared prompt, chosen and rejected
# completion, as two public preference sets have them under a BPE of 8,192 tokens; and shapes at which a layout could
# lose.
LEVELS = (0, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1)
_SPREAD = (20, 25, 30, 50, 90, 150, 220, 280, 380, 500)
_LONG = (600, 600, 600, 600, 600, 700, 800, 900, 950, 1000)
LENGTHS = {
    "hh_like": (
        (14, 18, 20, 35, 105, 178, 275, 337, 513, 850),
        (2, 7, 9, 16, 28, 55, 90, 120, 178, 259),
        (2, 7, 10, 18, 36, 67, 109, 145, 249, 522),
    ),
    "instruction_like": (
        (13, 17, 19, 24, 34, 52, 80, 116, 177, 320),
        (1, 7, 16, 55, 136, 272, 384, 431, 507, 700),
        (1, 6, 16, 48, 104, 202, 316, 376, 489, 845),
    ),
    "equal": ((128,) * 10, (128,) * 10, (128,) * 10),
    "one_token_prompt": ((1,) * 10, _SPREAD, _SPREAD),
    "long_completions": ((16,) * 10, _LONG, _LONG),
}
SYSTEMS = ("trl", "trl_checkpointing", "padded", "grouped", "packed", "shared_prompt")
VOCABULARY, MAX_LENGTH = 16384, 1024
# Kinds of operators in a profile, by parts of their names; the first that fits counts.
OPERATORS = {
    "attention": ("scaled_dot_product", "ScaledDotProduct"),
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::linear", "mkldnn"),
    "optimizer and clipping": ("adam", "Optimizer", "linalg_vector_norm"),
    "copies": ("aten::cat", "aten::copy_", "aten::index", "aten::fill_", "aten::clone", "aten::to"),
    "elementwise": ("aten::mul", "aten::add", "aten::silu", "aten::pow", "aten::neg", "aten::div", "aten::sum"),
}


def generated(name: str, count: int, seed: int = 0) -> list[dict[str, list[int]]]:
    """Tokenised pairs whose lengths follow the quantiles of a distribution; no pair is longer than the limit."""
    generator = torch.Generator().manual_seed(seed)

    def length(values: tuple[int, ...]) -> int:
        at = torch.rand(1, generator=generator).item()
        upper = next(number for number, level in enumerate(LEVELS) if at <= level or number == len(LEVELS) - 1)
        low, high = max(upper - 1, 0), upper
        part = (at - LEVELS[low]) / max(LEVELS[high] - LEVELS[low], 1e-9)
        return round(values[low] + part * (values[high] - values[low]))

    def ids(count: int) -> list[int]:
        return torch.randint(10, VOCABULARY, (count,), generator=generator).tolist()

    rows = []
    while len(rows) < count:
        prompt, chosen, rejected = (length(values) for values in LENGTHS[name])
        if prompt + max(chosen, rejected) <= MAX_LENGTH:
            shared = ids(prompt)
            rows.append({"chosen_input_ids": shared + ids(chosen), "rejected_input_ids": shared + ids(rejected)})
    return rows


def from_file(file: str) -> list[dict[str, list[int]]]:
    """The pairs of a file, tokenised by a BPE that is trained on it."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(__file__).parents[1] / "examples" / "start_from_scratch.py"
        subprocess.run([sys.executable, str(script), file, folder], check=True, stdout=subprocess.DEVNULL)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    raw = load_sources(DataArguments(dataset_name=file), "train")[0].dataset
    raw = raw.select_columns([name for name in ("prompt", "chosen", "rejected") if name in raw.column_names])
    args = RewardConfig(output_dir=".", use_cpu=True, report_to="none", max_length=MAX_LENGTH)
    rows = prepare_dataset(raw, tokenizer, args, "train")
    return [{side: row[side] for side in ("chosen_input_ids", "rejected_input_ids")} for row in rows]


def as_dataset(rows: list[dict[str, list[int]]]) -> Dataset:
    """The pairs with the columns that a tokenised dataset has."""
    lengths = [max(map(len, row.values())) for row in rows]
    return Dataset.from_list(
        [
            row | {"length": length, "prompt_length": 0, "prompt_key": key}
            for key, (row, length) in enumerate(zip(rows, lengths, strict=True))
        ]
    )


def model(seed: int = 0) -> PreTrainedModel:
    """A Llama of 15.7 million parameters."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=2,
        intermediate_size=1024,
        max_position_embeddings=MAX_LENGTH,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        num_labels=1,
    )
    return AutoModelForSequenceClassification.from_config(config)


def trainer_for(system: str, rows: Dataset, bf16: bool, folder: str) -> Any:
    """A trainer with a model of its own, ready to take a step."""
    from hf_reward.quickstart.model import byte_tokenizer

    settings = {"output_dir": folder, "use_cpu": True, "bf16": bf16, "report_to": "none", "max_length": MAX_LENGTH}
    settings["gradient_checkpointing"] = system == "trl_checkpointing"
    if system.startswith("trl"):
        theirs = rows.rename_columns({"chosen_input_ids": "chosen_ids", "rejected_input_ids": "rejected_ids"})
        trainer = trl.RewardTrainer(
            model(), trl.RewardConfig(**settings), train_dataset=theirs, processing_class=byte_tokenizer()
        )
    else:
        settings["batch_layout"] = "padded" if system == "grouped" else system
        args = RewardConfig(**settings)
        trainer = RewardTrainer(model(), args, train_dataset=rows, processing_class=byte_tokenizer())
        trainer.get_train_dataloader()  # compares the layout with the padded one
    if settings["gradient_checkpointing"]:
        trainer.model.gradient_checkpointing_enable()
    trainer.create_optimizer()
    with getattr(trainer, "reward_forward", nullcontext)():
        # Puts autocast around the model's forward.
        _, trainer.optimizer = trainer.accelerator.prepare(trainer.model, trainer.optimizer)
    trainer.current_gradient_accumulation_steps = 1
    return trainer


def step(trainer: Any, numbers: list[int]) -> int:
    """One optimizer step on the pairs of these numbers; returns the tokens that were laid out."""
    batch = trainer.data_collator([trainer.train_dataset[number] for number in numbers])
    tokens = batch["input_ids"].numel()
    trainer.training_step(trainer.model, batch)
    torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), 1.0)
    trainer.optimizer.step()
    trainer.optimizer.zero_grad()
    return tokens


def resident(field: str) -> float:
    """A figure of this process's memory, in MiB: `VmRSS` now, or its high-water mark `VmHWM`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def timed(work: Callable[[], int]) -> dict[str, float]:
    """Tokens, CPU and wall seconds of one piece of work."""
    cpu, wall = time.process_time(), time.perf_counter()
    tokens = work()
    return {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall, "tokens": tokens}


def peak_memory(work: Callable[[], int]) -> float:
    """MiB that a piece of work needs above what was resident before it."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    work()
    return resident("VmHWM") - before


def product_rate(dtype: torch.dtype, size: int = 1536) -> float:
    """Floating-point operations of matrix products that this machine does in a second, at best; a few are timed."""
    one, other = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)

    def rate() -> float:
        cpu = time.process_time()
        torch.nn.functional.linear(one, other)
        return 2 * size**3 / (time.process_time() - cpu)

    return max(rate() for _ in range(5))


def operations_of_a_token() -> int:
    """
    Floating-point operations of the matrix products with weights, forward and backward, that every token needs: in the
    last layer those for keys and values.
    """
    *others, last = model().model.layers
    parts = [part for layer in others for part in layer.modules() if isinstance(part, torch.nn.Linear)]
    return 6 * sum(part.weight.numel() for part in (*parts, last.self_attn.k_proj, last.self_attn.v_proj))


def profiled(work: Callable[[], int]) -> dict[str, float]:
    """Parts of the CPU time of one piece of work, by the kind of operator."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        work()
    times = dict.fromkeys([*OPERATORS, "the rest"], 0.0)
    for event in profile.key_averages():
        kinds = (kind for kind, words in OPERATORS.items() if any(word in event.key for word in words))
        times[next(kinds, "the rest")] += event.self_cpu_time_total
    return {kind: part / sum(times.values()) for kind, part in times.items()}


def batches_of(rows: Dataset, pairs: int, count: int, seed: int = 42) -> Iterator[tuple[list[int], list[int]]]:
    """Batches of row numbers as a random sampler gives them, and the same rows grouped by length."""
    sampler = RandomSampler(rows, generator=torch.Generator().manual_seed(seed))
    drawn: list[int] = []
    while len(drawn) < pairs * count:
        drawn += list(sampler)
    drawn = drawn[: pairs * count]
    lengths = row_tokens(rows.select(drawn), "padded")
    grouped = [drawn[place] for place in LengthGroupedSampler(lengths, pairs, seed)]
    for start in range(0, len(drawn), pairs):
        yield drawn[start : start + pairs], grouped[start : start + pairs]


def each(
    how: Callable[[Callable[[], int]], Any], trainers: list[tuple[str, Any]], numbers: dict[str, list[int]]
) -> dict[str, Any]:
    """What is found of one step of every system."""
    found = {}
    for system, trainer in trainers:
        with getattr(trainer, "reward_forward", nullcontext)():
            found[system] = how(partial(step, trainer, numbers[system]))
    return found


def run(name: str, rows: Dataset, arguments: argparse.Namespace, output: Path) -> None:
    """Measure one cell, batch by batch, and write after each."""
    here = Path(__file__).parent
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=here)
    done = json.loads(output.read_text()) if output.is_file() else {"batches": []}
    done |= {
        "data": name,
        "pairs_per_batch": arguments.pairs,
        "dtype": arguments.dtype,
        "command": shlex.join(["python", "benchmarks/step_time.py", *(Path(word).name for word in sys.argv[1:])]),
        "commits": list(dict.fromkeys([*done.get("commits", []), commit.stdout.strip()])),
        "versions": {library.__name__: library.__version__ for library in (torch, transformers, trl)},
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "operations_of_a_token": operations_of_a_token(),
    }
    with tempfile.TemporaryDirectory() as folder:
        trainers = {
            system: trainer_for(system, rows, arguments.dtype == "bfloat16", folder) for system in arguments.systems
        }
        for number, (drawn, grouped) in enumerate(batches_of(rows, arguments.pairs, arguments.batches)):
            if number < len(done["batches"]):
                continue
            numbers = {system: grouped if system == "grouped" else drawn for system in trainers}
            in_turn = list(trainers.items())
            in_turn = in_turn[number % len(in_turn) :] + in_turn[: number % len(in_turn)]
            peaks = each(peak_memory, in_turn, numbers) if number % arguments.memory_every == 0 else {}
            found = each(timed, in_turn, numbers)
            rate = product_rate(getattr(torch, arguments.dtype))
            done["operations_a_second"] = max(rate, done.get("operations_a_second", 0))
            for system, peak in peaks.items():
                found[system]["peak_mib"] = peak
            if arguments.profile and "profile" not in done:
                done["profile"] = each(profiled, in_turn, numbers)
            done["batches"].append({system: found[system] for system in arguments.systems})
            output.write_text(json.dumps(done, indent=1) + "\n")
            times = ", ".join(f"{system} {found[system]['cpu_s']:.1f} s" for system in arguments.systems)
            print(f"{name}, {arguments.dtype}, batch {number + 1}: {times}", flush=True)


def summary(result: dict[str, Any]) -> list[dict[str, Any]]:
    """One row for each system: sums over all batches, and the quartiles of the ratio to TRL batch by batch."""
    batches = result["batches"]
    total = {s: {k: sum(b[s][k] for b in batches) for k in ("cpu_s", "tokens")} for s in batches[0]}
    peaks = {system: [b[system]["peak_mib"] for b in batches if "peak_mib" in b[system]] for system in batches[0]}
    bound = None
    if "operations_a_second" in result and "shared_prompt" in total:
        needed = total["shared_prompt"]["tokens"] * result["operations_of_a_token"]
        bound = needed / result["operations_a_second"]
    table = []
    for system in batches[0]:
        ratios = [b["trl"]["cpu_s"] / b[system]["cpu_s"] for b in batches]
        spread = quantiles(ratios, n=4) if len(ratios) > 1 else [ratios[0]] * 3
        table.append(
            {
                "system": system,
                "pairs per CPU second": result["pairs_per_batch"] * len(batches) / total[system]["cpu_s"],
                "tokens per pair": total[system]["tokens"] / (result["pairs_per_batch"] * len(batches)),
                "speed to TRL": total["trl"]["cpu_s"] / total[system]["cpu_s"],
                "median": median(ratios),
                "quartiles": f"{spread[0]:.2f} to {spread[2]:.2f}",
                "tokens to TRL": total["trl"]["tokens"] / total[system]["tokens"],
                "part of the bound": bound and bound / total[system]["cpu_s"],
                "speed to grouped": total["grouped"]["cpu_s"] / total[system]["cpu_s"] if "grouped" in total else None,
                "peak MiB": mean(peaks[system]),
                "peak to TRL": sum(peaks[system]) / sum(peaks["trl"]),
            }
        )
    return table


def show(files: list[Path], chart: Path | None) -> None:
    """Tables as Markdown, and a bar chart of the speed of every system relative to TRL."""
    results = [json.loads(file.read_text()) for file in files]
    for result in results:
        cell = (result["data"], f"{result['pairs_per_batch']} pairs", result["dtype"])
        print("", f"{', '.join(cell)}, {len(result['batches'])} batches", "", sep="\n")
        rows = summary(result)
        print("| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0]))
        for row in rows:
            print("| " + " | ".join(f"{v:.2f}" if isinstance(v, float) else str(v) for v in row.values()) + " |")
        for system, parts in result.get("profile", {}).items():
            print(f"\none step of {system}:", ", ".join(f"{kind} {part:.1%}" for kind, part in parts.items()))
    if chart is not None:
        draw(results, chart)


def draw(results: list[dict[str, Any]], chart: Path) -> None:
    """Bars side by side, one group for each result."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.2 + 1.9 * len(results), 4.2), layout="constrained")
    axes = figure.subplots()
    systems = [system for system in SYSTEMS if all(system in result["batches"][0] for result in results)]
    for place, system in enumerate(systems):
        speeds = [next(r["speed to TRL"] for r in summary(result) if r["system"] == system) for result in results]
        left = [group + (place - len(systems) / 2 + 0.5) * 0.8 / len(systems) for group in range(len(results))]
        bars = axes.bar(left, speeds, 0.75 / len(systems), label=system.replace("_", " "))
        axes.bar_label(bars, [f"{speed:.1f}" for speed in speeds], fontsize=7)
    labels = [f"{r['data'].replace('_', ' ')}\n{r['dtype']}, {r['pairs_per_batch']} pairs" for r in results]
    axes.set_xticks(range(len(results)), labels, fontsize=8)
    axes.axhline(1, color="gray", linewidth=0.8)
    axes.set_ylabel("speed, TRL without checkpointing = 1")
    axes.set_title("Whole training steps, CPU time, one thread")
    axes.legend(fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(chart, dpi=150)


def main() -> None:
    """Measure, or show what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="a file of pairs; without it, generated ones")
    parser.add_argument("--lengths", nargs="+", choices=LENGTHS, default=["hh_like", "instruction_like"])
    parser.add_argument("--pairs", type=int, default=16, help="pairs of a batch")
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="bfloat16: autocast")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--memory_every", type=int, default=4, help="batches of which one is measured for its memory")
    parser.add_argument("--profile", action="store_true", help="also tell where the time of one step goes")
    parser.add_argument("--output", type=Path, default=Path("step_time.json"), help="one file for each distribution")
    parser.add_argument("--show", nargs="+", type=Path, help="show these results and measure nothing")
    parser.add_argument("--chart", type=Path, help="where the bar chart is drawn")
    arguments = parser.parse_args()
    if arguments.show:
        show(arguments.show, arguments.chart)
        return
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    if arguments.data:
        cells = {Path(arguments.data).name.split(".")[0]: (from_file(arguments.data), arguments.output)}
    else:
        cells = {
            name: (generated(name, 2000), arguments.output.with_stem(f"{arguments.output.stem}_{name}"))
            for name in arguments.lengths
        }
    for name, (rows, output) in cells.items():
        run(name, as_dataset(rows), arguments, output)
    show([output for _, output in cells.values()], arguments.chart)


if __name__ == "__main__":
    main()
