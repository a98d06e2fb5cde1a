"""Pure logic: no I/O, no clock, no logging. What changes with time or chance is an argument."""
