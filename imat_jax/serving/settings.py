"""What the service takes, from whom, and how much."""

from __future__ import annotations

import dataclasses

LOOPBACK = ("127.0.0.1", "localhost", "::1")  # this machine alone


@dataclasses.dataclass(frozen=True)
class Settings:
    """Limits of the service.

    Attributes:
      token: what callers have to know; "": nothing.
      loopback: only this machine can ask, and only pages of the service itself.
      bytes, seconds: of an upload: its size, and its length as media.
      arrival: seconds that a request may take to arrive. work: that its media may take.
      held: requests with features that are received and read at a time.
      rows: of a batch. waiting: examples, and waiting_media: uploads, that may wait.
      workers: processes that read media. sessions: live streams at a time.
      window, hop: seconds that an answer over time looks at, and from one to the next.
    """

    token: str = ""
    loopback: bool = True
    bytes: int = 64 << 20
    seconds: float = 60.0
    arrival: float = 60.0
    work: float = 120.0
    held: int = 128
    rows: int = 64
    waiting: int = 2048
    waiting_media: int = 16
    workers: int = 1
    sessions: int = 2
    window: float = 3.0
    hop: float = 0.5
