"""Whether a run that is killed and resumed ends with the bits of one that is not, shown here."""
