"""A fresh interpreter a release: imports the app once, then forks a worker for each request of the master."""
