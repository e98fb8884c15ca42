"""Tests of the model card: the whole document, its metadata, its numbers, its snippets, and what it must never show."""
# ruff: noqa: E501 (the expected documents have the long lines of Markdown paragraphs)

import ast
import importlib
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from hf_reward.evaluation.pairs import ScoredPair
from hf_reward.hub.card import escape_markdown, render_card, write_card
from hf_reward.hub.facts import CardFacts


EVAL_METRICS = {
    "eval_loss": 0.123456789,
    "eval_accuracy": 0.9687500001,
    "eval_tie_rate": 0.0025,
    "eval_reward_margin": 3.25,
    "eval_chosen_reward": 1.5,
    "eval_rejected_reward": -1.75,
    "eval_reward_std": 1.875,
    "eval_pairs": 400,
    "eval_runtime": 0.25,
}
REPORT = {
    "train": {
        "rows": 3200,
        "kept": 3188,
        "dropped": {"identical": 2, "too_long": 10},
        "sources": {
            "train.jsonl": {"rows": 2000, "kept": 1988, "dropped": {"identical": 2, "too_long": 10}},
            "org/more_pairs": {"rows": 1200, "kept": 1200, "dropped": {}},
        },
        "tokens": {"prompt": {"mean": 20.1, "p50": 20, "p95": 28, "max": 3000}},
        "longer_is_chosen": 0.5025,
        "max_length": 1024,
    },
    "eval": {
        "rows": 400,
        "kept": 400,
        "dropped": {},
        "sources": {"held_out.jsonl": {"rows": 400, "kept": 400, "dropped": {}}},
        "tokens": {},
        "longer_is_chosen": 0.48,
    },
    "overlapping_prompts": 0,
}
FACTS = CardFacts(
    model_name="my_reward_model",
    hub_model_id="me/my_reward_model",
    base_model="org/base-1b",
    datasets=["local file `train.jsonl`", "org/more_pairs"],
    data_report=REPORT,
    eval_metrics=EVAL_METRICS,
    eval_split="test",
    train_metrics={
        "train_loss": 0.31256,
        "train_runtime": 16.24,
        "steps": 300,
        "num_pairs": 9600,
        "num_tokens": 412345,
    },
    hyperparameters={"learning_rate": 1e-3, "max_length": None, "bf16": True, "lr_scheduler_type": "cosine"},
    seed=1,
    hardware="1 process on CPU, 2 threads",
    dtype="float32",
    max_length=1024,
    reward_mean=-0.125,
    reward_std=1.875,
    reload_difference=1.2e-7,
    best=[ScoredPair("Say [it] | loud", "IT\nIS <b>LOUD</b>", "it `is` *quiet*", 2.25, -1.0, 0)],
    worst=[ScoredPair("", "who?", "who!", 0.5, 1.0, 1)],
    plots=["training.png", "rewards.png", "data.png"],
    versions={"torch": "2.13.0+cpu", "transformers": "5.23.0"},
    license="apache-2.0",
)

