"""An app's slots and the workers in them: who is wanted, who serves, who is on the way in or out. Pure."""
