"""Parsers: what they take, what they refuse, and that what they expected is said."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.config import values
from supervisor.config.options import OPTIONS
from supervisor.kernel.address import Address, Fd, Systemd, Tcp, Unix, parse_address

JSON_LIKE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def refusal(parse: Callable[[Any], object], value: object) -> str | None:
    """What a parser says against `value`, or None when it takes it."""
    try:
        parse(value)
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (0, 0),
        (1048576, 1024**2),
        ("1048576", 1024**2),
        ("512M", 512 * 1024**2),
        ("512m", 512 * 1024**2),
        ("512MB", 512 * 1024**2),
        ("512MiB", 512 * 1024**2),
        ("2G", 2 * 1024**3),
        (" 2 G ", 2 * 1024**3),
        ("1.5G", 3 * 512 * 1024**2),
        ("64K", 65536),
        ("1T", 1024**4),
        ("10b", 10),
    ],
)
def test_a_size_is_read_in_powers_of_1024(text: object, size: int) -> None:
    assert values.parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["12Q", "", "M", "-1", -1, 1.5, True, None, "1e9", "0x10", "1 2", "99999999T", [1], "٣M"]
)
def test_what_is_no_size_is_refused_with_an_example(text: object) -> None:
    with pytest.raises(ValueError, match=r"^a size such as 512M or 2G, not "):
        values.parse_size(text)


def test_a_wrong_size_is_quoted_in_the_message() -> None:
    with pytest.raises(ValueError, match=r"^a size such as 512M or 2G, not '12Q'$"):
        values.parse_size("12Q")


@pytest.mark.parametrize(("text", "expected"), [(128, 128), ("16K", 16384), ("8K", 8192), (4094, 4094)])
def test_a_size_within_bounds_is_taken(text: object, expected: int) -> None:
    assert values.size(128, 16384)(text) == expected


@pytest.mark.parametrize("text", [127, "16385", "1M", 0])
def test_a_size_out_of_bounds_is_refused_with_the_bounds(text: object) -> None:
    with pytest.raises(ValueError, match=r"^a size of 128 to 16K, not "):
        values.size(128, 16384)(text)


@pytest.mark.parametrize(
    ("text", "share"), [("auto", None), (0.05, 0.05), ("0.05", 0.05), ("5%", 0.05), ("99.5 %", 0.995)]
)
def test_a_share_is_a_fraction_or_a_percentage(text: object, share: float | None) -> None:
    assert values.parse_share(text) == share


@pytest.mark.parametrize("wrong", [0, 1, "0%", "100%", -0.1, "half", "", True, None, "nan", [0.5]])
def test_nothing_everything_and_no_number_are_no_shares(wrong: object) -> None:
    said = refusal(values.parse_share, wrong)
    assert said is not None
    assert "auto, or a share between 0 and 1 such as 0.05 or 5%, not " in said


@pytest.mark.parametrize("parse", [values.parse_limit, values.parse_body_size])
def test_zero_lifts_a_limit(parse: Callable[[object], int | None]) -> None:
    assert parse("0") is None
    assert parse(0) is None
    assert parse("5000000") == 5_000_000


@pytest.mark.parametrize(
    ("text", "expected"),
    [(0, 0.0), (2, 2.0), (2.5, 2.5), ("2.5", 2.5), ("30s", 30.0), ("5m", 300.0), ("500ms", 0.5), ("1h", 3600.0)],
)
def test_a_time_is_read_in_seconds(text: object, expected: float) -> None:
    assert values.seconds()(text) == pytest.approx(expected)


@pytest.mark.parametrize(
    "text", [-1, "-1", math.inf, math.nan, "inf", "nan", "soon", "", True, None, [], 1e300, "5d", 10**400]
)
def test_what_is_no_time_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r"^seconds, such as 0, 2\.5, 30s or 5m, not "):
        values.seconds()(text)


@pytest.mark.parametrize("text", [0, "0", "0s", 0.0])
def test_a_time_that_must_pass_is_above_zero(text: object) -> None:
    with pytest.raises(ValueError, match="seconds above 0"):
        values.seconds(positive=True)(text)


@pytest.mark.parametrize(
    "text", ["app:app", "myproject.asgi:application", "shop.web:create_app()", "a:b.c", "größe.ü:ß", "_x:_y"]
)
def test_a_target_is_module_and_attribute_or_factory(text: str) -> None:
    assert values.parse_target(text) == text


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("app", "did you mean app:app?"),
        ("myproject.asgi", "did you mean myproject.asgi:app?"),
        ("app.py", "did you mean app:app?"),
        ("src/shop/web.py:application", "did you mean src.shop.web:application?"),
        ("./main.py", "did you mean main:app?"),
    ],
)
def test_a_near_miss_of_a_target_gets_a_hint(text: str, hint: str) -> None:
    with pytest.raises(ValueError, match="module:attribute") as caught:
        values.parse_target(text)
    assert str(caught.value).endswith(hint)


@pytest.mark.parametrize(
    "text", ["", ":", "a:", ":b", "a:b(1)", "a:b()()", "a b:c", "a:b;c", "1a:b", "a..b:c", 5, None]
)
def test_what_is_no_target_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="module:attribute or module:factory"):
        values.parse_target(text)


def test_binds_are_one_address_or_a_list_in_canonical_spelling() -> None:
    assert values.parse_binds("LOCALHOST:80") == ("localhost:80",)
    assert values.parse_binds(["127.0.0.1:8000", "[0::1]:8000"]) == ("127.0.0.1:8000", "[::1]:8000")


def test_an_address_stands_once_in_a_list() -> None:
    with pytest.raises(ValueError, match=r"\[::1\]:80 stands here twice"):
        values.parse_binds(["[::1]:80", "[0:0::1]:80"])


@pytest.mark.parametrize("value", [[], {}, 8000, None, ["a:1"] * 65, [8000], [["a:1"]]])
def test_what_is_no_list_of_addresses_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="address"):
        values.parse_binds(value)


def test_an_environment_is_a_table_or_pairs() -> None:
    assert values.parse_env({"A": "1", "_b": ""}) == {"A": "1", "_b": ""}
    assert values.parse_env(["A=1", "A=2", "B=x=y"]) == {"A": "2", "B": "x=y"}


@pytest.mark.parametrize("value", [{"A": 1}, {"A-B": "1"}, {"": "1"}, {"A": "x\0"}, ["A"], ["=1"], "A=1", 5, None, [5]])
def test_a_wrong_environment_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"not |such as"):
        values.parse_env(value)


@pytest.mark.parametrize("path", ["/", "/health", "/a/b?full=1&x=%20"])
def test_a_ready_path_is_a_path_of_the_app(path: str) -> None:
    assert values.parse_ready_path(path) == path


@pytest.mark.parametrize("path", ["health", "", "/a b", "/a\r\nX: y", "http://x/", "/ä", "/#top", 5, "/" * 3000])
def test_a_wrong_ready_path_is_refused(path: object) -> None:
    with pytest.raises(ValueError, match="begins with /"):
        values.parse_ready_path(path)


@pytest.mark.parametrize(("text", "mode"), [("0660", 0o660), ("600", 0o600), ("0o777", 0o777), ("000", 0)])
def test_a_mode_is_octal_text(text: str, mode: int) -> None:
    assert values.parse_mode(text) == mode


@pytest.mark.parametrize("mode", [660, 0o660, "0x1f", "8", "1777", "rw-rw----", "", "66", True])
def test_a_wrong_mode_is_refused(mode: object) -> None:
    with pytest.raises(ValueError, match=r'in quotes, such as "0660", not '):
        values.parse_mode(mode)


@pytest.mark.parametrize("owner", ["root:www-data", "root", ":web", "1000:1000", "svc_app$"])
def test_an_owner_is_user_and_group_or_one_of_them(owner: str) -> None:
    assert values.parse_owner(owner) == owner


@pytest.mark.parametrize("owner", ["", ":", "a b", "a:b:c", "a:", 1000, "-x", "a\n"])
def test_a_wrong_owner_is_refused(owner: object) -> None:
    with pytest.raises(ValueError, match="user:group, user or :group"):
        values.parse_owner(owner)


def test_a_socket_path_is_short_enough_for_the_kernel() -> None:
    assert values.parse_socket_path("/" + "x" * 106)
    with pytest.raises(ValueError, match="1 to 107 bytes"):
        values.parse_socket_path("/" + "x" * 107)
    with pytest.raises(ValueError, match="1 to 107 bytes"):
        values.parse_socket_path("/" + "ä" * 54)


@pytest.mark.parametrize("name", ["web", "a-b_C9", "9"])
def test_an_app_name_is_letters_digits_and_dashes(name: str) -> None:
    assert values.parse_app_name(name) == name


@pytest.mark.parametrize("name", ["", "all", "a.b", "a b", "ä", "x" * 65, "a:1", 5, None])
def test_a_wrong_app_name_is_refused(name: object) -> None:
    with pytest.raises(ValueError, match="a name"):
        values.parse_app_name(name)


@given(JSON_LIKE)
def test_every_parser_gives_a_value_or_says_what_it_expected_in_one_line(value: object) -> None:
    for option in OPTIONS:
        refused = refusal(option.parse, value)
        assert refused is None or (len(refused.splitlines()) == 1 and len(refused) < 400), option.key


@given(st.integers(0, values.MAX_COUNT))
def test_a_size_in_bytes_is_taken_as_it_is(size: int) -> None:
    assert values.parse_size(size) == size
    assert values.parse_size(str(size)) == size


@given(st.integers(1, 1023), st.sampled_from("KMGT"))
def test_a_unit_multiplies_exactly(number: int, unit: str) -> None:
    assert values.parse_size(f"{number}{unit}") == number * 1024 ** ("KMGT".index(unit) + 1)


@given(st.floats(0, values.MAX_SECONDS))
def test_a_time_given_as_a_number_is_taken_as_it_is(number: float) -> None:
    assert values.seconds()(number) == number


@given(
    st.builds(Tcp, st.ip_addresses(v=4).map(str) | st.ip_addresses(v=6).map(str), st.integers(0, 65535))
    | st.builds(Unix, st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=26))
    | st.builds(Fd, st.integers(0, 2**31 - 1))
    | st.builds(Systemd, st.text("abcXYZ019-_.", min_size=1, max_size=40))
)
def test_an_address_survives_being_written_and_read(address: Address) -> None:
    assert parse_address(str(address)) == address


@given(st.text())
def test_reading_any_text_as_an_address_ends_in_one_or_in_a_clear_refusal(text: str) -> None:
    refused = refusal(parse_address, text)
    if refused is None:
        assert parse_address(str(parse_address(text))) == parse_address(text)
    else:
        assert ", not " in refused


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:8000", Tcp("127.0.0.1", 8000)),
        ("localhost:0", Tcp("localhost", 0)),
        ("my-host.example.org:80", Tcp("my-host.example.org", 80)),
        ("[::]:443", Tcp("::", 443)),
        ("[fe80::1%eth0]:443", Tcp("fe80::1%eth0", 443)),
        ("unix:/run/a.sock", Unix("/run/a.sock")),
        ("unix:rel.sock", Unix("rel.sock")),
        ("fd://3", Fd(3)),
        ("systemd:web.socket", Systemd("web.socket")),
    ],
)
def test_each_kind_of_address_is_told_by_its_spelling(text: str, expected: Address) -> None:
    assert parse_address(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8000", "host:port"),
        (":8000", "0.0.0.0:8000 or [::]:8000 for every interface"),
        ("::1:8000", "brackets around an IPv6 address"),
        ("[::1]", "host:port"),
        ("[nine]:80", "an IPv6 address in the brackets"),
        ("localhost:65536", "a port from 0 to 65535"),
        ("localhost:http", "host:port"),
        ("999.1.1.1:80", "a host name or address"),
        ("a b:80", "a host name or address"),
        ("*:80", "a host name or address"),
        ("http://localhost:80", "brackets"),
        ("unix:", "unix:PATH"),
        ("unix:" + "x" * 108, "1 to 107 bytes"),
        ("fd://", "fd://N"),
        ("fd://-1", "fd://N"),
        ("fd://x", "fd://N"),
        ("fd://99999999999", "fd://N"),
        ("systemd:", "FileDescriptorName="),
        ("systemd:a:b", "FileDescriptorName="),
        ("", "host:port"),
    ],
)
def test_a_wrong_address_is_refused_with_what_was_expected(text: str, expected: str) -> None:
    with pytest.raises(ValueError, match=", not ") as caught:
        parse_address(text)
    assert expected in str(caught.value)


@pytest.mark.parametrize("words", [["true"], ["./manage.py", "migrate", ""], ("psql", "-c", "select 1; -- $HOME")])
def test_a_hook_may_be_a_command_whose_words_are_taken_as_they_are(words: object) -> None:
    assert values.parse_hook(words) == tuple(words)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "value", [[], [""], ["", "x"], ["a\0b"], ["a", 1], ["a"] * 257, ["a", "x" * 65536], {}, 1, None, b"true"]
)
def test_what_is_no_command_is_refused_with_an_example(value: object) -> None:
    with pytest.raises(ValueError, match="module:function or a command such as"):
        values.parse_hook(value)


def test_a_function_that_is_called_here_would_be_no_hook() -> None:
    assert values.parse_function("shop.hooks:Hooks.begin") == "shop.hooks:Hooks.begin"
    with pytest.raises(ValueError, match="module:function"):
        values.parse_function("shop.hooks:begin()")


@pytest.mark.parametrize(
    ("text", "peer"),
    [
        ("::ffff:10.0.0.1", "10.0.0.1/32"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::FFFF:0:0/96", "0.0.0.0/0"),
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("::1", "::1/128"),
        ("::/0", "::/0"),
        ("2001:db8::/32", "2001:db8::/32"),
    ],
)
def test_a_peer_that_ipv6_maps_from_ipv4_is_one_of_ipv4_as_its_connections_are(text: str, peer: str) -> None:
    assert values.parse_peers(text) == (peer,)


def test_a_network_wider_than_what_ipv6_maps_is_refused() -> None:
    assert "bits are set behind the network's" in (refusal(values.parse_peers, "::ffff:0:0/95") or "")
