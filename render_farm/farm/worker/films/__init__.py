"""Films on one worker: segments in memory, decoding, previews, files, publishing.

Free of Ray.
"""
