"""What a start makes of a folder with a run in it: continued without leftovers, or refused without a trace."""

import json
import shutil
import struct
from pathlib import Path

import matplotlib
import pytest
from folders import contents, no_room_for_files_above
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tiny import tiny_config

from jaxvae.errors import UserError
from jaxvae.run import Run, read_rows
from jaxvae.tasks.glyph_vae import GlyphVAETask
from jaxvae.train.checkpoint import Checkpoints
from jaxvae.train.length import changes
from jaxvae.train.lock import RunLock
from jaxvae.train.loop import train
from jaxvae.train.setup import prepare
from jaxvae.train.tensorboard import summary_writer

TASK = "glyph_vae"
TTF = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
EVERY = {"train__log_every": 1, "train__eval_every": 0, "train__sample_every": 1, "train__save_every": 2}


@pytest.fixture(scope="module")
def fonts(tmp_path_factory):
    """A folder with two fonts."""
    folder = tmp_path_factory.mktemp("fonts")
    for name in ("DejaVuSans.ttf", "DejaVuSerif.ttf"):
        shutil.copy(TTF / name, folder)
    return folder


@pytest.fixture(scope="module")
def config(fonts):
    """Gives the configuration of the run, with changes."""

    def make(**changes):
        changes = {"data__path": str(fonts), "train__total_steps": 5} | EVERY | changes
        return tiny_config(TASK, **changes)

    return make


