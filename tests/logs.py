"""What a run has logged, compared with another."""

from pathlib import Path

import pytest

from jaxvae.run import read_rows


def assert_same_rows(run: Path, other: Path, rel: float = 1e-5) -> None:
    """Two runs have logged the same steps, and the same numbers up to rounding; times may differ."""
    rows, others = (read_rows(folder / "metrics.jsonl") for folder in (run, other))
    assert [row["step"] for row in rows] == [row["step"] for row in others]
    for row, expected in zip(rows, others, strict=True):
        assert row.keys() == expected.keys()
        for name in row:
            if not name.startswith("time/"):
                assert row[name] == pytest.approx(expected[name], rel=rel, abs=1e-7), (row["step"], name)
