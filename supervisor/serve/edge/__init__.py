"""Who a client is, and what stands between it and HTTP: proxies, TLS."""
