"""Metrics: sums and counts of what was seen, reduced over processes once and divided once."""

from hf_reward.metrics.preference import PreferenceSums


__all__ = ["PreferenceSums"]
