"""The table of faults in `docs/reliability.md` is complete, and each row names tests that exist."""

import ast
import re
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| (\d+) \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)


def rows() -> dict[str, list[str]]:
    """The tests of each fault, by its number."""
    text = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    return {number: re.findall(r"`([^`]+::[^`]+)`", tests) for number, _, _, tests in ROW.findall(text)}


def test_every_fault_has_a_row():
    assert list(rows()) == [str(number) for number in range(1, 66)]


@pytest.mark.parametrize("number", [str(number) for number in range(1, 66)])
def test_a_row_names_tests_that_exist(number: str):
    named = rows()[number]
    assert named, f"fault {number} names no test"
    for place in named:
        file, _, function = place.partition("::")
        tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
        functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert function in functions, place
