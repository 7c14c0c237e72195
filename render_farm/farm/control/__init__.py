"""Requests to a run, such as pause, cancel, retry and gc.

Used by the command line and by the coordinator. Free of Ray."""
