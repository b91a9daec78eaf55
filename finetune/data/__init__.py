"""Datasets: reading, checking and converting what a user trains on, before a model is loaded."""