RICH = """\
---
base_model: org/base-1b
datasets:
- org/more_pairs
library_name: transformers
license: apache-2.0
pipeline_tag: text-classification
tags:
- reward-model
- reward-trainer
- hf_reward
model-index:
- name: my_reward_model
  results:
  - task:
      type: text-classification
      name: Preference between two completions
    dataset:
      name: local file held_out.jsonl
      type: local file held_out.jsonl
      split: test
    metrics:
    - type: accuracy
      value: 0.9687500001
      name: Accuracy (ties count half)
---

# my\\_reward\\_model

A reward model: it reads a prompt with a completion and returns one number, higher for better completions. It was trained from [org/base-1b](https://huggingface.co/org/base-1b) on preference pairs (local file `train.jsonl`, [org/more\\_pairs](https://huggingface.co/datasets/org/more_pairs)) with `hf_reward`.

Held-out accuracy: **0.9688** on 400 pairs (local file held\\_out.jsonl).

## How to score

A reward is one number for one conversation; a higher reward means a better answer. In `hf_reward`:

```python
from hf_reward import RewardScorer

scorer = RewardScorer.from_pretrained("me/my_reward_model")
messages = [{"role": "user", "content": "What is the capital of France?"}, {"role": "assistant", "content": "Paris."}]
rewards = scorer.score([messages])
```

In plain `transformers`:

```python
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("me/my_reward_model")
model = AutoModelForSequenceClassification.from_pretrained("me/my_reward_model", dtype=torch.float32).eval()

messages = [{"role": "user", "content": "What is the capital of France?"}, {"role": "assistant", "content": "Paris."}]
inputs = tokenizer.apply_chat_template(messages, return_dict=True, return_tensors="pt")
with torch.no_grad():
    reward = model(**inputs).logits[0, 0].item()
```

With a pipeline, after the lines above:

```python
from transformers import pipeline

classify = pipeline("text-classification", model="me/my_reward_model", dtype=torch.float32)
text = tokenizer.apply_chat_template(messages, tokenize=False)
reward = classify(text, add_special_tokens=False)[0]["score"]
```

**How the reward is read.** The saved chat template turns a conversation into token ids; the reward is the output of the score head at the last of these ids. Nothing is added after it. The score head computes in float32, and `dtype=torch.float32` gives the rewards in that precision. The largest difference between the rewards of training and those of this checkpoint loaded in float32 was 1.2e-07. The pipeline returns raw rewards, because `problem_type` in the configuration is `regression`.

The configuration carries `reward_mean` -0.1250 and `reward_std` 1.8750: `(reward - reward_mean) / reward_std` brings rewards to mean 0 and standard deviation 1.

## Results

| Measure | local file held\\_out.jsonl |
|---|---|
| Pairs | 400 |
| Accuracy (ties count half) | 0.9688 |
| Tie rate | 0.0025 |
| Loss | 0.1235 |
| Reward margin | 3.2500 |
| Chosen reward (mean) | 1.5000 |
| Rejected reward (mean) | -1.7500 |
| Reward standard deviation | 1.8750 |

Accuracy is the share of pairs whose chosen completion has the higher reward; a tie counts as one half. The rule "the longer completion wins" reaches 0.4800 on the same pairs.

![Loss, accuracy and reward margin over the optimizer steps](training.png)

![Rewards of the chosen and of the rejected completions](rewards.png)

![Token lengths of the pairs](data.png)

### Best and worst pairs

The pairs with the largest and the smallest margin (chosen minus rejected reward); long texts are shortened in their middle.

| Pair | Prompt | Chosen | Rejected | Chosen reward | Rejected reward | Model is |
|---|---|---|---|---|---|---|
| Best 1 | Say \\[it\\] \\| loud | IT<br>IS &lt;b&gt;LOUD&lt;/b&gt; | it \\`is\\` \\*quiet\\* | +2.250 | -1.000 | right |
| Worst 1 |  | who? | who! | +0.500 | +1.000 | wrong |

## Training data

| Split | Source | Rows | Kept | Dropped |
|---|---|---|---|---|
| train | local file `train.jsonl` | 2,000 | 1,988 | 10 too long, 2 identical |
| train | [org/more\\_pairs](https://huggingface.co/datasets/org/more_pairs) | 1,200 | 1,200 | none |
| eval | local file `held_out.jsonl` | 400 | 400 | none |

The longer completion is the chosen one in 50.2% of the training pairs.

Prompts that occur in training and in evaluation: 0.

| Split | Tokens of | Mean | Median | 95th percentile | Longest |
|---|---|---|---|---|---|
| train | prompt | 20.1 | 20 | 28 | 3,000 |

## Training procedure

The loss of a pair is `-log sigmoid(chosen reward - rejected reward)`, the negative log-likelihood of the Bradley-Terry model.

- Optimizer steps: 300
- Pairs seen: 9,600
- Tokens seen: 412,345
- Mean training loss: 0.3126
- Training time: 16.2 s
- Length limit: 1,024 tokens
- Seed: 1
- Weights in training: float32
- Hardware and mode: 1 process on CPU, 2 threads

Settings that differ from their defaults:

| Setting | Value |
|---|---|
| `learning_rate` | `0.001` |
| `max_length` | `null` |
| `bf16` | `true` |
| `lr_scheduler_type` | `cosine` |

## Limits

- Rewards are comparable only between completions of the same prompt; they have no unit and no fixed zero.
- Measured only on local file held\\_out.jsonl; on other prompts and completions the accuracy may be lower.
- The model repeats the preferences of its training data, with their mistakes and biases.

## Versions

| Library | Version |
|---|---|
| `torch` | `2.13.0+cpu` |
| `transformers` | `5.23.0` |

## Citation

```bibtex
@software{hf_reward,
  title = {hf_reward: training reward models from preference pairs},
  year = {2026},
}

@article{bradley1952rank,
  title = {Rank Analysis of Incomplete Block Designs: {I}. The Method of Paired Comparisons},
  author = {Bradley, Ralph Allan and Terry, Milton E.},
  journal = {Biometrika},
  volume = {39},
  number = {3/4},
  pages = {324--345},
  year = {1952},
  doi = {10.2307/2334029},
}
```
"""

