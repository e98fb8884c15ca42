"""Data: rows of preference data to token ids, batches, and the account of what was dropped."""
