"""A package none of whose drivers can be imported."""
