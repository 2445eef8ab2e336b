"""The whole line: models, tasks and protocols to results."""
