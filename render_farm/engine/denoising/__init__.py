"""The denoising stage: one window of latent frames, from noise to clean latents.

The timestep loop, the UniPC sampler, the noise of a job, and which blocks a pass may skip or read from the cache."""
