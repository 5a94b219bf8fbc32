"""The trainer: state, optimizer, step, loop, checkpoints, evaluation, report. It knows tasks, never systems."""
