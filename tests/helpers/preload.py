"""Imported once by the server that the rank processes are forked from."""

import torch

import render_farm.engine  # noqa: F401
from render_farm.parallel.xfuser_modules import xfuser

torch.set_num_threads(1)
xfuser()