@pytest.fixture(scope="module", autouse=True)
def no_report():
    """Reports take most of the time of a short run, and nothing here looks at one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxvae.train.loop.write_report", lambda setup: "nowhere")
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory, no_report, config):
    """A run of five updates with checkpoints at 2, 4 and 5."""
    return train(config(), tmp_path_factory.mktemp("home") / "run").folder


@pytest.fixture
def run(finished, tmp_path):
    """A copy of it, to do with what a test likes."""
    return Run(shutil.copytree(finished, tmp_path / "run"))


def steps_of_pictures(run):
    return {int(path.stem.rsplit("-", 1)[1]) for path in (run.folder / "samples").glob("*-???????.png")}


def test_a_run_that_goes_on_from_a_checkpoint_forgets_what_came_after(run, config):
    for step in (4, 5):
        shutil.rmtree(run.folder / "checkpoints" / str(step))
    assert steps_of_pictures(run) == {0, 1, 2, 3, 4, 5}
    samples = run.folder / "samples"
    (name, *_) = {path.stem.rsplit("-", 1)[0] for path in samples.iterdir()}
    shutil.copy(samples / f"{name}-0000005.png", samples / f"{name}-12345678.png")
    (samples / f"{name}-0000005.tmp").write_bytes(b"torn")
    mine = {
        f"{name}-9.png",
        f"{name}-00000009.png",
        f"{name}-0000009.jpg",
        f"{name}-0000009 (copy).png",
        "my-0000009.png",
    }
    for path in mine:
        (samples / path).write_bytes(b"mine")
    (samples / f"{name}-0000009.png").mkdir()
    (run.folder / f"{name}-0000009.png").write_bytes(b"mine")
    before = contents(samples)
    setup = prepare(config(), run.folder)
    setup.lock.close()
    assert int(setup.state.step) == 2
    assert [row["step"] for row in read_rows(run.metrics_path)] == [0, 1, 2]
    gone = before.keys() - contents(samples).keys()
    kinds = {path.stem.rsplit("-", 1)[0] for path in samples.glob("*-0000000.png")}
    ours = {f"{kind}-{step:07d}.png" for kind in kinds for step in (3, 4, 5)}
    assert gone == ours | {f"{name}-12345678.png", f"{name}-0000005.tmp"}
    assert (run.folder / f"{name}-0000009.png").read_bytes() == b"mine"


def test_a_run_that_starts_anew_forgets_everything(run, config):
    shutil.rmtree(run.folder / "checkpoints")
    longer = config(train__save_every=3)
    (run.folder / "config.json").write_text(longer.to_json())  # as if the first save, at 3, had not been done at 5
    setup = prepare(longer, run.folder)
    setup.lock.close()
    assert int(setup.state.step) == 0
    assert read_rows(run.metrics_path) == []
    assert steps_of_pictures(run) == set()


def events(path):
    """The events of a file, whose records are (length, checksum, bytes, checksum); a torn last one is left out."""
    data, at = path.read_bytes(), 0
    while at + 12 <= len(data):
        (length,) = struct.unpack("<Q", data[at : at + 8])
        if at + 16 + length > len(data):
            return
        yield Event.FromString(data[at + 12 : at + 12 + length])
        at += 16 + length


def shown(folder):
    """The steps that TensorBoard shows, by its own rules.

    They stand in tensorboard/backend/event_processing/plugin_event_accumulator.py: files in the order of their names;
    every START of a session but the first drops what has its step or a later one.
    """
    steps, started = [], False
    for path in sorted(folder.glob("events.out.tfevents.*")):
        for event in events(path):
            if event.session_log.status == SessionLog.START:
                if started:
                    steps = [step for step in steps if step < event.step]
                started = True
            steps += [event.step for value in event.summary.value if value.tag == "train/loss"]
    return steps


@pytest.mark.parametrize(("checkpoint", "again"), [(4, range(5, 7)), (0, range(0, 3))])
def test_tensorboard_hides_what_came_after_the_checkpoint(tmp_path, checkpoint, again):
    for start, (step, steps) in enumerate([(0, range(10)), (checkpoint, again)]):
        writer = summary_writer(tmp_path, step)
        for at in steps:
            writer.add_scalar("train/loss", float(at), at)
        writer.close()
        # The names hold the second; here both starts may fall into one.
        (path,) = tmp_path.glob("events.out.tfevents.*.*")
        path.rename(tmp_path / f"events.out.tfevents.{start}")
    assert shown(tmp_path) == list(range(again.stop))


def test_a_continued_run_shows_every_step_once(run, config):
    shutil.rmtree(run.folder / "checkpoints" / "5")
    # Half-written, as a kill leaves it; saved again on the way.
    (run.folder / "checkpoints" / "4" / "commit_success.txt").unlink()
    (path,) = run.folder.glob("events.*")
    path.rename(run.folder / "events.out.tfevents.0")
    train(config(), run.folder)
    assert shown(run.folder) == [1, 2, 3, 4, 5]
    assert [row["step"] for row in read_rows(run.metrics_path)] == [0, 1, 2, 3, 4, 5]
    assert steps_of_pictures(run) == {0, 1, 2, 3, 4, 5}
    assert Checkpoints(run.folder / "checkpoints", 3).manager.all_steps() == [2, 4, 5]


def lose_checkpoints(run):
    shutil.rmtree(run.folder / "checkpoints")


def samples_as_file(run):
    shutil.rmtree(run.folder / "samples")
    (run.folder / "samples").write_text("")


@pytest.mark.parametrize(
    ("damage", "changed", "words"),
    [
        (lambda run: None, {"train__total_steps": 3}, "has made 5 updates already"),
        (lambda run: None, {"model__zdim": 8}, "model.zdim: 4 there, 8 here"),
        (lose_checkpoints, {}, "no checkpoint to continue from"),
        # A finished run, whatever its intervals.
        (lose_checkpoints, {"train__save_every": 0}, "no checkpoint to continue from"),
        # The log was written with another interval than this start would have.
        (lose_checkpoints, {"train__save_every": 4}, "no checkpoint to continue from"),
        (lambda run: run.config_path.write_text("{"), {}, "config.json is not readable"),
        (lambda run: run.metrics_path.write_bytes(b"\xff\xfe\n"), {}, "metrics.jsonl cannot be read"),
        (lambda run: run.metrics_path.write_text("{}\n{}\n"), {}, "line 1 is not a row of the log"),
        (samples_as_file, {}, "samples is not a folder"),
    ],
    ids=[
        "past its end",
        "config",
        "lost checkpoints",
        "lost, finished",
        "lost, other interval",
        "torn config",
        "binary log",
        "log of nothing",
        "samples",
    ],
)
def test_a_refused_start_leaves_all_as_it_was(run, config, damage, changed, words):
    # As a killed process leaves it.
    shutil.copytree(run.folder / "samples", run.folder / "checkpoints" / "9")
    run.metrics_path.write_text(run.metrics_path.read_text() + '{"step": 6, "tra')
    damage(run)
    before = contents(run.folder)
    with pytest.raises(UserError, match=words):
        prepare(config(**changed), run.folder)
    assert contents(run.folder) == before
    RunLock(run.folder).close()  # nobody holds it


def test_other_data_is_refused_and_leaves_all_as_it_was(run, config, fonts):
    before = contents(run.folder)
    shutil.copy(TTF / "DejaVuSansMono.ttf", fonts / "DejaVuSerif.ttf")
    try:
        with pytest.raises(UserError, match="was trained on other data"):
            prepare(config(), run.folder)
    finally:
        shutil.copy(TTF / "DejaVuSerif.ttf", fonts)
    assert contents(run.folder) == before


def test_other_validation_data_is_refused_too(run, config, monkeypatch):
    def changed(task, report, sources=GlyphVAETask.sources):
        found = sources(task, report)
        found["val"].fingerprint = "f" * 32
        return found

    monkeypatch.setattr(GlyphVAETask, "sources", changed)
    with pytest.raises(UserError, match=r"was trained on other data \(val: fingerprint .* there, ffffffffffff here"):
        prepare(config(), run.folder)


def test_a_checkpoint_of_another_run_is_refused(run, config):
    other = json.loads(run.config_path.read_text()) | {"seed": 7}
    run.config_path.write_text(json.dumps(other))
    before = contents(run.folder)
    with pytest.raises(UserError, match=r"checkpoints/5 was made with another config \(seed: 42 there, 7 here\)"):
        prepare(config(seed=7), run.folder)
    assert contents(run.folder) == before


def test_a_row_that_does_not_fit_on_the_disk_leaves_no_half_line(tmp_path):
    run = Run(tmp_path)
    run.log(1, {"train/loss": 1.0})
    before = run.metrics_path.read_bytes()
    with no_room_for_files_above(len(before) + 5), pytest.raises(OSError, match="too large"):
        run.log(2, {"train/loss": 2.0})
    assert run.metrics_path.read_bytes() == before
    run.log(2, {"train/loss": 2.0})
    assert [row["step"] for row in read_rows(run.metrics_path)] == [1, 2]


def test_a_start_that_was_killed_at_once_can_be_repeated(tmp_path, config):
    for name in ("lock", "config.json.tmp"):
        (tmp_path / name).write_text("")
        assert Run(tmp_path).check(config()) == {}
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds no run"):
        Run(tmp_path).check(config())


@pytest.mark.parametrize(
    ("schedule", "changed", "step", "said"),
    [
        ("cosine", {"train.total_steps": (4, 6)}, 4, True),
        ("cosine", {"train.epochs": (1, 0)}, 2, True),  # 3 steps before, 6 now
        ("cosine", {"train.epochs": (3, 0)}, 2, False),  # 9 before: total_steps = 6 ended the run already
        ("cosine", {"train.total_steps": (4, 6)}, 0, False),
        ("cosine", {"train.total_steps": (9, 6)}, 6, False),
        ("cosine", {"train.log_every": (4, 6)}, 4, False),
        ("constant", {"train.total_steps": (4, 6)}, 4, False),
    ],
)
def test_another_length_says_what_it_does_to_the_learning_rate(config, schedule, changed, step, said):
    now = config(optim__schedule__name=schedule, train__total_steps=6, train__epochs=0)
    (line,) = changes(changed, now, 3, step)
    ((key, (old, new)),) = changed.items()
    assert line.startswith(f"changed since the last start: {key}: {old} -> {new}")
    assert (f"from step {step} on the learning rate is different" in line) == said
    assert ("until step 6 instead of" in line) == said
    (line,) = changes(
        changed, config(optim__schedule__name=schedule, optim__schedule__steps=3, train__epochs=9), 3, step
    )
    assert "learning rate" not in line, "it falls over updates of its own"
