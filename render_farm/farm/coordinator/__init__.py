"""The coordinator process: one Ray actor per cluster owns the runs and their workers.

It turns what happens into events for the scheduler, and the scheduler's actions into calls."""
