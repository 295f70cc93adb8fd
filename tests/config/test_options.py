"""The table of options agrees with the settings records, and everything made from it with the table."""

from __future__ import annotations

import re

import msgspec
import pytest

from supervisor.config.option import Option
from supervisor.config.options import BY_KEY, OPTIONS, markdown, of_section
from supervisor.config.settings import AppSettings, SupervisorSettings


def test_every_field_of_the_settings_has_its_option_and_the_other_way_round() -> None:
    app_fields = {field.name for field in msgspec.structs.fields(AppSettings)} - {"name"}
    supervisor_fields = {field.name for field in msgspec.structs.fields(SupervisorSettings)}
    assert set(of_section("app")) == app_fields
    assert set(of_section("supervisor")) == supervisor_fields


def test_keys_and_flags_are_unique() -> None:
    assert len(BY_KEY) == len(OPTIONS)
    flags = [flag for option in OPTIONS for flag in option.flags]
    assert len(set(flags)) == len(flags)


@pytest.mark.parametrize("option", [option for option in OPTIONS if option.flags], ids=lambda option: option.key)
def test_the_long_flag_is_the_key_with_dashes(option: Option) -> None:
    assert option.flag == "--" + option.key.replace("_", "-")


@pytest.mark.parametrize("option", [option for option in OPTIONS if option.key != "app"], ids=lambda option: option.key)
def test_the_default_that_people_read_is_the_default_of_the_record(option: Option) -> None:
    record = AppSettings(name="web", app="a:b") if option.section == "app" else SupervisorSettings()
    value = getattr(record, option.key)
    if value is None or value in ({}, ()):
        words = (
            "none",
            "off",
            "auto",
            "told by itself",
            "working directory",
            "holdfast's own",
            "in the runtime directory",
            "beside the control socket",
        )
        assert option.default in words
    else:
        assert option.parse([option.default] if option.repeatable else option.default) == value


def test_the_markdown_table_has_a_row_for_each_option() -> None:
    lines = markdown().splitlines()
    assert len(lines) == len(OPTIONS) + 3
    for option in OPTIONS:
        named = re.compile(re.escape(option.flag) + r"(?![\w-])")
        assert sum(named.search(line.split(" | ")[0]) is not None for line in lines) == 1
    assert all(line.count("|") == 5 for line in lines)
