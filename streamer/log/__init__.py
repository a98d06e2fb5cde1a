"""The log in Redis: appending, reading, subscribing. The lists are the truth; pub/sub is a hint that there is more."""
