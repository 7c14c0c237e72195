"""What is reported about a run while it renders: events and metrics. No Ray; sinks are protocols."""
