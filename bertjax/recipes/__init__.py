"""The dataclasses of every command and stage. Importing them imports no jax, so that configs and helps cost nothing."""
