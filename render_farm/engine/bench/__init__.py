"""`python -m render_farm.engine.bench`: the engine, and diffusers for comparison, at full size with random weights."""
