"""The conditioning stage: what a job gives besides noise.

Prompts to text states, input pictures and videos to latents and image states."""
