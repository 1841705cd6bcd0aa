"""Serving: prefill and decode by physics, with rates of each software on each chip, and the power they draw."""
