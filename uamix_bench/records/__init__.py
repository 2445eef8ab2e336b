"""Persisted records of results, fine-tunings and trainings, with store, provenance, export and verification."""
