"""Thin, typed doors to Linux: processes, channels, shared memory, sockets, systemd. No policy lives here."""
