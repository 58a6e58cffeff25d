"""The cleaner: what spoils a set of labelled images, found and ranked."""
