"""The access log, and what ties a request to it."""
