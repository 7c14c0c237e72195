"""`python -m dashboards`: write the generated files."""

from pathlib import Path

from dashboards.generate import generated

if __name__ == "__main__":
    folder = Path(__file__).parent
    for name, text in generated().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
