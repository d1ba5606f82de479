"""Drivers: the contract, the registry that finds them by name, and one module per protocol that xenvol has itself."""
