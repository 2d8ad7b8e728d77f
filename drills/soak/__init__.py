"""Random schedules of faults, load and operators' commands, and what must hold whatever they are."""
