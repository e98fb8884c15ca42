"""The table of architectures in `docs/batch_layouts.md` is what its script finds."""

from pathlib import Path

import pytest

from benchmarks.layouts_by_architecture import table
from hf_reward.modeling.layout import EXACT_WINDOWS


@pytest.mark.slow
def test_the_table_of_the_docs_is_what_is_found() -> None:
    page = (Path(__file__).parents[2] / "docs" / "batch_layouts.md").read_text(encoding="utf-8")
    found = table()
    assert found in page, f"write it again with `python benchmarks/layouts_by_architecture.py`:\n{found}"
    exact = next(line for line in found.splitlines() if line.startswith("| shared_prompt"))
    assert set(exact.split("|")[2].strip().split(", ")) >= EXACT_WINDOWS
