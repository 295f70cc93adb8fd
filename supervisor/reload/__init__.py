"""The roll: how an app's slots move from one release to the next, and back when the next one fails. Pure."""
