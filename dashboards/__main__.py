"""`python -m dashboards [--runbook URL]`: write the generated files."""

import argparse
from pathlib import Path

from dashboards.alerts import RUNBOOK
from dashboards.generate import generated

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write the dashboards, the alerts and their configuration.")
    parser.add_argument("--runbook", default=RUNBOOK, help="address of the runbook that alerts name")
    folder = Path(__file__).parent
    for name, text in generated(parser.parse_args().runbook).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
