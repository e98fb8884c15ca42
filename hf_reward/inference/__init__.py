"""Inference: RewardScorer, the only other reader of rewards."""
