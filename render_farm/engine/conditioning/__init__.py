"""The conditioning stage: the inputs of a job besides noise.

Prompts to text states, input pictures and videos to latents and image states."""
