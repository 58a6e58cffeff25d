"""Accelerators that are not at hand: their compilers, and what these say of a step."""
