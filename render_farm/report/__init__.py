"""A run on one page: its films, cost and time, and its failures with advice."""
