"""MP4 files, posters and film strips, and the images and videos that jobs start from. See README.md in this folder."""

from render_farm.media.inputs import load_image, load_video_tail, open_image, open_video_tail
from render_farm.media.mp4 import Mp4Writer, VideoInfo, probe_mp4, read_frames
from render_farm.media.poster import evenly_spaced_frames, film_strip, write_poster
from render_farm.uris import shown_uri

__all__ = [
    "Mp4Writer",
    "VideoInfo",
    "evenly_spaced_frames",
    "film_strip",
    "load_image",
    "load_video_tail",
    "open_image",
    "open_video_tail",
    "probe_mp4",
    "read_frames",
    "shown_uri",
    "write_poster",
]
