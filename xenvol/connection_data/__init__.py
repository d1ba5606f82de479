"""What each protocol's ``data`` may hold: one module per protocol, a table of its keys and what they come to.

A module has two classes. The first mirrors the keys as services send them, each with the form that it
takes; from it come the checks, the error messages and the JSON Schema. The second is what a driver works
with: complete, of one spelling, frozen. Nothing here calls anything.
"""
