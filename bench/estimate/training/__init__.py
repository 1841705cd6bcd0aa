"""Training steps: physics with coefficients fitted to published steps, corrected by how like stacks did."""