MINIMAL = """\
---
library_name: transformers
pipeline_tag: text-classification
tags:
- reward-model
- reward-trainer
- hf_reward
---

# tiny

A reward model: it reads a prompt with a completion and returns one number, higher for better completions. It was trained from a model kept in a local folder on preference pairs with `hf_reward`.

## How to score

A reward is one number for one conversation; a higher reward means a better answer. In `hf_reward`:

```python
from hf_reward import RewardScorer

scorer = RewardScorer.from_pretrained("path/to/this/folder")
messages = [{"role": "user", "content": "What is the capital of France?"}, {"role": "assistant", "content": "Paris."}]
rewards = scorer.score([messages])
```

In plain `transformers`:

```python
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
model = AutoModelForSequenceClassification.from_pretrained("path/to/this/folder", dtype=torch.float32).eval()

messages = [{"role": "user", "content": "What is the capital of France?"}, {"role": "assistant", "content": "Paris."}]
inputs = tokenizer.apply_chat_template(messages, return_dict=True, return_tensors="pt")
with torch.no_grad():
    reward = model(**inputs).logits[0, 0].item()
```

With a pipeline, after the lines above:

```python
from transformers import pipeline

classify = pipeline("text-classification", model="path/to/this/folder", dtype=torch.float32)
text = tokenizer.apply_chat_template(messages, tokenize=False)
reward = classify(text, add_special_tokens=False)[0]["score"]
```

**How the reward is read.** The saved chat template turns a conversation into token ids; the reward is the output of the score head at the last of these ids. Nothing is added after it. The score head computes in float32, and `dtype=torch.float32` gives the rewards in that precision. The pipeline returns raw rewards, because `problem_type` in the configuration is `regression`.

## Results

No evaluation was run.

## Training data

Nothing was recorded about the training data.

## Training procedure

The loss of a pair is `-log sigmoid(chosen reward - rejected reward)`, the negative log-likelihood of the Bradley-Terry model.

## Limits

- Rewards are comparable only between completions of the same prompt; they have no unit and no fixed zero.
- Not measured on any held-out pairs.
- The model that training started from is not public, so that neither its data nor its license is known from this card.
- The model repeats the preferences of its training data, with their mistakes and biases.

## Citation

```bibtex
@software{hf_reward,
  title = {hf_reward: training reward models from preference pairs},
  year = {2026},
}

@article{bradley1952rank,
  title = {Rank Analysis of Incomplete Block Designs: {I}. The Method of Paired Comparisons},
  author = {Bradley, Ralph Allan and Terry, Milton E.},
  journal = {Biometrika},
  volume = {39},
  number = {3/4},
  pages = {324--345},
  year = {1952},
  doi = {10.2307/2334029},
}
```
"""


def section(card: str, heading: str) -> str:
    """The text under a heading of the second level, without the blank lines around it."""
    return re.search(rf"\n## {heading}\n(.*?)(?=\n## |\Z)", card, re.DOTALL)[1].strip()


