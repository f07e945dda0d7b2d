"""Sampling completions: receives a model, knows nothing of training."""
