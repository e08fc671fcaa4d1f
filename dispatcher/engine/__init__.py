"""The engine: owns the machine, and does what it says."""

from dispatcher.engine.snapshot import Engine
from dispatcher.engine.tickets import Ticket

__all__ = ["Engine", "Ticket"]