def snippets(card: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", card, re.DOTALL)


VARIANTS = {
    "rich": FACTS,
    "minimal": CardFacts("tiny"),
    "adapter": replace(FACTS, is_adapter=True, adapter={"type": "LoRA", "r": 16, "use_dora": False}),
    "plain text": replace(FACTS, has_chat_template=False),
    "plain text adapter": replace(FACTS, has_chat_template=False, is_adapter=True),
    "encoder": replace(FACTS, is_encoder=True, has_chat_template=False),
    "no report": replace(FACTS, data_report={}),
    "nothing evaluated": replace(FACTS, eval_metrics={}, base_model=None),
}
every_variant = pytest.mark.parametrize("facts", VARIANTS.values(), ids=VARIANTS.keys())


def test_the_whole_card_with_every_fact():
    assert render_card(FACTS) == RICH


def test_the_whole_card_with_no_more_than_a_name():
    assert render_card(CardFacts("tiny")) == MINIMAL


@every_variant
def test_every_variant_is_tidy(facts):
    card = render_card(facts)
    assert re.search(r"\n\n\n", card) is None
    assert re.search(r"None|\bnan\b|Undefined|\{\{|\{%|[ \t]\n", card) is None
    assert card.endswith("}\n```\n")
    assert card == render_card(facts)


@every_variant
def test_every_snippet_is_code_whose_imports_exist(facts):
    blocks = snippets(render_card(facts))
    assert len(blocks) == 3
    for block in blocks:
        tree = ast.parse(block)
        compile(tree, "card", "exec")
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module)
                assert [hasattr(module, alias.name) for alias in node.names] == [True] * len(node.names)


def test_metadata_reads_back_as_given():
    data = ModelCard(render_card(FACTS)).data.to_dict()
    assert data == {
        "base_model": "org/base-1b",
        "datasets": ["org/more_pairs"],
        "library_name": "transformers",
        "license": "apache-2.0",
        "pipeline_tag": "text-classification",
        "tags": ["reward-model", "reward-trainer", "hf_reward"],
        "model-index": [
            {
                "name": "my_reward_model",
                "results": [
                    {
                        "task": {"type": "text-classification", "name": "Preference between two completions"},
                        "dataset": {
                            "name": "local file held_out.jsonl",
                            "type": "local file held_out.jsonl",
                            "split": "test",
                        },
                        "metrics": [{"type": "accuracy", "value": 0.9687500001, "name": "Accuracy (ties count half)"}],
                    }
                ],
            }
        ],
    }


def test_metadata_without_facts_holds_only_what_is_always_true():
    assert ModelCard(render_card(CardFacts("tiny"))).data.to_dict() == {
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "tags": ["reward-model", "reward-trainer", "hf_reward"],
    }


def test_metadata_of_an_adapter_names_peft():
    assert ModelCard(render_card(replace(FACTS, is_adapter=True))).data.library_name == "peft"


def test_numbers_of_the_results_are_those_of_the_evaluation_file(tmp_path):
    path = tmp_path / "eval_results.json"
    path.write_text(json.dumps(EVAL_METRICS))
    metrics = json.loads(path.read_text())
    card = render_card(replace(FACTS, eval_metrics=metrics))
    assert ModelCard(card).data.eval_results[0].metric_value == metrics["eval_accuracy"]
    values = [line.split("|")[2].strip() for line in section(card, "Results").splitlines()[2:10]]
    names = ("accuracy", "tie_rate", "loss", "reward_margin", "chosen_reward", "rejected_reward", "reward_std")
    assert values == [str(metrics["eval_pairs"]), *(f"{metrics[f'eval_{name}']:.4f}" for name in names)]


def test_several_evaluation_sets_have_a_column_and_a_result_each():
    metrics = {"eval_hard_accuracy": 0.5, "eval_hard_pairs": 10, "eval_easy_accuracy": 1.0, "eval_easy_loss": 0.25}
    card = render_card(replace(FACTS, eval_metrics=metrics))
    assert section(card, "Results").startswith(
        "| Measure | hard | easy |\n|---|---|---|\n| Pairs | 10 |  |\n| Accuracy (ties count half) | 0.5000 | 1.0000 |\n"
        "| Loss |  | 0.2500 |\n"
    )
    results = ModelCard(card).data.eval_results
    assert {(result.dataset_name, result.metric_value) for result in results} == {("hard", 0.5), ("easy", 1.0)}


def test_an_accuracy_that_is_not_finite_is_no_result():
    card = render_card(replace(FACTS, eval_metrics={"eval_accuracy": math.nan}))
    assert "model-index" not in card
    assert section(card, "Results").startswith("No evaluation was run.")


