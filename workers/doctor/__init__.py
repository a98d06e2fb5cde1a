"""`streamer doctor`: facts about a Redis are gathered, judged by pure tables, and shown."""
