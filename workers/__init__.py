"""The processes: what `streamer …` starts."""
