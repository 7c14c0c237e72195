"""The transformer stage: SkyReels-V2 on ranges of latent frames.

Attention, rotary positions, kept keys and values, step caches, compilation. Nothing here samples or loads weights.
"""