def test_an_adapter_says_so_and_lists_its_settings():
    card = render_card(VARIANTS["adapter"])
    assert "This repository holds an adapter with its score head; the base model is loaded from its own place." in card
    assert "\n- Adapter: type LoRA, r 16, use\\_dora false\n" in card
    assert "AutoPeftModelForSequenceClassification.from_pretrained(" in snippets(card)[1]


def test_a_merged_adapter_says_so():
    card = render_card(replace(FACTS, adapter={"r": 16}))
    assert "It was trained with an adapter, which is merged into these weights." in card


def test_random_weights_are_named_as_such():
    card = render_card(replace(FACTS, from_scratch=True))
    assert ModelCard(card).data.base_model is None
    assert "It was trained from random weights on preference pairs" in card
    assert "is not public" not in card


SECRET = "hf_" + "AbCdEfGh1234"
PATHS = ("/home/me/data/pairs.jsonl", "C:\\Users\\me\\pairs.jsonl", "~/me/pairs.jsonl", "file:///home/me/pairs.jsonl")


@pytest.mark.parametrize("path", PATHS)
def test_local_paths_never_appear(path):
    facts = CardFacts(
        model_name=path,
        hub_model_id=path,
        base_model=path,
        datasets=[path],
        data_report={
            "train": {"sources": {path: {"rows": 1, "kept": 1}}},
            "eval": {"sources": {path: {"rows": 1, "kept": 1}}},
        },
        eval_metrics={"eval_accuracy": 0.5},
        hyperparameters={"output_dir": path, "files": [path], "nested": {"file": path}, path: 1},
        hardware=f"run from {path}, on CPU",
        adapter={"base": path},
        plots=[path.replace("jsonl", "png")],
        versions={"torch": path},
        dtype=path,
        license=None,
    )
    card = render_card(facts)
    assert re.search(r"/home|Users|\bme\b|~/", card) is None
    assert "run from pairs.jsonl, on CPU" in card
    assert "preference pairs (local file `pairs.jsonl`) with" in card
    assert "base_model" not in card
    assert "from a model kept in a local folder" in card


def test_web_addresses_and_relative_names_are_not_taken_for_paths():
    values = {
        "url": "https://example.org/a/b",
        "modules": ".*\\.mlp\\..*",
        "rate": "1/2 and/or w/o",
        "name": "org/name",
    }
    card = render_card(replace(FACTS, hyperparameters=values))
    cells = [line.split(" | ")[1].removesuffix(" |") for line in section(card, "Training procedure").splitlines()[-4:]]
    assert cells == [f"`{value}`" for value in values.values()]


def test_secrets_never_appear():
    pair = ScoredPair(f"p {SECRET}", f"{SECRET} c", f"`{SECRET}`", 1.0, 0.0)
    facts = replace(
        FACTS,
        hyperparameters={"note": SECRET, "nested": [SECRET], "hub_token": "plain-secret", "api_key": "plain-secret"},
        hardware=SECRET,
        versions={"x": SECRET},
        best=[pair],
        datasets=[f"data {SECRET}"],
        model_name=SECRET,
    )
    card = render_card(facts)
    assert re.search(r"hf\\?_[A-Za-z0-9]{8,}|AbCdEfGh|plain-secret", card) is None
    assert "| Best 1 | p \\[secret removed\\] | \\[secret removed\\] c |" in card


def test_escaping_shows_text_as_it_is_in_a_table_cell():
    markdown = pytest.importorskip("markdown_it").MarkdownIt("commonmark").enable("table")
    text = "a|b <script>x</script> `c` *d* _e_ [f](g) ~~h~~ # i \\ & &amp; $j$\nnext | line"
    rendered = markdown.render(f"| text |\n|---|\n| {escape_markdown(text)} |\n")
    cells = re.findall(r"<td>(.*?)</td>", rendered, re.DOTALL)
    assert cells == [
        "a|b &lt;script&gt;x&lt;/script&gt; `c` *d* _e_ [f](g) ~~h~~ # i \\ &amp; &amp;amp; $j$<br>next | line"
    ]


