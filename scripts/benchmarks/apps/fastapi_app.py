"""A small FastAPI app, for what an idle server takes in memory."""

from __future__ import annotations

from fastapi import FastAPI

app = FastAPI()


@app.get("/")
async def index() -> dict[str, str]:
    return {"message": "Hello, World!"}
