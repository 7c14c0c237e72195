"""MP4 files, posters and film strips, and the images and videos that jobs start from. See README.md in this folder."""
