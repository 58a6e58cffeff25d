"""Scripts as people write them by hand, each in a process of its own, beside jtl's commands."""
