"""jtl's side as a process that is set up as the command line sets up its own."""

from jtl.cli.memory import keep_memory, run_where_called

AGAIN = "again"  # the variant that computes every stage again in the backward pass


def main() -> None:
    """Sets the allocator up before anything has a thread, and plays."""
    keep_memory()
    run_where_called()
    from benchmarks.contest.jtl_side import JtlSide
    from benchmarks.contest.serve import serve
    from jtl.training.garbage import rare_collections

    with rare_collections():
        serve(JtlSide)


if __name__ == "__main__":
    main()
