"""The master: owns sockets and processes, runs the machines, answers the control API. Imports no app code."""
