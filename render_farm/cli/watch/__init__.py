"""The verbs that look at runs: `status`, `watch` and `logs`, and the notifications of a run."""
