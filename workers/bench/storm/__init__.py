"""`streamer bench storm`: everything fails again and again, and nothing may be lost or come twice."""
