"""Data: sources, splits, augmentation, and the pipeline whose order is a function of the seed."""
