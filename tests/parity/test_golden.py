"""Numbers recorded from the originals, reproduced by what training runs.

Committed cases run everywhere; `pytest --golden=DIR` adds those of DIR/<system>/manifest.json. An adapter module
per system (`adapters/<system>.py`) renames arrays and calls jaxvae:

    KINDS         {kind: function(case) -> {"outputs/<name>" or "grads/<name>": array}}
    LATER         kinds that belong to a later piece of work; they are skipped by name
    NOT_COMPARED  {kind: {array: why}}: arrays that the specification calls unused or information only
    COMPARE       {kind: function(case, name, got, want)} where the manifest states another rule than the common
"""

from pathlib import Path

import pytest
from cases import adapter, check, discover


def pytest_generate_tests(metafunc):
    if "case" in metafunc.fixturenames:
        golden = metafunc.config.getoption("--golden")
        cases = discover(Path(golden) if golden else None)
        params = [pytest.param(case, id=case.id) for case in cases]
        if not golden:
            reason = "give --golden=DIR for the cases of DIR/<system>/manifest.json"
            params.append(pytest.param(None, id="golden", marks=pytest.mark.skip(reason=reason)))
        metafunc.parametrize("case", params)


def test_golden(case):
    module = adapter(case.system)
    if module is None:
        pytest.skip(f"{case.system} has no adapter yet")
    if case.kind in module.LATER:
        pytest.skip(f"kind {case.kind} of {case.system} belongs to a later piece of work")
    assert case.kind in module.KINDS, f"the adapter of {case.system} does not cover kind {case.kind}"

    got = module.KINDS[case.kind](case)
    want = {
        f"{section}/{name}": array
        for section in ("outputs", "grads")
        for name, array in case.arrays[section].items()
        if name not in module.NOT_COMPARED.get(case.kind, {})
    }
    assert want, "nothing to compare"
    missing = want.keys() - got.keys()
    assert not missing, f"the adapter does not give {sorted(missing)}"
    compare = module.COMPARE.get(case.kind, lambda case, name, g, w: check(name, g, w, case.tolerance))
    for name, array in want.items():
        compare(case, name, got[name], array)
