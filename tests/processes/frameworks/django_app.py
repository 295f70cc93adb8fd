"""The service in Django, as ASGI and as WSGI."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse, StreamingHttpResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

RELEASE = Path("release").read_text()
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["console"], "level": "WARNING"},
}


def mark(get_response: Callable[[HttpRequest], HttpResponseBase]) -> Callable[[HttpRequest], HttpResponseBase]:
    def middleware(request: HttpRequest) -> HttpResponseBase:
        response = get_response(request)
        response["x-pid"], response["x-release"] = str(os.getpid()), RELEASE
        return response

    return middleware


@csrf_exempt  # type: ignore[untyped-decorator]
def echo(request: HttpRequest) -> HttpResponse:
    return HttpResponse(request.body if request.method == "POST" else request.META["QUERY_STRING"])


def item(_request: HttpRequest, number: int) -> HttpResponse:
    return JsonResponse({"item": number, "greeting": "hello"})


def stream(request: HttpRequest) -> StreamingHttpResponse:
    def pieces() -> Iterator[bytes]:
        for number in range(1000):
            yield b"%03d," % number

    async def async_pieces() -> AsyncIterator[bytes]:
        for piece in pieces():
            yield piece

    is_asgi = hasattr(request, "scope")
    return StreamingHttpResponse(async_pieces() if is_asgi else pieces())


def error(_request: HttpRequest) -> HttpResponse:
    raise LookupError("no such luck")


urlpatterns = [
    path("echo", echo),
    path("items/<int:number>", item),
    path("stream", stream),
    path("error", error),
]

settings.configure(
    ALLOWED_HOSTS=["*"],
    DEBUG=False,
    LOGGING=LOGGING,
    MIDDLEWARE=[f"{__name__}.mark", "django.middleware.common.CommonMiddleware"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="tests",
)
django.setup()

asgi = get_asgi_application()
wsgi = get_wsgi_application()
