"""What may import what, what importing costs, and that the README's words are true."""

import ast
import graphlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "jaxvae"
README = ROOT / "README.md"

# Each part of the package (a module or folder directly in jaxvae/) and the parts it may import.
GROUND = {"errors", "config", "stats", "outlines", "raster", "distance", "run"}
MAY_IMPORT = {
    # the ground floor
    "errors": set(),
    "config": {"errors"},
    "stats": {"errors"},
    "outlines": {"errors"},
    "raster": {"errors", "outlines"},
    "distance": {"errors", "outlines", "raster"},
    "run": {"errors", "config", "stats"},
    # the floors above it, lower ones first
    "nn": GROUND,
    "models": GROUND | {"nn"},
    "losses": GROUND | {"nn"},
    "diffusion": GROUND | {"nn"},
    "data": GROUND,
    "tasks": GROUND | {"nn", "models", "losses", "diffusion", "data"},
    "health": GROUND | {"nn", "models", "losses", "diffusion", "data", "tasks"},
    "train": GROUND | {"nn", "models", "losses", "diffusion", "data", "tasks", "health"},
    # beside them
    "convert": GROUND | {"nn", "models"},
    # the top floor, for scripts only
    "use": GROUND | {"nn", "models", "losses", "diffusion", "data", "tasks", "health", "train", "convert"},
    "cli": GROUND,
}


def imported_parts(path: Path, package: Path) -> Iterator[tuple[int, str]]:
    """(line, part) of every import of the package's own parts in a file, inside functions as well."""
    folder = [package.name, *path.relative_to(package).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = folder[: len(folder) + 1 - node.level] if node.level else []
            base = [*base, node.module] if node.module else base
            names = [".".join([*base, alias.name]) for alias in node.names]
        else:
            continue
        for name in names:
            match name.split("."):
                # `from jaxvae import __version__` takes an attribute of the package, which is no part.
                case [package.name, part, *_] if not part.startswith("__"):
                    yield node.lineno, part


def violations(package: Path) -> list[str]:
    """One line for every import against MAY_IMPORT, and for every part that is not in it."""
    found = []
    for path in sorted(package.rglob("*.py")):
        place = path.relative_to(package.parent)
        part = path.relative_to(package).parts[0].removesuffix(".py")
        if part not in MAY_IMPORT and part != "__init__":
            found.append(f"{place}: add {part!r} to MAY_IMPORT in tests/test_imports.py, on its floor")
            continue
        # The package's own __init__ imports no part: `import jaxvae.x` then costs x only.
        allowed = MAY_IMPORT.get(part, set()) | {part}
        found += [
            f"{place}:{line}: {part} may not import {target} (MAY_IMPORT in tests/test_imports.py)"
            for line, target in imported_parts(path, package)
            if target not in allowed
        ]
    return found


def test_the_table_itself_runs_one_way():
    graphlib.TopologicalSorter(MAY_IMPORT).prepare()  # raises on a cycle


def test_imports_run_one_way():
    found = violations(PACKAGE)
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("file", "source", "complaint"),
    [
        ("nn/norms.py", "import jaxvae.models.unet", "nn may not import models"),
        ("nn/norms.py", "from jaxvae import models", "nn may not import models"),
        ("nn/sparse/conv.py", "from ...models import unet", "nn may not import models"),
        ("models/unet.py", "from .. import losses", "models may not import losses"),
        ("data/ct.py", "def load():\n    from jaxvae.tasks.ct import Task\n", "data/ct.py:2: data may not"),
        ("config.py", "from jaxvae.run import Run", "config may not import run"),
        ("__init__.py", "from jaxvae import models", "__init__ may not import models"),
        ("train/loop.py", "from jaxvae import no_such_part", "train may not import no_such_part"),
        ("novelty/x.py", "import numpy", "add 'novelty' to MAY_IMPORT"),
    ],
)
def test_the_checker_finds_a_wrong_import(tmp_path, file, source, complaint):
    path = tmp_path / "jaxvae" / file
    path.parent.mkdir(parents=True)
    path.write_text(source)
    (found,) = violations(tmp_path / "jaxvae")
    assert complaint in found


