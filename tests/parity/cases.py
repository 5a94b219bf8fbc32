"""Golden cases: discovery, loading and the tolerance rule.

A folder holds one sub-folder per system with a `manifest.json` and `.npz` files. What the manifest lists is what
runs; nothing here knows any system, case or size.
"""

import dataclasses
import functools
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

COMMITTED = Path(__file__).parent / "data"
SECTIONS = ("weights", "inputs", "outputs", "grads")


@dataclasses.dataclass(frozen=True)
class Case:
    """One case of a manifest; arrays are loaded on demand."""

    system: str
    folder: Path
    entry: dict[str, Any] = dataclasses.field(hash=False, compare=False)

    @property
    def id(self) -> str:
        origin = "" if self.folder.parent == COMMITTED else "golden-"
        return f"{self.system}-{origin}{self.entry['name']}"

    @property
    def kind(self) -> str:
        return self.entry["kind"]

    @property
    def config(self) -> dict[str, Any]:
        return self.entry["config"]

    @property
    def tolerance(self) -> dict[str, float]:
        return self.entry["tolerance"]

    @functools.cached_property
    def arrays(self) -> dict[str, dict[str, np.ndarray]]:
        """{'inputs': {name: array}, ...}"""
        found: dict[str, dict[str, np.ndarray]] = {section: {} for section in SECTIONS}
        with np.load(self.folder / self.entry["file"], allow_pickle=False) as file:
            for key in file.files:
                section, name = key.split("/", 1)
                found[section][name] = file[key]
        return found

    weights = property(lambda self: self.arrays["weights"])
    inputs = property(lambda self: self.arrays["inputs"])


def discover(golden: Path | None) -> list[Case]:
    """The committed cases and those of the folder given."""
    cases = []
    for root in filter(None, (COMMITTED, golden)):
        for manifest in sorted(root.glob("*/manifest.json")):
            listed = json.loads(manifest.read_text())
            cases += [Case(listed["system"], manifest.parent, entry) for entry in listed["cases"]]
    return cases


def adapter(system: str):
    """The system's adapter module, or None when it has none yet."""
    name = f"adapters.{system}"
    if not (Path(__file__).parent / "adapters" / f"{system}.py").exists():
        return None
    if str(Path(__file__).parent) not in sys.path:
        sys.path.insert(0, str(Path(__file__).parent))
    return importlib.import_module(name)


def check(name: str, got: Any, want: np.ndarray, tolerance: dict[str, float]) -> None:
    """max|got - want| <= atol + rtol * max|want|; infinities, NaN, integers, booleans and strings exactly."""
    got = np.asarray(got)
    assert got.shape == want.shape, f"{name}: shape {got.shape}, expected {want.shape}"
    if want.dtype.kind != "f":
        assert np.array_equal(got, want), f"{name}: got {got}, expected {want}"
        return
    assert got.dtype.kind == "f", f"{name}: type {got.dtype}, expected a float"
    finite = np.isfinite(want)
    assert np.array_equal(got[~finite], want[~finite], equal_nan=True), f"{name}: other infinities or NaN"
    got, want = got[finite].astype(np.float64), want[finite].astype(np.float64)
    if want.size == 0:
        return
    bound = tolerance.get("atol", 0.0) + tolerance.get("rtol", 0.0) * np.abs(want).max()
    worst = np.abs(got - want).max()  # NaN where `got` has one, and then no bound holds
    assert worst <= bound, f"{name}: differs by {worst:.3g}, allowed {bound:.3g}"