def test_every_table_row_of_the_card_has_the_cells_of_its_header():
    markdown = pytest.importorskip("markdown_it").MarkdownIt("commonmark").enable("table")
    rendered = markdown.render(render_card(FACTS).split("---\n", 2)[2])
    tables = re.findall(r"<table>.*?</table>", rendered, re.DOTALL)
    shapes = [
        (table.count("<tr>"), table.count("<th>"), table.count("<td>"), table.count("<td></td>")) for table in tables
    ]
    # Rows (with the header), columns, cells, empty cells: only the worst pair has no prompt.
    assert shapes == [(9, 2, 16, 0), (3, 7, 14, 1), (4, 5, 15, 0), (2, 6, 6, 0), (5, 2, 8, 0), (3, 2, 4, 0)]


def test_lone_surrogates_and_control_characters_can_be_written(tmp_path):
    pair = ScoredPair("\ud800\x1b[2J", "c", "r", 1.0, 0.0)
    path = write_card(replace(FACTS, best=[pair], hardware="cpu \udfff", versions={"x": "1\udfff"}), tmp_path)
    assert "| Best 1 | \ufffd\ufffd\\[2J | c |" in path.read_text(encoding="utf-8")


def test_the_card_is_written_as_readme_and_read_by_the_library(tmp_path):
    folder = tmp_path / "new"
    path = write_card(FACTS, folder)
    assert path == folder / "README.md"
    assert path.read_bytes() == RICH.encode()
    assert str(ModelCard.load(path)) == RICH
    assert list(folder.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_older_card_and_no_other_file(tmp_path, monkeypatch):
    path = tmp_path / "README.md"
    path.write_text("older")

    def fail(source: Any, target: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_card(FACTS, tmp_path)
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [("README.md", "older")]


CHAT_TEMPLATE = "{{ bos_token }}{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}{{ eos_token }}{% endfor %}"


def save_tiny_model(folder: Path, chat: bool, adapter: bool) -> float:
    """Save a tiny reward model and return its reward for the conversation of the card, computed here by hand."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast

    specials = ["<pad>", "<s>", "</s>"]
    vocabulary = {token: i for i, token in enumerate(specials + sorted(pre_tokenizers.ByteLevel.alphabet()))}
    core = Tokenizer(models.BPE(vocabulary, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    # As in Llama: the tokenizer itself adds BOS, so that a reader who adds special tokens to a chat has it twice.
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token="<s>", eos_token="</s>", padding_side="right"
    )
    tokenizer.chat_template = CHAT_TEMPLATE if chat else None
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    config.num_labels, config.pad_token_id, config.problem_type = 1, 0, "regression"
    model = LlamaForSequenceClassification(config).eval()
    torch.nn.init.normal_(model.score.weight, std=5.0)
    text = (
        "user: What is the capital of France?</s>assistant: Paris.</s>"
        if chat
        else "What is the capital of France? Paris.</s>"
    )
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    if adapter:
        from peft import LoraConfig, get_peft_model

        model.config.problem_type = None
        model.save_pretrained(folder / "base")
        model.config.name_or_path = str(folder / "base")
        model = get_peft_model(
            LlamaForSequenceClassification.from_pretrained(folder / "base"),
            LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["q_proj"], init_lora_weights=False),
        ).eval()
        torch.nn.init.normal_(model.base_model.model.score.modules_to_save["default"].weight, std=5.0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    base = model.base_model.model if adapter else model
    with torch.no_grad():
        return base.score(base.model(input_ids=ids).last_hidden_state[:, -1]).item()


@pytest.mark.parametrize("adapter", [False, True], ids=["whole", "adapter"])
@pytest.mark.parametrize("chat", [True, False], ids=["chat", "plain"])
def test_the_snippets_give_the_reward_of_the_last_token(tmp_path, chat, adapter):
    expected = save_tiny_model(tmp_path, chat, adapter)
    card = render_card(replace(FACTS, hub_model_id=None, has_chat_template=chat, is_adapter=adapter))
    names: dict[str, Any] = {}
    rewards = []
    for block in snippets(card):
        exec(block.replace("path/to/this/folder", str(tmp_path)), names)
        rewards.append(names["reward"] if "reward" in names else names["rewards"][0])
    assert abs(expected) > 0.1
    assert rewards == pytest.approx([expected] * 3, abs=1e-5)
