"""Tasks: one file per system, binding model, losses, metrics and pictures into what the trainer needs."""

from jaxvae.config import require_one_of
from jaxvae.tasks.glyph_vae import GlyphVAETask
from jaxvae.tasks.task import Task

TASKS = {"glyph_vae": GlyphVAETask}


def build(config) -> Task:
    """The task of a configuration, its keys checked.

    Raises:
      UserError: for a value that cannot work.
    """
    require_one_of(config, "task", TASKS)
    return TASKS[config.task](config)


__all__ = ["TASKS", "Task", "build"]
