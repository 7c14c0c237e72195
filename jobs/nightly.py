"""Renders a night's manifest: the entry point of a Ray Job, of cron and of a systemd timer.

python jobs/nightly.py 's3://bucket/manifests/{date}.parquet' --output 's3://bucket/films/{date}' --deadline 07:00
"""

from render_farm.cli.rendering.nightly import main

if __name__ == "__main__":
    main()
