"""The worker process: one Ray actor per GPU or CPU slot renders segments and publishes films.

Only actor.py and text_worker.py know Ray. Nothing here imports the coordinator or the driver."""
