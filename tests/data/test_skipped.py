"""What was left out: short on the console, by name and in full in the run folder."""

import json
from collections.abc import Mapping
from types import SimpleNamespace

import pytest
from tiny import tiny_config

from jaxvae import tasks
from jaxvae.data.skipped import NAMES_SHOWN, Skipped
from jaxvae.data.source import Source
from jaxvae.run import Run, skipped_inputs


def test_a_summary_counts_and_shortens():
    skipped = Skipped()
    skipped.add("font unreadable", "x.ttf")
    for i in range(NAMES_SHOWN + 1):
        skipped.add("glyph without contours", f"g{i}")
    assert len(skipped) == NAMES_SHOWN + 2
    assert skipped.summary() == ["1 font unreadable (x.ttf)", "6 glyphs without contours (g0, g1, g2, g3, g4, ...)"]
    assert skipped.names["glyph without contours"] == [f"g{i}" for i in range(6)]


def sources_of(**skipped):
    return {split: SimpleNamespace(skipped=names) for split, names in skipped.items()}


def test_one_reading_counts_once_and_two_add_up():
    # The same name twice in one reading (two fonts of one name) are two inputs.
    reading, other = {"a": ["x", "x"], "b": ["y"]}, {"a": ["x"], "c": ["z"]}
    assert skipped_inputs(sources_of(train=reading, val=reading)) == reading
    assert skipped_inputs(sources_of(train=reading, val=other)) == {"a": ["x", "x", "x"], "b": ["y"], "c": ["z"]}
    assert skipped_inputs(sources_of(train=reading, val={})) == reading
    assert skipped_inputs(sources_of(train={}, val={})) == {}


@pytest.mark.parametrize("task", sorted(tasks.TASKS))
def test_the_sources_of_every_task_say_what_was_skipped(task):
    for source in tasks.build(tiny_config(task)).sources(lambda line: None).values():
        assert isinstance(source, Source) and isinstance(source.skipped, Mapping)
        assert all(isinstance(name, str) for names in source.skipped.values() for name in names)


def test_the_run_folder_names_all_of_them(tmp_path):
    # 12 faces of A to F; only D is short enough in all of them.
    config = tiny_config("glyph_vae", model__max_len=16)
    notes = []
    sources = tasks.build(config).sources(notes.append)
    Run(tmp_path / "run").create(config, "", sources, notes)
    data = json.loads((tmp_path / "run" / "data.json").read_text())

    (reason,) = data["skipped"]
    names = data["skipped"][reason]
    used = [name for split in data["splits"].values() for name in split["examples"]]
    assert reason == "glyph longer than 16 tokens" and len(names) > NAMES_SHOWN
    assert len(names) + len(used) == len(set(names) | set(used)) == 12 * 6
    assert data["notes"][0].startswith(f"{len(names)} glyphs longer than 16 tokens ({', '.join(names[:5])}, ...)")
