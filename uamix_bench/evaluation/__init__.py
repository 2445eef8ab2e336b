"""Few-shot evaluation: from models, tasks and protocols to results."""
