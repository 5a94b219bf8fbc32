"""What the pages say of keys, defaults and files is what the code has."""

import re
from pathlib import Path

import pytest

from jaxvae.cli import load_module
from jaxvae.config import ema_row, flatten, group_row, trainer_config

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SECTIONS = ("init_from", "optim", "train", "monitors", "precision", "parallel", "model", "loss", "data")
ROWS = {"optim.ema.<name>": ema_row(decay=0.5), "optim.groups.<name>": group_row(match="")}


def known_keys() -> set[str]:
    """Every key of every configuration file, and those of rows that a user may add."""
    configs = [load_module(path).get_config() for path in sorted((ROOT / "configs").glob("*.py"))]
    keys = {key for config in configs for key in flatten(config)}
    return keys | {f"{row}.{key}" for row, keys_of_row in ROWS.items() for key in keys_of_row}


def exists(key: str, known: set[str]) -> bool:
    """Whether `key` is a key or a group of keys; a row of the user's may have any name."""
    key = re.sub(r"^(optim\.(?:ema|groups))\.[^.]+", r"\1.<name>", key.removesuffix(".*"))
    return any(other == key or other.startswith(key + ".") for other in known)


def keys_in(text: str) -> list[str]:
    """The keys in backticks, and those of options; `optim.ema.average.{decay, every}` are two."""
    keys = re.findall(r"--config\.([a-z][\w.]*)", text)
    for quoted in re.findall(r"`([^`\n]+)`", text):
        found = re.match(rf"(?:config\.)?((?:{'|'.join(SECTIONS)})\.(?!py\b|json\b)[\w.<>*]+)(?:{{(.*?)}})?", quoted)
        if found and found[2]:
            keys += [found[1] + last for last in found[2].split(", ")]
        elif found:
            keys.append(found[1])
    return keys


def test_keys_are_found_in_words():
    text = "`optim.lr` = 3, `config.train.keep`, `model.*`, `optim.ema.a.{decay, every}`, `data.x=1`, --config.seed=1"
    found = ["seed", "optim.lr", "train.keep", "model.*", "optim.ema.a.decay", "optim.ema.a.every", "data.x"]
    assert keys_in(text) == found
    assert keys_in("`train.py`, `data.json`, `train/loop.py`, `train/loss`, optim.lr") == []
    known = known_keys()
    assert all(exists(key, known) for key in found[:-1])
    assert not any(
        exists(key, known) for key in ("data.x", "optim.lrr", "optim.l", "optim.ema.a.rate", "monitors.plateau.low")
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_keys_exist(page):
    known = known_keys()
    missing = [key for key in keys_in(page.read_text()) if not exists(key, known)]
    assert not missing, f"{page.name} speaks of keys that do not exist: {missing}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_to_files(page):
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing


TRAINING = (ROOT / "docs" / "training.md").read_text()


def test_every_key_of_the_trainer_is_explained():
    named = {"task", "preset", "seed", *keys_in(TRAINING)}
    wanted = [*flatten(trainer_config()), *(f"{row}.{key}" for row, keys in ROWS.items() for key in keys)]
    unsaid = [key for key in wanted if key not in named and not key.endswith(".kind")]
    assert not unsaid


def defaults() -> list[tuple[str, str]]:
    """(key, default) from the tables whose second column is called so."""
    found, inside = [], False
    for line in TRAINING.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if not line.startswith("|"):
            inside = False
        elif cells[:2] == ["key", "default"]:
            inside = True
        elif inside and cells[0].startswith("`"):
            found += zip(re.findall(r"`([\w.]+)`", cells[0]), cells[1].split(", "), strict=True)
    return found


@pytest.mark.parametrize(("key", "said"), defaults())
def test_defaults_are_those_of_the_code(key, said):
    value = flatten(trainer_config())[key]
    said = said.replace(",", "").strip("'")
    assert (float(said) if isinstance(value, int | float) else said) == value


def test_there_are_defaults_to_compare():
    assert len(defaults()) > 30
