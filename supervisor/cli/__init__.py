"""The `holdfast` command: run, check, new."""
