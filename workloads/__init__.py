"""The work: one file for each workload; the file name is the workload's name."""
