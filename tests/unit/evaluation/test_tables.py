"""Tests of the terminal tables, as text of a given width."""

import io
import math

import pytest

from hf_reward.evaluation.pairs import ScoredPair
from hf_reward.evaluation.tables import data_table, metrics_table, pairs_table, print_table, shorten, visible


METRICS = {
    "eval_loss": 0.12345,
    "eval_accuracy": 0.9675,
    "eval_tie_rate": 0.005,
    "eval_reward_margin": 3.21,
    "eval_chosen_reward": 1.5,
    "eval_rejected_reward": -1.71,
    "eval_reward_std": 1.9,
    "eval_pairs": 200,
    "eval_runtime": 0.5,
}
TOKENS = {"prompt": {"mean": 20.13, "p50": 20, "p95": 28, "max": 3000}}
REPORT = {
    "train": {
        "rows": 2000,
        "kept": 1988,
        "dropped": {"identical": 2, "too_long": 10},
        "sources": {"train.jsonl": {"rows": 2000, "kept": 1988, "dropped": {"identical": 2, "too_long": 10}}},
        "tokens": TOKENS,
    },
    "eval": {
        "rows": 500,
        "kept": 500,
        "dropped": {},
        "sources": {"org/held_out": {"rows": 500, "kept": 500, "dropped": {}}},
    },
}


@pytest.fixture(autouse=True)
def no_forced_colour(monkeypatch):
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)


class Stream(io.StringIO):
    """A stream in memory that says it is UTF-8, as a file or a pipe does."""

    encoding = "utf-8"


def printed(renderable: object, width: int = 80) -> str:
    stream = Stream()
    print_table(renderable, file=stream, width=width)
    return stream.getvalue()


def test_metrics_table_in_full():
    assert printed(metrics_table(METRICS, "Held-out pairs")) == (
        "Held-out pairs\n"
        "\n"
        " measure                        value   counted\n"
        " ─────────────────────────────────────────────────────────\n"
        " pairs                            200\n"
        " accuracy (ties count half)    0.9675   193.5 of 200 pairs\n"
        " tie rate                      0.0050   1 of 200 pairs\n"
        " loss                          0.1235\n"
        " reward margin                 3.2100\n"
        " chosen reward (mean)          1.5000\n"
        " rejected reward (mean)       -1.7100\n"
        " reward standard deviation     1.9000\n"
        "\n"
    )


def test_metrics_without_prefix_or_count_show_what_there_is():
    lines = printed(metrics_table({"accuracy": 0.5, "loss": math.nan})).splitlines()
    assert [line.split() for line in lines[4:6]] == [
        ["accuracy", "(ties", "count", "half)", "0.5000"],
        ["loss", "nan"],
    ]


def test_data_table_in_full():
    assert printed(data_table(REPORT)) == (
        "Data\n"
        "\n"
        " split   source          rows    kept   dropped\n"
        " ───────────────────────────────────────────────────────────────\n"
        " train   train.jsonl    2,000   1,988   10 too long, 2 identical\n"
        " eval    org/held_out     500     500   none\n"
        "\n"
        "Token lengths\n"
        "\n"
        " split   part     mean   p50   p95     max\n"
        " ─────────────────────────────────────────\n"
        " train   prompt   20.1    20    28   3,000\n"
        "\n"
    )


def test_pairs_table_in_full():
    best = ScoredPair("Reply in capitals: fox", "FOX", "fox", 2.25, -1.0)
    worst = ScoredPair("", "who?", "who!", 0.5, 1.0)
    assert printed(pairs_table([best], [worst])) == (
        "Best and worst pairs\n"
        "\n"
        " pair           side       reward   text\n"
        " ──────────────────────────────────────────────────────────────────────────────\n"
        " best 1         prompt              Reply in capitals: fox\n"
        " right +3.250   chosen     +2.250   FOX\n"
        "                rejected   -1.000   fox\n"
        "\n"
        " worst 1        chosen     +0.500   who?\n"
        " wrong -0.500   rejected   +1.000   who!\n"
        "\n"
    )


def test_a_tie_is_called_a_tie():
    assert " tie +0.000 " in printed(pairs_table([ScoredPair("", "a", "b", 1.0, 1.0)], []))


