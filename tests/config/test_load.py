"""From file and flags to settings: what wins, and that every mistake is named where it stands."""

from __future__ import annotations

import ast
import itertools
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.config.load import Source, app_settings, assemble, load, supervisor_settings
from supervisor.config.option import Option
from supervisor.config.options import OPTIONS, of_section
from supervisor.config.settings import AppSettings, ControlGroup, Settings, SupervisorSettings
from supervisor.errors import SettingsError, UsageError, UserError

FILE = "shop.toml"
WEB = '[app.web]\napp = "shop:app"\n'

# For every option: a right value in TOML, what it becomes, a wrong value in TOML, and what the message must say.
CASES: dict[str, tuple[str, object, str, str]] = {
    "app": ('"shop.web:make()"', "shop.web:make()", '"shop.web"', "module:attribute or module:factory()"),
    "bind": ('["[::]:80", "unix:/a"]', ("[::]:80", "unix:/a"), '["80"]', "host:port"),
    "backlog": ("128", 128, "0", "1 to 65535"),
    "defer_accept": ("5", 5.0, "-1", "seconds"),
    "unix_mode": ('"0660"', 0o660, '"rw"', 'in quotes, such as "0660"'),
    "unix_owner": ('"root:www-data"', "root:www-data", '"a b"', "user:group"),
    "interface": ('"wsgi"', "wsgi", '"cgi"', "asgi or wsgi"),
    "chdir": ('"/srv/shop"', "/srv/shop", '""', "a path"),
    "python": ('".venv/bin/python"', ".venv/bin/python", '""', "a path"),
    "env": ('{ A = "1" }', {"A": "1"}, "{ A = 1 }", "a string for A"),
    "stop_delay": ('"10s"', 10.0, "-1", "seconds"),
    "user": ('"www-data"', "www-data", '"a b"', "a name or a number"),
    "group": ("33", "33", '":33"', "a name or a number"),
    "no_new_privs": ("false", False, '"perhaps"', "on or off"),
    "umask": ('"027"', 0o027, "27", "permissions in octal"),
    "oom_score_adj": ("500", 500, "-1", "0 to 1000"),
    "env_file": ('"/etc/shop.env"', "/etc/shop.env", '""', "a path"),
    "credentials": ('{ A = "db" }', {"A": "db"}, '{ A = "../shadow" }', "names of credentials"),
    "certfile": ('"/etc/c.pem"', "/etc/c.pem", '""', "a path"),
    "keyfile": ('"/etc/k.pem"', "/etc/k.pem", '""', "a path"),
    "keyfile_password_file": ('"/etc/p"', "/etc/p", '""', "a path"),
    "ciphers": ('"ECDHE+AESGCM:!aNULL"', "ECDHE+AESGCM:!aNULL", '"AES GCM"', "an OpenSSL cipher list"),
    "ca_certs": ('"/etc/ca.pem"', "/etc/ca.pem", '""', "a path"),
    "cert_reqs": ('"required"', "required", '"always"', "none, optional or required"),
    "forwarded_allow_ips": ('"10.0.0.0/8, ::1"', ("10.0.0.0/8", "::1/128"), '"10.0.0.1/8"', "a network such as"),
    "proxy_protocol": ("true", True, "1", "on or off"),
    "root_path": ('"/api/"', "/api", '"api"', "begins with /"),
    "workers": ("4", 4, "0", "auto, 1 to 1024, or a range such as 2..8"),
    "threads": ("2", 2, '"two"', "1 to 1024"),
    "preload": ('"on"', "on", "true", "auto, on or off"),
    "ready_path": ('"/health"', "/health", '"health"', "begins with /"),
    "surge": ("2", 2, "0", "1 to 1024"),
    "bake": ('"500ms"', 0.5, '"soon"', "seconds, such as"),
    "canary_share": ('"5%"', 0.05, "1", "auto, or a share"),
    "keep_previous": ("false", False, "1", "on or off"),
    "before_roll": ('"shop.hooks:migrate"', "shop.hooks:migrate", '"./manage.py"', "module:function, such as"),
    "after_commit": ('"shop.hooks:told"', "shop.hooks:told", '""', "module:function"),
    "after_rollback": ('"shop.hooks:told"', "shop.hooks:told", '[""]', "a command such as"),
    "hook_timeout": ('"10m"', 600.0, "0", "seconds above 0"),
    "before_fork": ('"shop.hooks:ready"', "shop.hooks:ready", '["true"]', "module:function"),
    "after_fork": ('"shop.hooks:seed"', "shop.hooks:seed", '"seed"', "module:function"),
    "on_worker_start": ('"shop.hooks:begin"', "shop.hooks:begin", '"shop:make()"', "module:function"),
    "on_worker_exit": ('"shop.hooks:end"', "shop.hooks:end", "1", "module:function"),
    "boot_timeout": ('"5m"', 300.0, "0", "seconds above 0"),
    "drain_timeout": ("0", 0.0, "-1", "seconds"),
    "idle_linger": ("0.5", 0.5, "nan", "seconds"),
    "keepalive": ("5", 5.0, '"long"', "seconds"),
    "max_memory": ('"512M"', 512 * 1024**2, '"12Q"', "a size such as 512M or 2G, or a share"),
    "max_requests": ("1000", 1000, "-5", "a whole number of at least 1"),
    "max_age": ('"12h"', 43200.0, "-5", "seconds, such as"),
    "grow_after": ("2", 2.0, "0", "seconds above 0"),
    "shrink_after": ('"5m"', 300.0, "0", "seconds above 0"),
    "stall_warn": ("0", 0.0, "-1", "seconds"),
    "stall_timeout": ('"1m"', 60.0, '"long"', "seconds"),
    "request_warn": ("2.5", 2.5, "-1", "seconds"),
    "max_restarts": ("0", 0, "-1", "0 to 1024"),
    "max_inflight": ("10", 10, "0", "1 to 1000000"),
    "lag_limit": ('"100ms"', 0.1, "-1", "seconds"),
    "queue_timeout": ("2", 2.0, "-1", "seconds"),
    "exempt_paths": ('["/health", "/up"]', ("/health", "/up"), '["/a?b"]', "paths of the app that begin with /"),
    "limit_request_line": ("4094", 4094, '"16K"', "a size of 128 to 16383"),
    "limit_request_head": ('"32K"', 32 * 1024, '"65K"', "a size of 1K to 64K"),
    "limit_request_fields": ("50", 50, "101", "1 to 100"),
    "max_body": ('"10M"', 10 * 1024**2, '"all"', "a size such as 512M or 2G"),
    "first_byte_timeout": ("5", 5.0, "0", "seconds above 0"),
    "head_timeout": ('"500ms"', 0.5, "0", "seconds above 0"),
    "body_timeout": ('"1m"', 60.0, '"never"', "seconds above 0"),
    "send_timeout": ("10", 10.0, "-1", "seconds above 0"),
    "keepalive_requests": ("1000", 1000, "-1", "a whole number of at least 1"),
    "max_connections": ("1024", 1024, "0", "1 to 10000000"),
    "ws_max_size": ('"64K"', 64 * 1024, "124", "at least 125 bytes"),
    "ws_ping_interval": ("0", 0.0, "-1", "seconds"),
    "ws_ping_timeout": ("5", 5.0, "0", "seconds above 0"),
    "ws_deflate": ("false", False, "1", "on or off"),
    "access_log": ('"-"', "-", "false", "a path, - for stdout, or off"),
    "access_log_format": ('"%(h)s %({x-a}i)s"', "%(h)s %({x-a}i)s", '"%(h)s %(Z)s"', "%% for a percent sign"),
    "log_format": ('"json"', "json", '"xml"', "text or json"),
    "control": ('"/run/c.sock"', "/run/c.sock", f'"{"x" * 108}"', "1 to 107 bytes"),
    "control_group": ('"ops:full"', ControlGroup("ops", may_command=True), '"ops:all"', "GROUP:read or GROUP:full"),
    "pidfile": ('"/run/p"', "/run/p", "5", "a path"),
    "orphan_grace": ('"5m"', 300.0, "-1", "seconds"),
    "crash_dir": ('"/var/crashes"', "/var/crashes", "5", "a path"),
}


