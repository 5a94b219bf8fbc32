"""Paths as a user writes them: lists, blanks, the home folder, and what is missing by name."""

import re
from pathlib import Path

import pytest

from jaxvae.data.paths import existing_paths
from jaxvae.errors import UserError


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The working and the home folder, with some files."""
    for name in ("a.ttf", "b.ttf", "a, b.ttf", "fonts/c.ttf"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a.ttf", ["a.ttf"]),
        ("b.ttf,a.ttf", ["b.ttf", "a.ttf"]),
        (" a.ttf ,  fonts,b.ttf ", ["a.ttf", "fonts", "b.ttf"]),
        ("a, b.ttf", ["a, b.ttf"]),
        ("~/a.ttf", ["~/a.ttf"]),
        ("~/a, b.ttf", ["~/a, b.ttf"]),
        ("b.ttf, ~/fonts", ["b.ttf", "~/fonts"]),
        ("~", ["~"]),
    ],
)
def test_lists_blanks_and_home(here, text, names):
    assert existing_paths(text) == [Path(name.replace("~", str(here))) for name in names]


def test_a_list_may_be_longer_than_a_file_name_can_be(here):
    assert existing_paths(",".join(["a.ttf"] * 1000)) == [Path("a.ttf")] * 1000


@pytest.mark.parametrize(
    ("text", "which"),
    [("a.ttf,,b.ttf", "2 of 3"), ("a.ttf,", "2 of 2"), (",a.ttf", "1 of 2"), ("a.ttf, ", "2 of 2"), (" ", "1 of 1")],
)
def test_an_empty_entry_is_refused_by_its_place(here, text, which):
    with pytest.raises(UserError, match=f"^config.data.path = {text!r}: entry {which} is empty: write one comma"):
        existing_paths(text)


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("none.ttf", "'none.ttf':"),
        ("a.ttf, none.ttf ,b.ttf", "'none.ttf':"),
        ("a.ttf,data.npz", "'data.npz':"),
        # What the tilde stands for is shown; a user that there is not stays as written.
        ("~/none.ttf", "'~/none.ttf' ({home}/none.ttf):"),
        ("~nobody-of-this-name/a.ttf", "'~nobody-of-this-name/a.ttf':"),
        ("x" * 300, f"'{'x' * 300}':"),
        ("a.ttf\0", "'a.ttf\\x00':"),
    ],
)
def test_what_is_missing_is_named(here, text, missing):
    missing = re.escape(missing.format(home=here))
    with pytest.raises(UserError, match=f"^config.data.path: there is no file or folder {missing} name what exists"):
        existing_paths(text)
