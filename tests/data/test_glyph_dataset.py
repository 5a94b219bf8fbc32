"""Prepared data sets: the same glyphs as from the fonts, whole or not at all, refused where settings differ."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from folders import contents, no_room_for_files_above
from glyph_fonts import build, draw
from tiny import ROOT

from jaxvae.data.glyphs import GlyphSource, load_glyphs
from jaxvae.data.glyphs.fonts import CUBIC_TOLERANCE_EM
from jaxvae.data.glyphs.prepare import prepare_glyphs
from jaxvae.errors import UserError

SETTINGS = dict(charset="U+0061-007A", max_len=24, overlaps="resolve", cubic_tolerance_em=CUBIC_TOLERANCE_EM)
WRITTEN = ("glyphs.json", "dataset_info.json", "features.json", "glyphs-glyphs.array_record-00000")
SQUARE = [(100, 0), (100, 700), (500, 700), (500, 0)]


def square(pen):
    draw(pen, SQUARE)


def cross(pen):
    draw(pen, [(0, 200), (0, 300), (600, 300), (600, 200)], [(200, 0), (200, 600), (300, 600), (300, 0)])


def bow(pen):
    pen.moveTo((0, 0))
    pen.curveTo((0, 400), (600, 400), (600, 0))
    pen.closePath()


def star(pen):
    draw(pen, [(i, i * i) for i in range(30)])


@pytest.fixture(scope="module")
def fonts(tmp_path_factory):
    """Squares, crosses that overlap, cubics, an outline of 34 tokens, an empty glyph, and a file that is no font."""
    folder = tmp_path_factory.mktemp("fonts")
    build(a=square, e=None, x=cross, z=star).save(folder / "Lines.ttf")
    names = {"familyName": "Curves Light", "typographicFamily": "Curves", "styleName": "Regular"}
    build(is_cff=True, names=names, a=bow, b=square).save(folder / "Curves.otf")
    (folder / "bad.ttf").write_bytes(b"no font")
    return folder


def prepare(fonts, out, overwrite=False, report=lambda line: None, **settings):
    return prepare_glyphs(out, str(fonts), **SETTINGS | settings, overwrite=overwrite, report=report)


@pytest.fixture(scope="module")
def prepared(fonts, tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared") / "set"
    prepare(fonts, out)
    return out


def load(path, **changes):
    settings = SETTINGS | changes
    return load_glyphs(str(path), settings.pop("charset"), settings.pop("max_len"), **settings)


def fingerprint(glyphs):
    return GlyphSource(glyphs, max_tokens=256, rsm=False).fingerprint


@pytest.mark.parametrize("changes", [{}, {"max_len": 10}, {"charset": "U+61-7A"}])
def test_a_data_set_gives_what_the_fonts_give(fonts, prepared, changes):
    direct, left_out = load(fonts, **changes)
    glyphs, skipped = load(prepared, **changes)
    assert fingerprint(glyphs) == fingerprint(direct)
    for ours, theirs in zip(glyphs, direct, strict=True):
        for name, value in vars(theirs).items():
            mine = getattr(ours, name)
            assert type(mine) is type(value), name
            assert np.asarray(mine).dtype == np.asarray(value).dtype, name
            assert np.asarray(mine).tobytes() == np.asarray(value).tobytes(), name
    assert {reason: sorted(names) for reason, names in skipped.names.items()} == {
        reason: sorted(names) for reason, names in left_out.names.items()
    }


def test_the_embedded_fonts_come_back_bit_for_bit(tmp_path):
    prepare("", tmp_path / "set", charset="U+0041-0048", max_len=64)
    direct, _ = load("", charset="U+0041-0048", max_len=64)
    glyphs, _ = load(tmp_path / "set", charset="U+0041-0048", max_len=64)
    assert len(glyphs) == 12 * 8 and fingerprint(glyphs) == fingerprint(direct)
    assert [glyph.family for glyph in glyphs] == [glyph.family for glyph in direct]


def test_the_record_says_how_the_glyphs_were_made(fonts, prepared):
    record = json.loads((prepared / "glyphs.json").read_text())
    assert {key: record[key] for key in SETTINGS} == SETTINGS
    assert (record["num_glyphs"], record["num_resolved"]) == (4, 1)
    assert [(Path(font["path"]).name, font["glyphs"], font["resolved"]) for font in record["fonts"]] == [
        ("Curves.otf", 2, 0),
        ("Lines.ttf", 2, 1),
    ]
    assert all(len(font["digest"]) == 32 for font in record["fonts"])
    assert [face["family"] for face in record["faces"]] == ["Curves", "Test"]
    assert {reason: len(names) for reason, names in record["skipped"].items()} == {
        "font unreadable": 1,
        "glyph without contours": 1,
        "glyph longer than 24 tokens": 1,
    }
    assert set(record["versions"]) == {"fonttools", "skia-pathops"}


def test_every_stage_is_one_line_without_a_terminal(fonts, tmp_path, capsys):
    lines = []
    prepare(fonts, tmp_path / "set", report=lines.append)
    assert lines[0] == "read 4 glyphs of 2 font files; 1 were redrawn, as their contours overlap"
    assert lines[-1].startswith(f"wrote {tmp_path / 'set'}: --config.data.path=")
    assert sum(line.startswith("left out: 1 ") for line in lines) == 3 == len(lines) - 2
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"charset": "ascii"}, "config.data.charset = 'ascii', 'U.0061-007A' there.*set --config.data.charset=U"),
        ({"overlaps": "keep"}, "config.data.overlaps = 'keep', 'resolve' there.*--config.data.overlaps=resolve"),
        ({"cubic_tolerance_em": 0.01}, "cubic_tolerance_em = 0.01, 0.001 there.*_em=0.001"),
        ({"max_len": 48}, "config.model.max_len = 48, 24 there.*set --config.model.max_len=24, or prepare"),
    ],
)
def test_other_settings_are_refused(prepared, changes, what):
    with pytest.raises(UserError, match=f"set was prepared with other settings .*{what}"):
        load(prepared, **changes)


def test_a_longer_limit_is_no_other_setting_where_nothing_was_too_long(fonts, tmp_path):
    prepare(fonts, tmp_path / "set", max_len=64)
    assert len(load(tmp_path / "set", max_len=100)[0]) == 5


@pytest.mark.parametrize(
    "file", ["glyphs.json", "dataset_info.json", "features.json", "glyphs-glyphs.array_record-00000"]
)
@pytest.mark.parametrize("damage", ["missing", "cut", "changed"])
def test_a_damaged_data_set_is_refused(prepared, tmp_path, file, damage):
    shutil.copytree(prepared, tmp_path / "set")
    path = tmp_path / "set" / file
    content = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        for i in range(len(content) // 4, len(content), 3):
            content[i] ^= 0x55
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"set is (damaged|a half-written data set): .*prepare it again"):
        load(tmp_path / "set")


def test_a_single_changed_number_is_found(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path / "set")
    path = tmp_path / "set" / "glyphs.json"
    record = json.loads(path.read_text())
    record["faces"][0]["family"] = "Other"
    path.write_text(json.dumps(record))
    with pytest.raises(UserError, match="its glyphs are not those that were written"):
        load(tmp_path / "set")


def test_a_data_set_stands_alone(fonts, prepared):
    with pytest.raises(UserError, match=r"names .*set and 1 other path: name one .npz or one prepared data set alone"):
        load(f"{fonts},{prepared}")


def test_what_exists_is_not_replaced_unasked(fonts, prepared, tmp_path):
    out = tmp_path / "set"
    shutil.copytree(prepared, out)
    before = contents(tmp_path)
    with pytest.raises(UserError, match=r"--out=.*set exists: choose another folder, or replace it with --overwrite"):
        prepare(fonts, out)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").touch()
    for foreign in (tmp_path / "mine", tmp_path / "mine" / "letter.txt"):
        with pytest.raises(UserError, match="exists and is no data set of this script"):
            prepare(fonts, foreign, overwrite=True)
    shutil.copytree(prepared, tmp_path / "more")
    (tmp_path / "more" / "letter.txt").touch()
    with pytest.raises(UserError, match="exists and is no data set of this script"):
        prepare(fonts, tmp_path / "more", overwrite=True)
    assert contents(out) == {name[4:]: data for name, data in before.items() if name.startswith("set/")}

    prepare(fonts, out, overwrite=True, max_len=10)
    assert len(load(out, max_len=10)[0]) == 2
    assert {path.name for path in tmp_path.iterdir()} == {"set", "mine", "more"}


def test_what_a_killed_process_left_is_removed_and_foreign_things_are_not(fonts, prepared, tmp_path):
    out, partial = tmp_path / "set", tmp_path / "set.partial"
    shutil.copytree(prepared, partial)
    (partial / "glyphs.json").unlink()
    with pytest.raises(UserError, match=r"set\.partial is a half-written data set"):
        load(partial)
    prepare(fonts, out)
    assert len(load(out)[0]) == 4 and not partial.exists()
    # Killed between the two renamings: nothing is lost.
    out.rename(tmp_path / "set.replaced")
    with pytest.raises(UserError, match="exists: choose another folder"):
        prepare(fonts, out)
    assert len(load(out)[0]) == 4
    partial.mkdir()
    (partial / "letter.txt").touch()
    with pytest.raises(UserError, match=r"set\.partial, which holds something else: move it away"):
        prepare(fonts, out, overwrite=True)
    assert (partial / "letter.txt").exists() and len(load(out)[0]) == 4


def test_failing_leaves_nothing_behind(fonts, tmp_path):
    with no_room_for_files_above(1000), pytest.raises(UserError, match=r"--out=.*set cannot be written"):
        prepare(fonts, tmp_path / "set")
    with pytest.raises(UserError, match=r"no usable glyph .*--charset=gb2312 --max_len=24: name other fonts"):
        prepare(fonts, tmp_path / "set", charset="gb2312")
    with pytest.raises(UserError, match=r"--fonts: there is no file or folder"):
        prepare(tmp_path / "nowhere", tmp_path / "set")
    with pytest.raises(UserError, match=r"^--fonts: no font found in"):
        prepare(tmp_path, tmp_path / "set")
    with pytest.raises(UserError, match=r"bad\.ttf cannot be read as a font"):
        prepare(fonts / "bad.ttf", tmp_path / "set")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--out=.*file/set cannot be written: "):
        prepare(fonts, tmp_path / "file" / "set")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"charset": "klingon"}, "^--charset = 'klingon' is not understood .*gb2312"),
        ({"overlaps": "merge"}, "^--overlaps=merge: must be one of resolve, keep"),
        ({"cubic_tolerance_em": 0.0}, "^--cubic_tolerance_em=0.0: must be above 0"),
        ({"max_len": 0}, "^--max_len=0: must be"),
    ],
)
def test_options_without_meaning_are_refused(fonts, tmp_path, changes, what):
    with pytest.raises(UserError, match=what):
        prepare(fonts, tmp_path / "set", **changes)


def test_listed_characters_that_no_font_has_are_named(fonts, tmp_path):
    (tmp_path / "wanted.txt").write_text("a永b")
    _, skipped = load(fonts, charset=str(tmp_path / "wanted.txt"))
    assert skipped.names["character that no font has"] == ["U+6C38"]
    prepare(fonts, tmp_path / "set", charset=str(tmp_path / "wanted.txt"))
    (tmp_path / "again.txt").write_text("b\na\n永")
    _, skipped = load(tmp_path / "set", charset=str(tmp_path / "again.txt"))
    assert skipped.names["character that no font has"] == ["U+6C38"]


def test_the_script(run_python, fonts, tmp_path):
    script = ROOT / "scripts" / "prepare_data.py"
    out = tmp_path / "set"
    found = run_python(script, "glyphs", f"--fonts={fonts}", "--charset=ascii", f"--out={out}")
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines()[-1] == f"wrote {out}: --config.data.path={out} --config.data.charset=ascii"
    assert len(load(out, charset="ascii", max_len=256)[0]) == 5
    for arguments, what in (
        (["glyphs", f"--fonts={fonts}"], "--out is missing"),
        (["letters", f"--out={out}"], "'letters' is no kind of data"),
    ):
        found = run_python(script, *arguments)
        assert (found.returncode, len(found.stderr.splitlines())) == (2, 1), found.stderr
        assert what in found.stderr