# What an option means nothing without.
BESIDES = dict.fromkeys(["keyfile", "keyfile_password_file", "ciphers", "ca_certs"], 'certfile = "c"\n') | {
    "cert_reqs": 'certfile = "c"\nca_certs = "a"\n'
}


def read(text: str, **source: Any) -> Settings:
    return load(Source(path=FILE, **source), text)


def complaint(text: str | bytes, **source: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        load(Source(path=FILE, **source), text)
    return str(caught.value)


def table_with(key: str, value: str) -> tuple[str, str]:
    """A file that sets one key, and how that key is named in messages."""
    if key in of_section("supervisor"):
        return f"{WEB}[supervisor]\n{key} = {value}\n", f"[supervisor] {key}"
    web = WEB + BESIDES.get(key, "")
    return (f"[app.web]\napp = {value}\n" if key == "app" else f"{web}{key} = {value}\n"), f"[app.web] {key}"


def record_of(settings: Settings, key: str) -> AppSettings | SupervisorSettings:
    return settings.supervisor if key in of_section("supervisor") else settings.apps[0]


def test_every_option_has_its_case() -> None:
    assert set(CASES) == {option.key for option in OPTIONS}


@pytest.mark.parametrize("key", CASES)
def test_a_right_setting_in_the_file_is_taken(key: str) -> None:
    right, expected, _wrong, _said = CASES[key]
    text, _name = table_with(key, right)
    assert getattr(record_of(read(text), key), key) == expected


@pytest.mark.parametrize("key", CASES)
def test_a_wrong_setting_in_the_file_names_file_key_and_what_was_expected(key: str) -> None:
    _right, _expected, wrong, said = CASES[key]
    text, name = table_with(key, wrong)
    line = complaint(text)
    assert line.startswith(f"{FILE}: {name}: ")
    assert any(part in line for part in said.split("|"))
    assert ", not " in line
    assert "\n" not in line


@pytest.mark.parametrize(
    "option", [option for option in OPTIONS if not option.repeatable], ids=lambda option: option.key
)
def test_a_flag_wins_over_the_file(option: Option) -> None:
    key = option.key
    right, expected, _wrong, _said = CASES[key]
    flag = right.strip('"')
    file_has = {"app": WEB, "workers": WEB + "workers = 7\n"}.get(key, WEB + BESIDES.get(key, ""))
    settings = read(file_has, app=flag) if key == "app" else read(file_has, flags={key: flag})
    assert getattr(record_of(settings, key), key) == expected


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.key)
def test_a_wrong_flag_is_named_by_its_flag(option: Option) -> None:
    key = option.key
    wrong: Any = {
        "bind": ["80"],
        "env": ["A"],
        "preload": "true",
        "pidfile": "",
        "crash_dir": "",
        "access_log": "",
    }.get(key)
    if wrong is None:
        written = CASES[key][2]
        wrong = ast.literal_eval(written) if written.startswith('"') else written
    source = Source(app=wrong) if key == "app" else Source(app="a:b", flags={key: wrong})
    with pytest.raises(SettingsError) as caught:
        load(source, None)
    assert str(caught.value).startswith(f"{option.flag}: ")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('keyfile = "k"', "keyfile: means nothing without certfile"),
        ('certfile = "c"\ncert_reqs = "optional"', "cert_reqs: means nothing without ca_certs"),
        ('ca_certs = "a"', "ca_certs: means nothing without certfile"),
    ],
)
def test_a_setting_that_lacks_the_one_it_belongs_to_is_refused(text: str, said: str) -> None:
    assert complaint(f"{WEB}{text}\n") == f"{FILE}: [app.web] {said}"
    assert read(f'{WEB}cert_reqs = "none"\n').apps[0].certfile is None


