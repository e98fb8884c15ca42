"""Model: checkpoint to backbone and score head, tokenizer, adapters; where a reward is read."""
