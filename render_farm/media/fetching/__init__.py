"""Getting the bytes of inputs: local files, object stores and https, within the limits.

Says which addresses may be read, and what their errors mean.
"""
