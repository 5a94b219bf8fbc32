"""The health of a training: what a model really uses, and (as the project grows) audits and monitors."""
