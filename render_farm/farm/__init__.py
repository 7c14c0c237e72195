"""The only package that knows Ray: the coordinator, the workers and the driver of a run."""
