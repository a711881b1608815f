"""The implementation of each command, as functions that the commands and the stages of a compression share."""
