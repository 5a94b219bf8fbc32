"""Data: finite sources, the plan that says which examples make up the batch at a step, and the loader."""
