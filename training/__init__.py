"""Fits a variational autoencoder to a table of mostly normal records and publishes it as a bundle for the service."""
