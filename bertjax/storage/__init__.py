"""Files and folders: local or in a bucket, atomic replacement, locks, and checks of their contents."""
