"""The imperative shell around the engine: phases, the loop, checkpoints, evaluation, logs."""
