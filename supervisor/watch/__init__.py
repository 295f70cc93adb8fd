"""Verdicts on samples: which worker has to go, and why. Pure."""
