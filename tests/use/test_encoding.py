"""Encoded glyphs: the posteriors of the model, under the right names."""

import numpy as np
import pytest
from folders import contents, no_room_for_files_above
from PIL import Image

from jaxvae.data.glyphs import embedded_fonts
from jaxvae.errors import UserError
from jaxvae.train.evaluate_run import open_run
from jaxvae.use.encoding import encode_data, encode_run, principal_components, write_encoding


def quiet(line):
    pass


@pytest.fixture(scope="module")
def encoded(glyph_run):
    return encode_run(glyph_run, "", None, quiet)


def test_every_glyph_of_the_run_is_there_once(encoded, glyph_run):
    sources = open_run(glyph_run, report=quiet).parts.sources
    names = [(split, source.name(i)) for split, source in sources.items() for i in range(len(source))]
    a = encoded.arrays
    found = [
        (split, f"{font}/{glyph} U+{codepoint:04X}")
        for split, font, glyph, codepoint in zip(a["split"], a["font"], a["glyph"], a["codepoint"], strict=True)
    ]
    assert found == names
    assert (encoded.weights, encoded.step, a["mu"].shape) == ("average", 2, (len(names), 4))


def test_posteriors_are_those_of_the_task(encoded, glyph_run):
    opened = open_run(glyph_run, report=quiet)
    evaluator = opened.parts.evaluator("val")
    of_val = np.flatnonzero(encoded.arrays["split"] == "val")
    for _, batch in evaluator.batches():
        posterior = opened.parts.task.posterior(opened.variables, batch)
        for row in np.flatnonzero(batch["valid"]):
            place = of_val[int(batch["index"][row])]
            np.testing.assert_allclose(encoded.arrays["mu"][place], posterior.mean[row], atol=1e-5)
            np.testing.assert_allclose(encoded.arrays["logvar"][place], posterior.logvar[row], atol=1e-5)


def test_other_data_are_encoded_without_those_of_the_run(encoded, glyph_run, tmp_path, monkeypatch):
    fonts = [path for path in embedded_fonts() if path.stem in ("DejaVuSans", "DejaVuSerif")]
    (tmp_path / "fonts").mkdir()
    for path in fonts:
        (tmp_path / "fonts" / path.name).symlink_to(path)
    # The run's own data, the embedded fonts, must not be read.
    monkeypatch.setattr("jaxvae.data.glyphs.load.embedded_fonts", lambda: pytest.fail("the run's data were read"))
    found = encode_data(glyph_run, str(tmp_path / "fonts"), "U+0020,U+0041-0043", "", None, quiet)
    a, b = found.arrays, encoded.arrays
    assert [(f, g) for f, g in zip(a["font"], a["glyph"], strict=True)] == [
        (path.stem, letter) for path in fonts for letter in "ABC"
    ]
    for row, (font, glyph) in enumerate(zip(a["font"], a["glyph"], strict=True)):
        (same,) = np.flatnonzero((b["font"] == font) & (b["glyph"] == glyph))
        np.testing.assert_allclose(a["mu"][row], b["mu"][same], atol=1e-5)
    assert set(a["split"]) == {""}
    assert "glyph without contours: DejaVuSans/space U+0020" in a["skipped"].tolist()


def test_a_single_glyph_can_be_encoded(glyph_run, tmp_path):
    font = next(path for path in embedded_fonts() if path.stem == "DejaVuSans")
    found = encode_data(glyph_run, str(font), "U+0041", "raw", 1, quiet)
    assert (len(found.arrays["mu"]), found.weights, found.step) == (1, "raw", 1)
    write_encoding(tmp_path / "one.npz", found.arrays, found.title)


def test_the_file_can_be_read_without_pickles_and_has_a_map(encoded, tmp_path):
    picture = write_encoding(tmp_path / "x.npz", encoded.arrays, encoded.title)
    with np.load(tmp_path / "x.npz", allow_pickle=False) as found:
        assert set(found.files) == set(encoded.arrays)
        for name, array in encoded.arrays.items():
            np.testing.assert_array_equal(found[name], array)
    with Image.open(picture) as image:
        assert image.size[0] > 500


def test_many_fonts_have_one_colour(encoded, tmp_path):
    arrays = {name: array[np.arange(30) % 8] for name, array in encoded.arrays.items() if name != "skipped"}
    arrays["font"] = np.array([f"font{i}" for i in range(30)])
    write_encoding(tmp_path / "x.npz", arrays, "title")


def test_principal_components_find_the_plane():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    plane = rng.normal(size=(50, 2)) * [5, 2]
    x = (plane - plane.mean(0)) @ basis[:2] + 7
    found, shares = principal_components(x.astype(np.float32))
    np.testing.assert_allclose(shares.sum(), 1, atol=1e-6)
    assert shares[0] > shares[1]
    distances = [np.linalg.norm(p[:, None] - p, axis=-1) for p in (found, plane)]
    np.testing.assert_allclose(*distances, atol=1e-4)
    np.testing.assert_allclose(principal_components(-x.astype(np.float32))[0], -found, atol=1e-4)
    assert principal_components(x[:1].astype(np.float32))[0].tolist() == [[0, 0]]
    assert principal_components(x[:, :1].astype(np.float32))[0].shape == (50, 2)


def test_mistakes_are_named_and_leave_nothing(encoded, glyph_run, tmp_path):
    with pytest.raises(UserError, match=r"must end in \.npz"):
        write_encoding(tmp_path / "x.csv", encoded.arrays, "title")
    with pytest.raises(UserError, match="cannot be written"):
        write_encoding(tmp_path / "none" / "x.npz", encoded.arrays, "title")
    with no_room_for_files_above(1000), pytest.raises(UserError, match="cannot be written"):
        write_encoding(tmp_path / "x.npz", encoded.arrays, "title")
    with pytest.raises(UserError, match=r"there is no file or folder 'none\.ttf'"):
        encode_data(glyph_run, "none.ttf", "", "", None, quiet)
    with pytest.raises(UserError, match="is no run folder"):
        encode_data(tmp_path, "none.ttf", "", "", None, quiet)
    assert contents(tmp_path) == {}
