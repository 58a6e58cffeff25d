"""Search for hyperparameters: one space, four methods, trials that survive what kills them."""
