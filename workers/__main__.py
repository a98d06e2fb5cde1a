"""`python -m workers` is `streamer`."""

from workers.cli import main

main()
