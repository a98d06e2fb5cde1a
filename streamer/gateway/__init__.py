"""The gateway: a port where anyone who may can watch, by WebSocket, by HTTP, or in a browser."""
