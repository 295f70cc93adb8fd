"""Requests to an ASGI app."""
