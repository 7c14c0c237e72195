"""`python -m render_farm.cli` is `render-farm`."""

from render_farm.cli.main import main

main()
