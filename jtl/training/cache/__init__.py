"""Activations at the freeze boundary, computed once and trained from."""
