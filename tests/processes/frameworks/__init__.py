"""The same small service in each framework, for `tests.processes.test_frameworks`.

`/echo?TEXT` and POST `/echo` give back what they were given, `/items/N` is routing and JSON, `/stream` comes in pieces,
`/error` raises. Each answer names its process and its release, which is read from the file `release` at import.
"""
