"""Files and folders: where they are, how they are replaced without loss, and whether they hold what was written."""
