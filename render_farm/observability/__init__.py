"""What is said of a run while it goes: events and metrics. No Ray; sinks are protocols."""
