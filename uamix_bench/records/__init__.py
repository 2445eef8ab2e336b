"""Persisted records: results, fine-tunings, trainings; store, provenance, export, verification."""
