"""The decoding stage: clean latents to pictures, one latent frame at a time.

A streaming decoder with the VAE's feature cache, its tiled form, and the video that a library caller gets."""
