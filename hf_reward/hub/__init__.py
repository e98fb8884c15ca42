"""Describe a trained reward model for the people who will use it."""
