"""What a person reads: the table in the terminal."""
