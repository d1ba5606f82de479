"""Drivers: the contract, the registry that finds a driver by name, and one module per built-in protocol."""
