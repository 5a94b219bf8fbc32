"""What the user sees while a training runs: a progress bar in a terminal, plain lines elsewhere."""

import re
import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column


class TrainConsole:
    """Progress of the updates from `start` to `stop`; `line` prints above the bar. Nothing is shown if `quiet`."""

    def __init__(self, start: int, stop: int, quiet: bool = False):
        self.console = Console(highlight=False, soft_wrap=True, quiet=quiet)
        self.stop = stop
        self.progress = None
        if sys.stdout.isatty() and not quiet:
            # The numbers take what is left of the line and are cut first.
            rest = Column(ratio=1, no_wrap=True, overflow="ellipsis")
            self.progress = Progress(
                MofNCompleteColumn(table_column=Column(no_wrap=True)),
                BarColumn(bar_width=8),
                TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
                TextColumn("{task.fields[numbers]}", table_column=rest),
                console=self.console,
                expand=True,
            )
            self.bar = self.progress.add_task("", total=stop, completed=start, numbers="starting ...")

    def __enter__(self):
        if self.progress:
            self.progress.start()
        return self

    def __exit__(self, *_):
        if self.progress:
            self.progress.stop()

    def line(self, text: str) -> None:
        self.console.print(text, markup=False)

    def step(self, step: int) -> None:
        if self.progress:
            self.progress.update(self.bar, completed=step)

    def numbers(self, step: int, row: dict[str, float]) -> None:
        """Loss terms, learning rate, examples/s and time left, from a row of metrics."""
        text = describe(row)
        if self.progress:
            self.progress.update(self.bar, numbers=text)
        else:
            left = clock((self.stop - step) * row["time/step_s"])
            self.line(f"step {step}/{self.stop}  {text}  left {left}")


def describe(row: dict[str, float]) -> str:
    """'loss 3.21 (ce 1.02, kl 0.40, l1 1.79)  lr 3.0e-04  812 examples/s'.

    Where groups of parameters have all the weights, the first one's learning rate is shown, under its name.
    """
    terms = ", ".join(
        f"{name.removeprefix('train/term_')} {value:.4g}"
        for name, value in sorted(row.items())
        if name.startswith("train/term_")
    )
    rate = min(name for name in row if re.match("train/lr(_|$)", name))
    skipped = f"  {row['train/skipped']:.0%} of updates skipped" if row["train/skipped"] else ""
    return (
        f"loss {row['train/loss']:.4g} ({terms})  {rate.removeprefix('train/')} {row[rate]:.1e}  "
        f"{row['time/examples_per_s']:.4g} examples/s{skipped}"
    )


def clock(seconds: float) -> str:
    """'4:07', from an hour on '1:04:07'."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
