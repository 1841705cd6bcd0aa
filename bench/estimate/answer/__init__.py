"""Answers: from a step to a run: does it fit, how long, how much energy and money, and what could be done instead."""
