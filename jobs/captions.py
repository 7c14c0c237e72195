"""A hook: captions of a film, the prompt of each segment, as `video.srt` beside the video.

    [hooks]
    on_film = "python3 /opt/render_farm/jobs/captions.py"

It needs nothing but Python. The file must be there on every machine that renders.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def captions(job: dict[str, Any]) -> str:
    """The captions in SubRip's format. `job` is the content of `job.json`. Equal prompts in a row are one caption."""
    starts = {0: 0, **{seam["segment"]: seam["frame"] for seam in job["seams"]}}
    shown: list[tuple[int, str]] = []
    for segment, prompt in enumerate(job["segment_prompts"]):
        text = " ".join(prompt.split())  # a blank line would end the caption
        if not shown or shown[-1][1] != text:
            shown.append((starts[segment], text))
    ends = [start for start, _ in shown[1:]] + [job["num_frames"]]
    fps = job["parameters"]["fps"]
    return "\n".join(
        f"{number}\n{_time(start / fps)} --> {_time(end / fps)}\n{text}\n"
        for number, ((start, text), end) in enumerate(zip(shown, ends, strict=True), start=1)
    )


def _time(seconds: float) -> str:
    minutes, milliseconds = divmod(round(seconds * 1000), 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{milliseconds // 1000:02d},{milliseconds % 1000:03d}"


if __name__ == "__main__":
    Path("video.srt").write_text(captions(json.loads(Path(sys.argv[2]).read_text())))
