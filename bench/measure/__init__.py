"""Stage 1, on a lab machine: plan, run, time, record."""
