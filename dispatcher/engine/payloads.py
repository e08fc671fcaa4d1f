"""Which payloads memory holds; the others are read from the journal when their turn comes."""

from dispatcher.core.job import Job


class Payloads:
    """Counts the bytes of the payloads that jobs hold."""

    def __init__(self, *, on_disk: bool) -> None:
        """*on_disk*: the journal can be asked for them, so that memory need not hold them."""
        self._on_disk = on_disk
        self.held_bytes = 0

    def keep(self, job: Job, bytes_max: int | None = None) -> None:
        """Count the payload of a new job, or leave it to the journal beyond *bytes_max* in all."""
        if job.payload is None:
            return
        held_bytes = self.held_bytes + len(job.payload)
        if self._on_disk and bytes_max is not None and held_bytes > bytes_max:
            job.payload = None
        else:
            self.held_bytes = held_bytes

    def forget(self, job: Job) -> None:
        """Leave the payload to the journal once the cloud has it; a retry reads it again."""
        if self._on_disk:
            self.drop(job)

    def drop(self, job: Job) -> None:
        """Let go of a payload that is not needed any more."""
        if job.payload is not None:
            self.held_bytes -= len(job.payload)
            job.payload = None
