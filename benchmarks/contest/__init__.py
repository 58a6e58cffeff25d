"""Sides of a contest, each a process of its own, which take turns in one run."""
