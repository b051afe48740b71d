"""The service under load, beside the same service without batches: python benchmarks/serving.py OUT

OUT is an artefact. Two services on this machine, one that batches and one that computes one example
at a time, are asked in turn by 1, 8 and 64 clients with features of utterances; each answer is
checked against what the artefact says of that very request. Prints requests a second, latencies
and memory.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np

from imat_jax import artifact

KINDS = 97  # different requests
CLOSE = 2e-5  # values are answered with six digits


def make(artefact: artifact.Artifact) -> tuple[list[bytes], np.ndarray]:
    """Bodies of requests, without their ids, and the values [KINDS, V] that they are to have."""
    random = np.random.default_rng(0)
    examples = [
        {
            m: random.standard_normal((int(random.integers(5, 60)), info["dim"])).round(3)
            for m, info in artefact.modalities.items()
        }
        for _ in range(KINDS)
    ]
    bodies = [json.dumps({m: x.tolist() for m, x in e.items()})[1:].encode() for e in examples]
    return bodies, np.stack([answer.values for answer in artefact.predict(examples)])


@contextlib.contextmanager
def service(folder: str, *flags: str) -> Iterator[tuple[int, int]]:
    """(port, process id) of a service."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "imat_jax.serve", folder, f"--port={port}", *flags]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            if process.poll() is not None:
                sys.exit("the service did not start; python -m imat_jax.serve says why")
            time.sleep(0.2)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait()


async def client(port: int, numbers: Iterator[int], bodies: list[bytes], wanted: np.ndarray):
    """Latencies in seconds, and how many answers were not right."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    latencies, wrong = [], 0
    for k in numbers:
        body = f'{{"id": "{k}", '.encode() + bodies[k % KINDS]
        head = (
            f"POST /predict?detail=false HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}"
        )
        begun = time.perf_counter()
        writer.write(head.encode() + b"\r\nContent-Type: application/json\r\n\r\n" + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.partition(b":")[2])
            for line in answer.split(b"\r\n")
            if line.lower().startswith(b"content-length:")
        )
        said = json.loads(await reader.readexactly(length))
        latencies.append(time.perf_counter() - begun)
        values = np.array(list(said.get("prediction", {}).get("values", {}).values()))
        right = said.get("id") == str(k) and values.shape == wanted[0].shape
        wrong += not (right and np.abs(values - wanted[k % KINDS]).max() < CLOSE)
    writer.close()
    return latencies, wrong


async def load(port: int, clients: int, requests: int, bodies, wanted) -> dict[str, float]:
    numbers = iter(range(requests))
    begun = time.perf_counter()
    done = await asyncio.gather(*(client(port, numbers, bodies, wanted) for _ in range(clients)))
    seconds = time.perf_counter() - begun
    latencies = np.concatenate([latencies for latencies, _ in done])
    p50, p95, p99 = 1000 * np.percentile(latencies, [50, 95, 99])
    return {
        "requests": len(latencies), "wrong": sum(wrong for _, wrong in done),
        "a second": len(latencies) / seconds, "p50 ms": p50, "p95 ms": p95, "p99 ms": p99,
    }  # fmt: skip


def memory(pid: int) -> float:
    """Resident, in MB."""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artifact")
    parser.add_argument("--requests", type=int, default=2000, help="of each line")
    parser.add_argument(
        "--many", type=int, default=10_000, help="of the last line, with 64 clients"
    )
    args = parser.parse_args()
    bodies, wanted = make(artifact.load(args.artifact))
    wrong = 0
    with service(args.artifact) as batching, service(args.artifact, "--batch=1") as single:
        servers = {"batches": batching, "one by one": single}
        for port, _ in servers.values():  # what is compiled on the way is not counted
            asyncio.run(load(port, 64, 500, bodies, wanted))
        lines = [(n, args.requests) for n in (1, 8, 64)] + [(64, args.many)]
        for clients, requests in lines:
            for name, (port, pid) in servers.items():
                before = memory(pid)
                found = asyncio.run(load(port, clients, requests, bodies, wanted))
                wrong += found["wrong"]
                numbers = "  ".join(f"{k} {v:,.5g}" for k, v in found.items())
                grown = f"{before:.0f} to {memory(pid):.0f} MB"
                print(f"{clients:>3} clients, {name:<10}  {numbers}  {grown}", flush=True)
    sys.exit(f"{wrong} answers were wrong" if wrong else 0)


if __name__ == "__main__":
    main()
