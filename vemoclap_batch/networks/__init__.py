"""Networks that no library provides."""
