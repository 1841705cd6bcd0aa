"""Stage 2, anywhere: read result files and say what they mean. Needs no torch and no device."""
