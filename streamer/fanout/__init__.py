"""From the log to those who watch: a feed per topic, a session per connection and topic, a hub for all."""
