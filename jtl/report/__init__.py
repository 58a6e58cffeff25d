"""What a finished run looks like: pages, figures and maps of what the network looked at."""
