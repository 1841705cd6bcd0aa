"""The shared table: what is put there, checked beforehand and redacted, and what is taken out again."""
