"""A hook that is a function of Python, in its own process: `python -m ... MODULE:FUNCTION VIDEO JOB_JSON`.

The function gets the video's path, the content of `job.json` and the folder for its files. It returns None, one line of
an answer or several (see `film_hook.py`). What it prints goes to stderr.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path


def main() -> None:
    """Call the function and print its answer."""
    name, video, job = sys.argv[1:]
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        module, _, function = name.partition(":")
        answer = getattr(importlib.import_module(module), function)(
            Path(video), json.loads(Path(job).read_text()), Path.cwd()
        )
        lines = [answer] if isinstance(answer, str) else list(answer or ())
        answers.write("\n".join(map(str, lines)))


if __name__ == "__main__":
    main()
