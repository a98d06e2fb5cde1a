"""Durable outboxes: what a node's processes have accepted, on the disk until Redis has it."""
