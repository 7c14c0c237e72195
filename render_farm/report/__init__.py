"""A run on one page: what was made, what it cost, where the time went, what failed and what to do."""
