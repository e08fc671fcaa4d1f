"""
The rules of the dispatcher, without any I/O.

Nothing in here reads a clock, draws a random number, waits, logs, or imports what could
(import-linter holds it to that). The time and the randomness are arguments, so the same
stimuli in the same order have the same effects.
"""
