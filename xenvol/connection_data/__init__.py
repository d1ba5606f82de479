"""Parse what the service sent: the envelope, then each protocol's ``data``, one module per protocol. Makes no calls.

The module of a protocol has two classes. The first is the table of keys as services send them, each with the form that
it takes; the checks, the error texts and the JSON Schema come from it. The second is the parsed volume that a driver
works with: complete, normalized, frozen.
"""
