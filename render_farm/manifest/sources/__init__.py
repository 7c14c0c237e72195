"""Jobs as people write them: CSV, JSON lines, JSON, YAML, or a plain list of prompts. `read.py` is the way in."""
