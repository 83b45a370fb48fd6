"""Predicting a pruned model's time: what each node of the runtime-optimised graph takes."""
