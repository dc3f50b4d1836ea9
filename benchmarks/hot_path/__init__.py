"""Where the microseconds of a small request go, stage by stage."""
