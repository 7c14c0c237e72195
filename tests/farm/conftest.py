"""Ray gives its workers a low priority, which a busy machine turns into minutes; these tests have time-outs."""

import os

os.environ.setdefault("RAY_worker_niceness", "0")
