"""Quickstart: a preference task made by rule, a tiny model to learn it, and the recipe that joins them."""