@pytest.mark.parametrize("width", [80, 120])
def test_long_text_is_shortened_in_its_middle_to_two_lines_of_the_width(width):
    text = "beginning " + "word " * 500 + "ending"
    lines = printed(pairs_table([ScoredPair("", text, "b", 1.0, 0.0)], []), width).splitlines()
    chosen, second, rejected = lines[4:7]
    assert chosen.split()[4] == "beginning"
    assert second.split()[-1] == "ending"
    assert "..." in chosen + second
    assert rejected.split() == ["right", "+1.000", "rejected", "+0.000", "b"]
    assert width - 12 <= max(len(chosen), len(second)) <= width


@pytest.mark.parametrize("width", [80, 120])
def test_wide_characters_keep_to_the_width(width):
    from rich.cells import cell_len

    lines = printed(pairs_table([ScoredPair("", "你好" * 300, "b", 1.0, 0.0)], []), width).splitlines()
    assert width - 12 <= max(cell_len(line) for line in lines) <= width
    assert len(lines) == 8


def test_user_text_is_never_read_as_markup_or_emoji():
    text = "[bold red]x[/bold red] [/] :smile: [link=a]b"
    table = printed(pairs_table([ScoredPair("", text, "b", 1.0, 0.0)], []), 120)
    assert text in table
    assert printed(metrics_table({}, "[red]a[/red]")).startswith("[red]a[/red]\n")
    report = {"train": {"sources": {"[red]a[/red]": {"rows": 1, "kept": 1, "dropped": {"[b]": 1}}}}}
    assert " [red]a[/red] " in printed(data_table(report))


def test_control_characters_of_user_text_do_not_reach_the_terminal():
    table = printed(pairs_table([ScoredPair("", "a\x1b[31mb\x07\r\n\u202ec", "b", 1.0, 0.0)], []))
    assert "a\ufffd[31mb\ufffd \ufffdc" in table
    assert "\x1b" not in table


def test_no_colour_codes_outside_a_terminal_and_bold_inside_one():
    table = metrics_table(METRICS)
    assert "\x1b" not in printed(table)

    class Terminal(Stream):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    print_table(table, file=terminal, width=80)
    assert ("\x1b[1m" in terminal.getvalue()) is True


def test_a_stream_that_is_not_utf8_gets_plain_boxes_and_question_marks():
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii", newline="\n")
    print_table(pairs_table([ScoredPair("", "né", "b", 1.0, 0.0)], []), file=stream, width=80)
    stream.flush()
    text = raw.getvalue().decode("ascii")
    assert "| n?" in text
    assert len({len(line) for line in text.splitlines()[1:]}) == 1


def test_it_prints_to_the_standard_output(capsys):
    print_table(metrics_table({"accuracy": 1.0}), width=80)
    assert capsys.readouterr().out.startswith("Evaluation\n")


def test_shorten_keeps_both_ends_and_the_width():
    assert shorten("abcdefghij", 10) == "abcdefghij"
    assert shorten("abcdefghijk", 10) == "abc ... jk"


def test_visible_keeps_joiners_and_replaces_lone_surrogates():
    assert visible("می\u200cخواهم \ud800") == "می\u200cخواهم \ufffd"


def test_diagnostics_and_subsets_are_rows_of_the_metrics_table():
    metrics = METRICS | {
        "eval_calibration_error": 0.0512,
        "eval_length_correlation": -0.25,
        "eval_longer_wins": 0.5,
        "eval_accuracy_chosen_shorter": 0.9,
        "eval_pairs_chosen_shorter": 95,
        "eval_math_accuracy": 0.75,
        "eval_math_pairs": 4,
        "eval_undecided_pairs": 3,
    }
    lines = [" ".join(line.split()) for line in printed(metrics_table(metrics)).splitlines()]
    assert lines[12:17] == [
        "calibration error of sigmoid(margin) 0.0512",
        "correlation of reward and length -0.2500",
        'accuracy of "the longer wins" 0.5000 100 of 200 pairs',
        "accuracy where chosen is shorter 0.9000 85.5 of 95 pairs",
        "accuracy: math 0.7500 3 of 4 pairs",
    ]
    assert len(lines) == 18


def test_random_pairs_stand_below_the_best_and_the_worst_under_a_title_of_their_own():
    pair = ScoredPair("", "a", "b", 1.0, 0.0)
    table = printed(pairs_table([pair], [pair], [pair, pair], title="Step 3"))
    assert table.startswith("Step 3\n")
    kinds = [line.split()[:2] for line in table.splitlines() if " chosen " in line]
    assert kinds == [["best", "1"], ["worst", "1"], ["random", "1"], ["random", "2"]]
