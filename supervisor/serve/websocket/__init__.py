"""WebSocket connections of ASGI apps."""