def test_without_a_file_app_makes_an_app_named_web() -> None:
    settings = load(Source(app="shop:app"), None)
    assert settings == Settings(apps=(AppSettings(name="web", app="shop:app"),))


def test_app_replaces_the_app_of_the_only_table() -> None:
    app = read('[app.shop]\napp = "old:app"\nworkers = 3\n', app="new:app").apps[0]
    assert (app.name, app.app, app.workers) == ("shop", "new:app", 3)


def test_app_may_stand_on_the_command_line_alone() -> None:
    assert read("[app.shop]\nworkers = 3\n", app="new:app").apps[0].app == "new:app"


def test_bind_flags_replace_the_files_and_env_flags_add_to_them() -> None:
    text = WEB + 'bind = ["a:1", "b:2"]\nenv = { A = "file", B = "file" }\n'
    app = read(text, flags={"bind": ["c:3"], "env": ["B=flag", "C=flag"]}).apps[0]
    assert app.bind == ("c:3",)
    assert app.env == {"A": "file", "B": "flag", "C": "flag"}


def test_several_apps_keep_their_order_and_their_own_settings() -> None:
    settings = read('[app.b]\napp = "b:app"\nbind = "x:1"\n[app.a]\napp = "a:app"\nbind = "x:2"\nworkers = 2\n')
    assert [(app.name, app.workers) for app in settings.apps] == [("b", None), ("a", 2)]


