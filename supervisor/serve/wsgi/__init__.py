"""Requests to a WSGI app."""
