"""Many trainings of one question: cross-validation, search, ranking, and the trials they share."""