def test_flags_of_the_supervisor_fit_any_number_of_apps() -> None:
    text = '[app.b]\napp = "b:app"\nbind = "x:1"\n[app.a]\napp = "a:app"\nbind = "x:2"\n'
    assert read(text, flags={"pidfile": "/p", "log_format": "json"}).supervisor.pidfile == "/p"


@pytest.mark.parametrize(
    ("source", "named"),
    [({"app": "x:y"}, "APP"), ({"flags": {"workers": "2"}}, "--workers"), ({"flags": {"bind": ["x:1"]}}, "--bind")],
)
def test_flags_of_an_app_with_several_apps_are_refused_naming_both(source: dict[str, Any], named: str) -> None:
    text = '[app.b]\napp = "b:app"\n[app.a]\napp = "a:app"\nbind = "x:2"\n'
    with pytest.raises(UsageError) as caught:
        read(text, **source)
    assert str(caught.value).startswith(f"{named}: which app?")
    assert "[app.b], [app.a]" in str(caught.value)


def test_no_app_anywhere_tells_how_to_name_one() -> None:
    with pytest.raises(UsageError, match=r"no app: name one, such as holdfast run .*holdfast new"):
        load(Source(flags={"workers": "2"}), None)
    with pytest.raises(UsageError, match=r"no app: shop\.toml has no \[app\.NAME\] table"):
        read("[supervisor]\n")


def test_an_app_table_without_its_app_is_named() -> None:
    assert complaint("[app.web]\nworkers = 2\n").startswith(f"{FILE}: [app.web] app: missing: module:attribute")


def test_all_mistakes_are_told_at_once_a_line_each() -> None:
    text = '[app.web]\napp = "x"\nworkers = 0\n[app.all]\n[supervisor]\nlog_format = "xml"\n'
    lines = complaint(text, flags={"max_memory": "12Q"}).splitlines()
    assert len(lines) == 5
    for start in (
        f"{FILE}: [app.web] app: ",
        f"{FILE}: [app.web] workers: ",
        f"{FILE}: [app.all]: ",
        f"{FILE}: [supervisor] log_format: ",
        "--max-memory: a size such as 512M or 2G, or a share such as 80%, not '12Q'",
    ):
        assert sum(line.startswith(start) for line in lines) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (WEB + "worker = 2\n", "[app.web] worker: unknown; did you mean workers?"),
        (WEB + "ready-path = 2\n", "[app.web] ready-path: unknown; did you mean ready_path?"),
        (WEB + "zzzz = 2\n", "[app.web] zzzz: unknown; one of app, bind, "),
        (WEB + "pidfile = '/p'\n", "[app.web] pidfile: belongs in [supervisor]"),
        (WEB + "[supervisor]\nworkers = 2\n", "[supervisor] workers: belongs in the table of an app"),
        (WEB + "[supervisor]\ncontrl = '/p'\n", "[supervisor] contrl: unknown; did you mean control?"),
        (WEB + "[supervisr]\n", "[supervisr]: unknown; the tables are [supervisor] and [app.NAME]; did you mean [sup"),
        (WEB + "[apps.x]\n", "[apps]: unknown; the tables are [supervisor] and [app.NAME]; did you mean [app.web]?"),
        (WEB + "[program.x]\n", "[program]: unknown; the tables are [supervisor] and [app.NAME]"),
        ("workers = 2\n" + WEB, "workers: belongs in a table; write it below [app.web]"),
        ("pidfile = '/p'\n" + WEB, "pidfile: belongs in a table; write it below [supervisor]"),
        ("supervisor = 5\n" + WEB, "supervisor: a table: [supervisor]"),
        ("app = 'x:y'\n", "app: a table for each app, such as [app.web]"),
        ("[app]\nworkers = 2\n", "[app] workers: a setting belongs in the table of a named app"),
        ("[app.'a b']\n", "[app.'a b']: a name of 1 to 64 letters"),
        (WEB + '"two\\nlines" = 1\n', "[app.web] 'two\\nlines': unknown"),
    ],
)
def test_what_is_unknown_or_misplaced_is_named_with_its_place(text: str, said: str) -> None:
    line = complaint(text)
    assert said in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[app.web]\nworkers = 3x\n", "line 2, column 12: not valid TOML: "),
        ("[app.web\n", "not valid TOML: "),
        ("a = 1\na = 2\n", "line 2, column 6: not valid TOML: "),
        ("a = " + "[" * 100_000, "TOML"),
        ("a = " + "9" * 10_000, "not valid TOML"),
        (b"a = '\xff'", "byte 6: text in UTF-8"),
    ],
)
def test_a_file_that_is_not_toml_is_named_with_the_place(text: str | bytes, said: str) -> None:
    line = complaint(text)
    assert line.startswith(f"{FILE}: ")
    assert said in line
    assert "\n" not in line


