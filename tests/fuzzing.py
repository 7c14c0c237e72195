"""How many cases a fuzz test tries: few in `make test`, `$FUZZ_EXAMPLES` (10,000) in `make fuzz`."""

from __future__ import annotations

import os


def num_examples(default: int) -> int:
    return int(os.environ.get("FUZZ_EXAMPLES", default))
