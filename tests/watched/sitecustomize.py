"""First on PYTHONPATH, so that every Python process of a test writes down what it asks of the network."""

import os
import sys

LOG = os.environ["WATCHED_LOG"]
ASKING = {"socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo", "socket.gethostbyname",
          "socket.gethostbyaddr", "urllib.Request"}  # fmt: skip


def watch(event: str, arguments: tuple) -> None:
    if event in ASKING:
        with open(LOG, "a", encoding="utf-8") as log:
            log.write(f"{event}\t{arguments[1:] if event.startswith('socket.connect') else arguments}\n")


with open(LOG, "a", encoding="utf-8") as log:
    log.write(f"watching\t{sys.argv[:2] if hasattr(sys, 'argv') else ()}\n")
sys.addaudithook(watch)
