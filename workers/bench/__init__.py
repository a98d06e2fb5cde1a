"""`streamer bench`: loads a gateway and a Redis, verifies every update at every client, and tells what it cost."""
