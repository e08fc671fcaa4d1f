"""
`dispatcher demo`: three products burst over one quota, first without the dispatcher, then with.

Emulator and sidecar are processes of their own, spoken to over HTTP as real ones would be. The
verdict rests on what the emulator counted, not on what the dispatcher says of itself.
"""

from dispatcher.demo.play import run

__all__ = ["run"]
