"""Metrics: sums and counts of what was seen, reduced over processes once and divided once."""

from hf_reward.metrics.diagnostics import diagnostics
from hf_reward.metrics.preference import PreferenceSums
from hf_reward.metrics.records import PairRecords


__all__ = ["PairRecords", "PreferenceSums", "diagnostics"]
