"""One script a question; each prints a table and writes one JSON into `benchmarks/results/`."""