def test_two_apps_cannot_listen_on_one_address() -> None:
    line = complaint('[app.a]\napp = "a:b"\nbind = "[::1]:80"\n[app.b]\napp = "a:b"\nbind = ["[0::1]:80"]\n')
    assert line == f"{FILE}: [app.b] bind: an address of its own, but [app.a] listens on [::1]:80 too"


def test_two_apps_cannot_both_listen_on_the_default() -> None:
    assert "127.0.0.1:8000" in complaint('[app.a]\napp = "a:b"\n[app.b]\napp = "a:b"\n')


def test_port_zero_is_another_port_for_each_app() -> None:
    assert len(read('[app.a]\napp = "a:b"\nbind = "x:0"\n[app.b]\napp = "a:b"\nbind = "x:0"\n').apps) == 2


def test_python_values_are_checked_by_the_same_table() -> None:
    app = app_settings("App", "web", {"app": "a:b", "max_memory": "1G", "bind": ["x:1"], "env": {"A": "1"}})
    assert (app.max_memory, app.bind, app.env) == (1024**3, ("x:1",), {"A": "1"})
    with pytest.raises(SettingsError) as caught:
        app_settings("App", "a b", {"worker": 2, "threads": 0})
    assert str(caught.value).splitlines() == [
        "App: worker: unknown; did you mean workers?",
        "App: threads: 1 to 1024, not 0",
        "App: name: a name of 1 to 64 letters, digits, - and _, not 'a b'",
        "App: app: missing: module:attribute or module:factory(), such as myproject.asgi:app",
    ]
    with pytest.raises(SettingsError, match=r"^Supervisor: log_format: text or json, not 'xml'$"):
        supervisor_settings("Supervisor", {"log_format": "xml"})


def test_two_apps_put_together_have_two_names() -> None:
    app = AppSettings(name="web", app="a:b", bind=("x:0",))
    with pytest.raises(SettingsError, match="a name that no other app has"):
        assemble("here", [app, app], SupervisorSettings())


def test_a_source_survives_the_way_to_the_master() -> None:
    source = Source(path="a.toml", app="a:b", flags={"workers": "2", "bind": ["x:1", "x:2"]})
    assert msgspec.json.decode(msgspec.json.encode(source), type=Source) == source
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(source), type=Source) == source


@given(st.text(max_size=200) | st.binary(max_size=200))
def test_any_file_ends_in_settings_or_in_a_users_mistake(text: str | bytes) -> None:
    with pytest.raises(UserError):
        load(Source(path=FILE), text)


KEYS = st.sampled_from([option.key for option in OPTIONS]) | st.text(max_size=8)
VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.lists(st.text(max_size=8))


@given(st.dictionaries(KEYS, VALUES))
def test_any_python_keywords_end_in_settings_or_in_one_line_a_mistake(keywords: dict[str, object]) -> None:
    try:
        settings = app_settings("App", "web", keywords)
    except SettingsError as error:
        lines = str(error).splitlines()
        wrong = itertools.chain(keywords, ["app"])
        assert 1 <= len(lines) <= len(set(wrong))
    else:
        assert settings.name == "web"