def test_the_checker_lets_right_imports_pass(tmp_path):
    path = tmp_path / "jaxvae" / "models" / "unet" / "blocks.py"
    path.parent.mkdir(parents=True)
    path.write_text(
        "import numpy\n"
        "from jaxvae import __version__, stats\n"
        "from jaxvae.nn.norms import LayerNorm\n"
        "from . import parts\n"
        "from .. import other\n"
        "from ...nn import attention\n"
    )
    assert violations(tmp_path / "jaxvae") == []


def test_every_folder_is_a_package():
    """A folder without __init__.py imports well from a checkout and is missing from an installed jaxvae."""
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    assert [str(folder) for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []


IMPORT_EVERYTHING = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
print(*sorted({"tensorflow", "torch"} & set(sys.modules)))
print(sys.modules["jaxvae"].__file__)
"""


def test_importing_every_module_is_light_and_silent(run_python, tmp_path):
    files = sorted(PACKAGE.rglob("*.py"))
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files]
    names = [name.removesuffix(".__init__") for name in names]
    process = run_python(IMPORT_EVERYTHING, *names, env={"PYTHONWARNINGS": "error"}, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    heavy, place = process.stdout.splitlines()
    assert heavy == "", f"importing jaxvae imports {heavy}"
    assert Path(place).samefile(PACKAGE / "__init__.py"), f"the environment holds another jaxvae: {place}"
    assert process.stderr == ""


def test_a_bare_script_anywhere_can_import_the_models(run_python, tmp_path):
    script = tmp_path / "elsewhere.py"
    script.write_text("import jaxvae.models\n")
    process = run_python(script, cwd=tmp_path)
    assert process.returncode == 0, process.stderr


def test_shape_annotations_are_checked_while_the_tests_run():
    import jax.numpy as jnp
    from jaxtyping import TypeCheckError

    from jaxvae.losses import cross_entropy

    with pytest.raises(TypeCheckError):  # three labels for four rows of logits
        cross_entropy(jnp.zeros((4, 2)), jnp.zeros(3, jnp.int32))


def readme_blocks(*languages: str) -> list[tuple[int, str]]:
    """(first line, text) of the README's fenced blocks in these languages; none when there is no README."""
    text = README.read_text(encoding="utf-8") if README.exists() else ""
    blocks = re.finditer(r"^```(\w*)[^\n]*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    return [(text.count("\n", 0, block.start(2)) + 1, block[2]) for block in blocks if block[1] in languages]


def readme_commands() -> Iterator[tuple[int, list[str]]]:
    """(line, words) of the README's commands that run something in scripts/."""
    for first, text in readme_blocks("", "bash", "sh", "shell", "console"):
        for number, line in enumerate(text.splitlines(), first):
            words = line.removeprefix("$ ").split()
            if re.match(r"(\S*/)?(bash|python) scripts/", " ".join(words)):
                yield number, words


def test_there_is_a_readme_with_snippets_and_commands():
    assert README.exists(), "README.md is missing"
    assert readme_blocks("python"), "README.md has no ```python block"
    assert list(readme_commands()), "README.md has no command that starts with bash or python scripts/"


@pytest.mark.parametrize("snippet", [pytest.param(text, id=f"line{line}") for line, text in readme_blocks("python")])
def test_readme_snippets_run(run_python, tmp_path, snippet):
    process = run_python(snippet, cwd=tmp_path)
    assert process.returncode == 0, process.stderr


def test_readme_commands_name_files_that_exist():
    missing = []
    for line, (_, script, *options) in readme_commands():
        configs = [option.partition("=")[2] for option in options if option.startswith("--config=")]
        files = [script, *(config.split(":")[0] for config in configs)]
        missing += [f"README.md:{line}: {file}" for file in files if not (ROOT / file).is_file()]
    assert not missing, "\n".join(missing)
