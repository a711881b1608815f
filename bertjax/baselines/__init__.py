"""Baselines that every result is compared with."""
