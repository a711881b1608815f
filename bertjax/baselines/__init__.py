"""What every result is held against."""
