"""How fast, and in how much memory, preference pairs are prepared: 10,000, 100,000 and 1,000,000 generated ones.

    python benchmarks/data_scale.py --rows 10000 100000 1000000 --output data_scale.json

Each size runs in a process of its own, with all checks and filters on. Memory is anonymous memory (RssAnon), sampled
and summed over the process and its workers; pages of mapped Arrow files are not in it. The rate is compared with the
bare tokenizer on the same rendered texts (both sides of the pairs; the prompts, tokenised here on top, are not among
them).
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any


WORDS = 4000
SENTENCES = 4000
BARE_PAIRS = 20_000


def sentences(seed: int = 0) -> list[str]:
    """Generated sentences of 4 to 12 generated words."""
    rng = random.Random(seed)
    words = ["".join(rng.choices("etaoinshrdlucmfwyp", k=rng.randint(2, 9))) for _ in range(WORDS)]
    return [" ".join(rng.choices(words, k=rng.randint(4, 12))).capitalize() + "." for _ in range(SENTENCES)]


def pairs(count: int) -> Iterator[dict[str, Any]]:
    """Pairs of one to three turns, about 1.5 % of them unusable: identical, empty, turned around, or repeated."""
    rng, stock = random.Random(1), sentences()

    def text(low: int, high: int) -> str:
        return f"{rng.randrange(10**9)} " + " ".join(rng.choices(stock, k=rng.randint(low, high)))

    before = None
    for number in range(count):
        prompt = [{"role": "user", "content": text(1, 3)}]
        for _ in range(rng.choice((0, 0, 1))):
            prompt += [{"role": "assistant", "content": text(1, 3)}, {"role": "user", "content": text(1, 3)}]
        chosen, rejected = text(1, 8), text(1, 8)
        if number % 200 == 1:
            rejected = chosen
        elif number % 200 == 2:
            rejected = ""
        row = {
            "prompt": prompt,
            "chosen": [{"role": "assistant", "content": chosen}],
            "rejected": [{"role": "assistant", "content": rejected}],
            "source_row": number + 1,
        }
        if number % 200 == 100 and before is not None:
            row |= {"prompt": before["prompt"], "chosen": before["rejected"], "rejected": before["chosen"]}
        before = row
        yield row


def make_tokenizer() -> Any:
    """A byte-level BPE tokenizer of 8,192 tokens, trained on the generated sentences."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from hf_reward.modeling.tokenizer import prepare_tokenizer

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<pad>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=8192, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(sentences(), trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<|im_end|>")
    prepare_tokenizer(tokenizer, chat_template_path="chatml")
    return tokenizer


def prepare(folder: Path, num_proc: int) -> dict[str, Any]:
    """Prepare the generated pairs as a run does; returns seconds and the counts."""
    from transformers import AutoTokenizer

    from hf_reward.data.filters import Filters
    from hf_reward.data.lengths import LengthLimits
    from hf_reward.data.loading import Source
    from hf_reward.data.preparation import prepare_split
    from hf_reward.data.reading import detect_reader
    from hf_reward.data.report import split_report
    from hf_reward.data.tokenization import RowRules

    dataset = load(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    source = Source("generated", dataset, "train", detect_reader(dataset, "generated"))
    wall, cpu = time.perf_counter(), cpu_seconds()
    rules = RowRules(LengthLimits(max_length=512))
    rows = prepare_split([source], tokenizer, "train", rules, Filters(), num_proc, folder / f"cache-{num_proc}")
    kept = rows.dataset()
    report = split_report(rows, 512)
    wall, cpu = time.perf_counter() - wall, cpu_seconds() - cpu
    dropped = {name: int(count) for name, count in report["dropped"].items()}
    return {"kept": len(kept), "dropped": dropped, "seconds": wall, "cpu_seconds": cpu}


def bare(folder: Path, num_proc: int) -> dict[str, Any]:
    """Tokenise the rendered texts of the first pairs and do nothing else; returns the pairs, and seconds."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    rows = load(folder)[:BARE_PAIRS]
    conversations = [
        [*prompt, *side]
        for prompt, *sides in zip(rows["prompt"], rows["chosen"], rows["rejected"], strict=True)
        for side in sides
    ]
    texts = tokenizer.apply_chat_template(conversations, tokenize=False)
    batches = [texts[start : start + 2000] for start in range(0, len(texts), 2000)]
    wall, cpu = time.perf_counter(), cpu_seconds()
    if num_proc == 1:
        for batch in batches:
            _tokens(tokenizer, batch)
    else:
        with get_context("fork").Pool(num_proc) as pool:
            pool.starmap(_tokens, [(tokenizer, batch) for batch in batches])
    wall, cpu = time.perf_counter() - wall, cpu_seconds() - cpu
    return {"pairs": len(rows["prompt"]), "seconds": wall, "cpu_seconds": cpu}


def _tokens(tokenizer: Any, texts: list[str]) -> int:
    return sum(map(len, tokenizer(texts, add_special_tokens=False)["input_ids"]))


def load(folder: Path) -> Any:
    """The generated pairs, mapped from disk."""
    from datasets import load_from_disk

    return load_from_disk(str(folder / "pairs"))


def generate(folder: Path, count: int) -> dict[str, Any]:
    """Write pairs and tokenizer into a folder."""
    from datasets import Dataset

    data = Dataset.from_generator(pairs, gen_kwargs={"count": count}, cache_dir=str(folder / "generated"))
    data.save_to_disk(str(folder / "pairs"))
    make_tokenizer().save_pretrained(folder / "tokenizer")
    return {}


def cpu_seconds() -> float:
    """CPU time of this process and of the children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def anonymous_memory(pid: int) -> int:
    """RssAnon of a process and all its descendants, in bytes."""
    total = 0
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        total = next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon")), 0)
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return total + sum(anonymous_memory(int(child)) for child in children)
    except OSError:  # it has ended in the meantime
        return total


def in_process(step: str, folder: Path, number: int) -> dict[str, Any]:
    """Run one step in a process of its own; adds the peak of its memory to what it returns."""
    command = [sys.executable, __file__, "--step", step, "--folder", str(folder), "--number", str(number)]
    # The tokenizer's own threads would use cores that are counted as one.
    environment = os.environ | {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    peak, ended = [0], threading.Event()

    def sample() -> None:
        while not ended.wait(0.02):
            peak[0] = max(peak[0], anonymous_memory(process.pid))

    sampler = threading.Thread(target=sample)
    sampler.start()
    output = process.communicate()[0]
    ended.set()
    sampler.join()
    if process.returncode:
        raise SystemExit(f"{step} failed with exit code {process.returncode}")
    return json.loads(output.splitlines()[-1]) | {"peak_bytes": peak[0]}


def measure(count: int, num_proc: int, parent: str | None) -> dict[str, Any]:
    """All steps for one number of pairs."""
    with tempfile.TemporaryDirectory(dir=parent) as name:
        folder = Path(name)
        in_process("generate", folder, count)
        alone = in_process("bare", folder, num_proc)
        whole = in_process("prepare", folder, num_proc)
        again = in_process("prepare", folder, num_proc)
    return {
        "pairs": count,
        "num_proc": num_proc,
        "kept": whole["kept"],
        "dropped": whole["dropped"],
        "pairs_per_second": count / whole["seconds"],
        "bare_pairs_per_second": alone["pairs"] / alone["seconds"],
        "share_of_bare_rate": count / whole["seconds"] * alone["seconds"] / alone["pairs"],
        "share_of_bare_rate_cpu": count / whole["cpu_seconds"] * alone["cpu_seconds"] / alone["pairs"],
        "seconds": whole["seconds"],
        "seconds_from_cache": again["seconds"],
        "peak_anonymous_mib": whole["peak_bytes"] / 2**20,
    }


def main() -> None:
    """Measure every size and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="numbers of pairs")
    parser.add_argument("--num_proc", type=int, default=1, help="worker processes (default: 1)")
    parser.add_argument("--output", help="a JSON file for the results")
    parser.add_argument("--folder", help="where temporary files go: some 4 GB for a million pairs")
    parser.add_argument("--step", choices=("generate", "bare", "prepare"), help=argparse.SUPPRESS)
    parser.add_argument("--number", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        step = {"generate": generate, "bare": bare, "prepare": prepare}[arguments.step]
        print(json.dumps(step(Path(arguments.folder), arguments.number)))
        return
    results = []
    print(
        f"{'pairs':>10} {'kept':>10} {'pairs/s':>9} {'bare':>9} {'of bare':>8} {'(CPU)':>6} {'cached s':>9} {'MiB':>7}"
    )
    for count in arguments.rows:
        found = measure(count, arguments.num_proc, arguments.folder)
        results.append(found)
        print(
            f"{count:>10,} {found['kept']:>10,} {found['pairs_per_second']:>9,.0f} "
            f"{found['bare_pairs_per_second']:>9,.0f} {found['share_of_bare_rate']:>8.2f} "
            f"{found['share_of_bare_rate_cpu']:>6.2f} {found['seconds_from_cache']:>9.2f} "
            f"{found['peak_anonymous_mib']:>7.0f}",
            flush=True,
        )
    if arguments.output:
        Path(arguments.output).write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
