"""Environment files: read as systemd reads them, and never quoted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.config.envfile import parse_env_file


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", {}),
        ("A=1", {"A": "1"}),
        ("A=1\nB=2\n", {"A": "1", "B": "2"}),
        ("A=1\nA=2\n", {"A": "2"}),
        ("A=1\r\nB=2\r\n", {"A": "1", "B": "2"}),
        ("# one\n; two\n\n   \n  A = 1  \n", {"A": "1"}),
        ("A=\nB=x", {"A": "", "B": "x"}),
        ("A=a=b", {"A": "a=b"}),
        ("A=one two  three   ", {"A": "one two  three"}),
        ("A='one  \n two '", {"A": "one  \n two "}),
        ('A="a \\"b\\" \\$c \\n \\\\"', {"A": 'a "b" $c \\n \\'}),
        ("A=it's", {"A": "it's"}),
        ("A=\"a\"'b'c", {"A": "abc"}),
        ("A='x' \nB=1", {"A": "x", "B": "1"}),
        ("A='\\'", {"A": "\\"}),
        ("A=a\\ b\\\\c", {"A": "a b\\c"}),
        ("A=one\\\ntwo\nB=3", {"A": "onetwo", "B": "3"}),
        ('A="one\\\ntwo"', {"A": "onetwo"}),
        ("A=trailing\\ ", {"A": "trailing "}),
        ("A=1 # no comment", {"A": "1 # no comment"}),
        ("# ends with a backslash \\\nA=1", {"A": "1"}),
        ("A=$HOME ${B} `c`", {"A": "$HOME ${B} `c`"}),
        ("A=ü", {"A": "ü"}),
    ],
)
def test_a_file_is_read_as_systemd_reads_it(text: str, found: dict[str, str]) -> None:
    assert parse_env_file(text) == found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("A=1\nhunter2\n", "line 2: NAME=VALUE was expected, a name of letters, digits and _"),
        ("export A=hunter2", "line 1: NAME=VALUE was expected, a name of letters, digits and _"),
        ("1A=hunter2", "line 1: NAME=VALUE was expected, a name of letters, digits and _"),
        ("=hunter2", "line 1: NAME=VALUE was expected, a name of letters, digits and _"),
        ("A='x\ny'\nB='hunter2\n\n", "line 3: ends in the middle of a value"),
        ("A=1\nB=\\", "line 3: ends in the middle of a value"),
        ("A=1\nB=a\0b", "line 2: text was expected, not a NUL byte"),
        ("A=1\nB=a\\\0b", "line 2: text was expected, not a NUL byte"),
    ],
)
def test_what_systemd_would_skip_is_an_error_that_tells_the_line_and_not_what_stands_there(
    text: str, said: str
) -> None:
    with pytest.raises(ValueError, match="line") as caught:
        parse_env_file(text)
    assert str(caught.value) == said


NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
VALUES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)


@given(st.dictionaries(NAMES, VALUES, max_size=5))
def test_what_is_quoted_as_a_shell_would_comes_back_whole(variables: dict[str, str]) -> None:
    escaped = {name: "".join(f"\\{c}" if c in '"\\`$' else c for c in value) for name, value in variables.items()}
    assert parse_env_file("".join(f'{name}="{value}"\n' for name, value in escaped.items())) == variables


@given(st.text(max_size=200))
def test_anything_gives_variables_or_the_number_of_a_line(text: str) -> None:
    try:
        found = parse_env_file(text)
    except ValueError as error:
        number = int(str(error).split()[1].rstrip(":"))
        assert 1 <= number <= text.count("\n") + 2
    else:
        assert all(name.isidentifier() and "\0" not in value for name, value in found.items())
