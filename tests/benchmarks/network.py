"""Hosts on a slow network, on one machine: network namespaces, their links limited by tc's token bucket, delayed here.

Every host is a namespace with one interface (``eth0``), the end of a tap device. Its other end is a file that a process
of ours reads: the switch, which holds every frame back for the latency and hands it to the host it is for. The rate of
what a host sends is limited by ``tbf`` in the kernel; what it receives is limited by its senders alone. netem would do
without the switch, but many kernels come without it.

Needs Linux, the right to make namespaces and taps (root, or ``unshare -rn``), ``ip`` and ``tc``.
"""

from __future__ import annotations

import fcntl
import heapq
import multiprocessing
import os
import select
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_TUNSETIFF, _TAP, _NO_HEADER = 0x400454CA, 0x0002, 0x1000
_MTU = 9000
_SUBNET = "10.88.0"


class NoNetworkError(RuntimeError):
    """This machine does not let us make hosts; the message says why."""


class Network:
    """Some hosts while :func:`network` is entered.

    Attributes:
        hosts: names of their namespaces. addresses: their IPv4 addresses.
    """

    def __init__(self, hosts: Sequence[str]) -> None:
        self.hosts = list(hosts)
        self.addresses = [f"{_SUBNET}.{number + 1}" for number in range(len(hosts))]
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, host: int, command: Sequence[str], **keywords: Any) -> subprocess.Popen[bytes]:
        """A process on a host; it is ended with the network."""
        process = subprocess.Popen(["ip", "netns", "exec", self.hosts[host], *command], **keywords)
        self._started.append(process)
        return process

    def end(self) -> None:
        """Ask what still runs to end."""
        for process in self._started:
            if process.poll() is None:
                process.terminate()

    def limit(self, rate_mbit: float) -> None:
        """Let every host send so much, from now on."""
        burst = max(16_000, int(rate_mbit * 1e6 / 8 / 100))  # 10 ms, so that slow timers of the kernel lose nothing
        for host in self.hosts:
            _run("ip", "netns", "exec", host, "tc", "qdisc", "replace", "dev", "eth0", "root", "tbf", "rate",
                 f"{int(rate_mbit * 1000)}kbit", "burst", str(burst), "limit", str(64 << 20))  # fmt: skip


@contextmanager
def network(hosts: int, rate_mbit: float, delay_ms: float) -> Iterator[Network]:
    """So many hosts, each sending at most ``rate_mbit`` Mbit/s, every frame ``delay_ms`` under way.

    Raises:
        NoNetworkError: the machine lacks what this takes.
    """
    for tool in ("ip", "tc"):
        if shutil.which(tool) is None:
            raise NoNetworkError(f"{tool} is not installed (iproute2)")
    if not Path("/dev/net/tun").exists():
        raise NoNetworkError("there is no /dev/net/tun")
    found = Network([f"specfm-{os.getpid()}-{number}" for number in range(hosts)])
    taps: list[int] = []
    switch: Any = None
    try:
        for number, host in enumerate(found.hosts):
            taps.append(_host(number, host, found.addresses[number]))
        found.limit(rate_mbit)
        switch = multiprocessing.get_context("fork").Process(target=_switch, args=(taps, delay_ms / 1e3), daemon=True)
        switch.start()
        yield found
    finally:
        found.end()
        if switch is not None:
            switch.kill()
            switch.join()
        for tap in taps:
            os.close(tap)
        for host in found.hosts:
            subprocess.run(["ip", "netns", "del", host], capture_output=True)


def _host(number: int, host: str, address: str) -> int:
    """Make a namespace with its interface; returns the switch's end."""
    _run("ip", "netns", "add", host)
    try:
        tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        name = f"sfm{os.getpid() % 100000}-{number}"
        fcntl.ioctl(tap, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _TAP | _NO_HEADER))
    except OSError as error:
        raise NoNetworkError(f"no tap device can be made ({error})") from None
    _run("ip", "link", "set", name, "netns", host, "name", "eth0")
    inside = ("ip", "-n", host)
    _run(*inside, "link", "set", "lo", "up")
    _run(*inside, "link", "set", "eth0", "address", _mac(number).hex(":"), "mtu", str(_MTU), "txqueuelen", "2000")
    _run(*inside, "addr", "add", f"{address}/24", "dev", "eth0")
    _run(*inside, "link", "set", "eth0", "up")
    return tap


def _mac(number: int) -> bytes:
    return bytes((2, 0, 0, 0, 0, number + 1))


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise NoNetworkError(f"'{' '.join(command)}' failed: {done.stderr.strip()}")


def _switch(taps: list[int], delay_s: float) -> None:
    """Carry frames between the hosts, each after its delay; runs in a process of its own until it is killed."""
    port_of = {_mac(number): tap for number, tap in enumerate(taps)}
    poll = select.epoll()
    for tap in taps:
        poll.register(tap, select.EPOLLIN)
    waiting: list[tuple[float, int, int, bytes]] = []
    sequence = 0
    while True:
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            _, _, tap, frame = heapq.heappop(waiting)
            _send(tap, frame)
        rest = max(0.0, waiting[0][0] - time.monotonic()) if waiting else -1
        for tap, _ in poll.poll(rest):
            for _ in range(64):
                try:
                    frame = os.read(tap, _MTU + 64)
                except BlockingIOError:
                    break
                due, there = time.monotonic() + delay_s, port_of.get(frame[:6])
                for other in taps if there is None else (there,):
                    if other != tap:
                        sequence += 1
                        heapq.heappush(waiting, (due, sequence, other, frame))


def _send(tap: int, frame: bytes) -> None:
    try:
        os.write(tap, frame)
    except OSError:  # the host's queue is full; TCP sends it again, as on any network
        return


def main() -> None:
    """Whether it works here, and how fast: ``python -m tests.benchmarks.network``."""
    with network(2, 100.0, 5.0) as found:
        server = (
            "import socket,sys\ns=socket.create_server(('0.0.0.0', 9000));print('up',flush=True);c,_=s.accept()\n"
            "c.sendall(c.recv(1));n=0\nwhile (d:=c.recv(1<<20)): n+=len(d)\n"
        )
        client = (
            "import socket,time,sys\nc=socket.create_connection((sys.argv[1],9000));t=time.time();c.sendall(b'x')\n"
            "c.recv(1);print(f'round trip {1e3*(time.time()-t):.1f} ms');t=time.time();c.sendall(bytes(12_500_000))\n"
            "c.shutdown(1);c.recv(1);print(f'12.5 MB in {time.time()-t:.2f} s')\n"
        )
        first = found.start(0, ["python3", "-c", server], stdout=subprocess.PIPE)
        assert first.stdout is not None and first.stdout.readline()
        found.start(1, ["python3", "-c", client, found.addresses[0]]).wait(60)
        first.wait(10)


if __name__ == "__main__":
    main()
