"""One HTTP/1.1 connection: its head and body as they come in, its answer as it goes out."""
