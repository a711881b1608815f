"""Each kind of work, as functions that the commands and the stages of a compression share."""
