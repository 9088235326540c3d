"""What messages show: the beginning of a value, and no password."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dqn_zoo.cli.arguments import command
from dqn_zoo.errors import UserError, short, without_password


@pytest.mark.parametrize(
    "address",
    [
        "mysql://ann:s3cret@db.example/x",
        "postgresql+psycopg2://ann:s3cret@db:5432/x?sslmode=require",
        "postgresql://ann:s3c/ret@s3cret@db/x",
        "redis://:s3cret@db",
        "postgresql://db/x?user=ann&password=s3cret",
    ],
)
def test_no_password_is_printed(address, capsys):
    @command
    def fails(_):
        raise UserError(f"the study in {address} cannot be opened: no '{address}'")

    assert "s3c" not in without_password(address)
    assert fails([]) == 2
    error = capsys.readouterr().err
    assert "s3c" not in error
    assert "***" in error
    assert "db" in error


def test_an_address_without_a_password_stays_as_it_is():
    for text in ("https://huggingface.co/ann/x", "sqlite:///x.db", "at 12:30 ann@example.com"):
        assert without_password(text) == text


@given(st.recursive(st.text() | st.integers(), st.lists, max_leaves=30))
def test_what_is_shown_of_a_value_is_short(value):
    assert len(short(value)) < 1_000
