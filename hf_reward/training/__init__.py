"""Training: RewardTrainer, and the story of a run."""
