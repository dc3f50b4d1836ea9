"""The scheduler's policies compared in the simulator: the same devices and traffic for all."""
