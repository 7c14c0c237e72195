"""`python -m render_farm.engine.bench`: the engine, and diffusers beside it, at full size with random weights."""
