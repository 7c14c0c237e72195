"""Whether a model renders here as diffusers renders it: the first thing to run when weights arrive."""
