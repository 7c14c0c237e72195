"""The verbs that render: `render`, `submit`, `continue`, `nightly` and `demo`, and their flags."""
