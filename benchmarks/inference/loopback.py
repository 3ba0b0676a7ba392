"""What the loopback device has carried, and the memory a process has held at most."""

from __future__ import annotations

from pathlib import Path


def carried() -> int:
    """Bytes over the loopback so far, headers included; each byte once."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, counters = line.partition(":")
        if name.strip() == "lo":
            return int(counters.split()[0])
    raise RuntimeError("there is no loopback device")


def peak_mb(pid: int | str = "self") -> float:
    """The most resident memory a process has had, in MB; 0 when it is gone."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1000
    except OSError:
        pass
    return 0.0
