"""Typed messages between holdfast's own processes, and what the control API shows. Data only."""
