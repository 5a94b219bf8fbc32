"""Glyphs in a folder of TensorFlow Datasets: written and read without TensorFlow, in the order given.

    glyphs-glyphs.array_record-*           the glyphs, by tfds.core.SequentialWriter
    dataset_info.json, features.json       what tfds.builder_from_directory needs
    glyphs.json                            `Record`: how the glyphs were made, written last

So a folder without glyphs.json is half-written, and one whose glyphs do not have the digest in it is damaged.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jaxvae.data.glyphs.tokens import Glyph, topology_bits
from jaxvae.errors import UserError
from jaxvae.outlines import HOLE, NEW
from jaxvae.run import write_json

RECORD = "glyphs.json"
FORMAT = 1
NAME = "glyphs"
FILES = (f"{NAME}-{NAME}.array_record-*", "dataset_info.json", "features.json", RECORD, f"{RECORD}.tmp")
# What a glyph has of its face.
FACE = ("font", "file", "family")
GLYPHS_PER_SHARD = 100_000
GLYPHS_PER_READ = 1_000


@dataclass
class Record:
    """How a data set was made.

    Attributes:
      charset: as the user wrote it.
      characters: the same as ranges.
      max_len, overlaps, cubic_tolerance_em: see `OutlineSettings`; `max_len` is its `max_tokens`.
      num_glyphs: examples.
      num_resolved: of these, outlines that were redrawn because contours overlapped.
      digest: of all glyphs (`GlyphDigest`).
      fonts: per font file its path, digest, and how many glyphs and resolved outlines are of it.
      skipped: names of what was left out, by reason.
      faces: font, file and family of glyphs; an example has an index into these.
      versions: of the packages on which outlines depend.
    """

    charset: str
    characters: str
    max_len: int
    overlaps: str
    cubic_tolerance_em: float
    num_glyphs: int = 0
    num_resolved: int = 0
    digest: str = ""
    fonts: list[dict[str, Any]] = field(default_factory=list)
    skipped: dict[str, list[str]] = field(default_factory=dict)
    faces: list[dict[str, str]] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    format: int = FORMAT


class GlyphDigest:
    """A digest of glyphs in their order: labels, families and what a record stores."""

    def __init__(self):
        self._digest = hashlib.blake2b(digest_size=16)

    def add(self, glyph: Glyph) -> None:
        self._digest.update(f"{glyph.label}\n{glyph.file}\n{glyph.family}\n{len(glyph)}\n{glyph.em!r}\n".encode())
        for array in (glyph.commands, glyph.coords, glyph.norm):
            self._digest.update(array.tobytes())

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


class GlyphWriter:
    """Writes glyphs into an existing empty folder; `close` makes it a data set."""

    def __init__(self, folder: Path):
        import tensorflow_datasets as tfds  # a quarter of a second, for those who need it

        self.folder, self.num_glyphs, self.digest = folder, 0, GlyphDigest()
        self._faces: dict[tuple[str, str, str], int] = {}
        identity = tfds.core.DatasetIdentity(
            name=NAME, version=tfds.core.Version("1.0.0"), data_dir=str(folder), module_name=__name__
        )
        info = tfds.core.DatasetInfo(builder=identity, features=_features(), description="Outlines of glyphs.")
        self._writer = tfds.core.SequentialWriter(info, GLYPHS_PER_SHARD, file_format="array_record")
        self._writer.initialize_splits([NAME])

    def add(self, glyphs: Sequence[Glyph]) -> None:
        """Appends glyphs whose contour ids and topology follow from their commands, as those of fonts do."""
        self._writer.add_examples({NAME: [self._example(glyph) for glyph in glyphs]})
        self.num_glyphs += len(glyphs)

    def close(self, record: Record) -> None:
        """Completes the record with what only the writer knows, and writes it."""
        self._writer.close_all()
        record.num_glyphs, record.digest = self.num_glyphs, self.digest.hexdigest()
        record.faces = [dict(zip(FACE, face, strict=True)) for face in self._faces]
        write_json(self.folder / RECORD, asdict(record))

    def _example(self, glyph: Glyph) -> dict[str, Any]:
        self.digest.add(glyph)
        face = glyph.font, glyph.file, glyph.family
        return {
            "commands": glyph.commands.astype(np.uint8),
            "coords": glyph.coords,
            "norm": glyph.norm,
            "em": np.float64(glyph.em),
            "codepoint": glyph.codepoint,
            "name": glyph.name,
            "face": self._faces.setdefault(face, len(self._faces)),
        }


def _features():
    """What is stored of a glyph; contour ids and topology follow from the commands."""
    from tensorflow_datasets import features

    return features.FeaturesDict(
        {
            "commands": features.Tensor(shape=(None,), dtype=np.uint8),
            "coords": features.Tensor(shape=(None, 4), dtype=np.float32),
            "norm": features.Tensor(shape=(3,), dtype=np.float32),
            # Numbers of a record are float32; as bytes this one keeps its precision.
            "em": features.Tensor(shape=(), dtype=np.float64, encoding="bytes"),
            "codepoint": features.Scalar(np.int32),
            "name": features.Text(),
            "face": features.Scalar(np.int32),
        }
    )


def is_dataset(folder: Path) -> bool:
    """Whether the folder is a data set of this module, whole or half-written."""
    return folder.is_dir() and any((folder / name).exists() for name in (RECORD, "dataset_info.json"))


class GlyphDataset:
    """A data set that was written by `GlyphWriter`.

    Raises:
      UserError: if it is half-written, damaged or of another version.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        if not (folder / RECORD).is_file():
            raise UserError(
                f"{folder} is a half-written data set: it has no {RECORD}: prepare it again by scripts/prepare_data.py"
            )
        try:
            content = json.loads((folder / RECORD).read_text())
            if content["format"] != FORMAT:
                raise ValueError(f"format {content['format']}, expected {FORMAT}")
            self.record = Record(**content)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._damaged(f"{RECORD}: {error}") from error

    def __len__(self) -> int:
        return self.record.num_glyphs

    def __iter__(self) -> Iterator[Glyph]:
        """All glyphs in the order in which they were written.

        Raises:
          UserError: after the last one, if they are not those that were written, or earlier if one cannot be read.
        """
        digest = GlyphDigest()
        for glyph in self._read():
            digest.add(glyph)
            yield glyph
        if digest.hexdigest() != self.record.digest:
            raise self._damaged("its glyphs are not those that were written")

    def _read(self) -> Iterator[Glyph]:
        import tensorflow_datasets as tfds

        try:
            source = tfds.builder_from_directory(str(self.folder)).as_data_source(NAME)
            if len(source) != len(self):
                raise ValueError(f"{len(source)} glyphs, expected {len(self)}")
            for start in range(0, len(self), GLYPHS_PER_READ):
                examples = source.__getitems__(range(start, min(start + GLYPHS_PER_READ, len(self))))
                yield from map(self._glyph, examples)
        # tfds, array_record and protobuf meet damage with whatever it leads to.
        except Exception as error:
            raise self._damaged(f"{type(error).__name__}: {' '.join(str(error).split())}") from error

    def _glyph(self, example: Mapping[str, Any]) -> Glyph:
        commands = example["commands"].astype(np.int32)
        return Glyph(
            commands=commands,
            coords=example["coords"],
            contour_ids=np.cumsum((commands == NEW) | (commands == HOLE), dtype=np.int32) - 1,
            topology=topology_bits(commands),
            norm=example["norm"],
            em=float(example["em"]),
            codepoint=int(example["codepoint"]),
            name=example["name"].decode(),
            **self.record.faces[example["face"]],
        )

    def _damaged(self, what: str) -> UserError:
        return UserError(f"{self.folder} is damaged: {what}: prepare it again by scripts/prepare_data.py")
