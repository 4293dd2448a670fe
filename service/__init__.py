"""Scores tabular records with a published bundle, live over HTTP or a file at a time."""
