"""`streamer gateway`: one process that serves, or several on one port and their supervisor."""
