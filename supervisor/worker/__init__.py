"""One worker process: event loop, admission, heartbeat, drain. It serves; the master decides."""
