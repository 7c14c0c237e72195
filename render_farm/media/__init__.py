"""MP4 files, posters and film strips. See README.md in this folder."""

from render_farm.media.mp4 import Mp4Writer, VideoInfo, probe_mp4, read_frames
from render_farm.media.poster import evenly_spaced_frames, film_strip, write_poster

__all__ = [
    "Mp4Writer",
    "VideoInfo",
    "evenly_spaced_frames",
    "film_strip",
    "probe_mp4",
    "read_frames",
    "write_poster",
]
