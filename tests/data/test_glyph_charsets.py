"""Which characters a charset means."""

import pytest

from jaxvae.data.glyphs.charsets import gb2312_hanzi, parse_charset
from jaxvae.data.skipped import Skipped
from jaxvae.errors import UserError


def codepoints(charset):
    return [c for r in charset.ranges for c in r]


def test_names_and_ranges():
    assert parse_charset("ascii").ranges == (range(0x21, 0x7F),)
    assert parse_charset("latin").ranges == (range(0x21, 0x250),)
    every = parse_charset("all")
    assert 0 in every and 0x10FFFF in every and 0x110000 not in every
    mixed = parse_charset("U+4E00, U+0041-005A,u+4e01,U+61-U+63,U+0050-0060")
    assert mixed.ranges == (range(0x41, 0x64), range(0x4E00, 0x4E02))
    assert mixed.listed == {0x4E00, 0x4E01}
    for codepoint, inside in {0x40: 0, 0x41: 1, 0x63: 1, 0x64: 0, 0x4DFF: 0, 0x4E01: 1, 0x4E02: 0}.items():
        assert (codepoint in mixed) == inside


@pytest.mark.parametrize("text", ["ascii", "gb2312", "U+0041,U+0043-0050,U+1F600"])
def test_a_charset_written_out_means_the_same(text):
    charset = parse_charset(text)
    assert parse_charset(str(charset)).ranges == charset.ranges


def test_gb2312_is_its_two_levels_of_hanzi():
    hanzi = gb2312_hanzi()
    assert len(hanzi) == len(set(hanzi)) == 6763
    # Level 1 is ordered by sound, level 2 by radical.
    assert hanzi[0] == "啊" and hanzi[3754:3756] == "座亍" and hanzi[-1] == "齄"
    charset = parse_charset("gb2312")
    assert sorted(map(ord, hanzi)) == codepoints(charset) == sorted(charset.listed)


@pytest.mark.parametrize(
    ("text", "characters"),
    [
        ("永a\r\n b\t永", "ab永"),
        ("\ufeff一二", "一二"),
        ("一,二,三\n", "一三二"),  # a list
        ("a,b;c", ",;abc"),  # a text
        (",", ","),
        ("\U00020000\u3000", "\U00020000"),
    ],
)
def test_a_text_file_gives_its_characters(tmp_path, text, characters):
    file = tmp_path / "characters.txt"
    file.write_text(text, encoding="utf-8")
    charset = parse_charset(str(file))
    assert codepoints(charset) == sorted(map(ord, characters)) == sorted(charset.listed)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"", b" \n"])
def test_a_file_without_characters_is_refused(tmp_path, content):
    file = tmp_path / "characters.txt"
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"^--charset = '.*characters\.txt' .*: (name a text file|write those)"):
        parse_charset(str(file), "--charset")
    with pytest.raises(UserError, match=r"cannot be read as UTF-8 text"):
        parse_charset(str(tmp_path))


@pytest.mark.parametrize("charset", ["", "greek", "U+005A-0041", "U+110000", "U+0041,", "0041-005A", "nowhere.txt"])
def test_a_malformed_charset_says_what_works(charset):
    with pytest.raises(UserError, match=r"config\.data\.charset.*ascii, latin, all, gb2312.*U\+0041-005A.*text file"):
        parse_charset(charset)


def test_only_listed_characters_are_missed():
    skipped = Skipped()
    parse_charset("U+0041,U+0042,U+4E00-9FFF").report_missing({0x42}, skipped)
    assert skipped.summary() == ["1 character that no font has (U+0041)"]
