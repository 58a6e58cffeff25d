"""The functional core: freezing, optimizers, losses, the pure step and its placement."""
