#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A load test of kvfit_server on loopback: conversations beyond the trained length, then faults.

usage: server.py PROGRAM MODEL TEXT --json FILE [--minutes M] [--clients N] [--faults N] [--seed S]

Half an hour of conversation a client is compressed into one run: clients never pause. A fifth of the
time no cache is compacted and conversations begin anew before they are too long; the rest of the
time each client has one conversation, which is compacted whenever it has 768 rows. Then faults, one
after the other: the server is killed, its disk is full, states are damaged, clients are slow, hang
up, or send what is too large or no request. After each one the server must answer, and a slot that
was saved before all of them must say what it said then.

Exit codes: 0 nothing failed; 1 something did; 2 wrong command.
"""

import argparse
import http.client
import json
import os
import pathlib
import random
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

SAID = 32  # tokens of an answer
TRAINED = 2048
LIMIT = 60  # seconds that any answer may take


class Server:
    def __init__(self, program, model, states, slots, *options):
        self.command = [program, model, "--port", "0", "--states", states, "--slots", str(slots),
                        "--threads", "1", "--queue", "64", "--body", "200000", *options]
        self.start()

    def start(self):
        # pylint: disable-next=consider-using-with
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True)
        self.port = None
        for line in self.process.stdout:
            if line.startswith("listening: "):
                self.port = int(line.rsplit(":", 1)[1])
                break
        if self.port is None:
            raise RuntimeError("the server did not start: " + self.process.stderr.read())

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.process.stderr.close()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(LIMIT)
        self.process.stdout.close()
        self.process.stderr.close()
        return code

    def connect(self):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT)

    def ask(self, method, path, body=None):
        """Status and answer, as JSON where it is."""
        to = self.connect()
        try:
            to.request(method, path, None if body is None else json.dumps(body),
                       {"Content-Type": "application/json"})
            answer = to.getresponse()
            text = answer.read().decode(errors="replace")
        finally:
            to.close()
        try:
            return answer.status, json.loads(text)
        except json.JSONDecodeError:
            return answer.status, text

    def metric(self, name):
        for line in self.ask("GET", "/metrics")[1].splitlines():
            if line.startswith(name + " "):
                return float(line.split()[1])
        return None

    def resident_megabytes(self):
        for line in pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        return 0.0


def say(server, slot, prompt, goes_on, count=SAID, gaps=None):
    """The text said, as it is streamed; seconds between its events go to `gaps`."""
    body = {"prompt": prompt, "max_tokens": count, "stream": True, "slot": slot,
            "goes_on": goes_on}
    to = server.connect()
    text, last = "", None
    try:
        to.request("POST", "/v1/completions", json.dumps(body),
                   {"Content-Type": "application/json"})
        answer = to.getresponse()
        if answer.status != 200:
            raise RuntimeError(f"status {answer.status}: {answer.read().decode()[:300]}")
        for line in answer:
            if not line.startswith(b"data: "):
                continue
            if line.strip() == b"data: [DONE]":
                return text
            event = json.loads(line[6:])
            if "error" in event:
                raise RuntimeError(str(event["error"]))
            now = time.monotonic()
            if last is not None and gaps is not None:
                gaps.append(now - last)
            last = now
            text += event["choices"][0]["text"]
    finally:
        to.close()
    raise RuntimeError("the answer ended early")


def part_of(text, random_source, characters=240):
    at = random_source.randrange(len(text) - characters)
    return " " + text[at:at + characters]


def quantile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None


def load(server, text, clients, seconds, seed, longest):
    """Clients that converse until the time is over. `longest`: tokens after which a conversation
    begins anew, or none."""
    end = time.monotonic() + seconds
    gaps, errors, said, memory = [[] for _ in range(clients)], [], [0] * clients, []

    def converse(slot):
        source = random.Random(seed * 1000 + slot)
        length, goes_on = 0, False
        while time.monotonic() < end:
            prompt = part_of(text, source)
            try:
                say(server, slot, prompt, goes_on, gaps=gaps[slot])
            except Exception as why:  # pylint: disable=broad-exception-caught
                errors.append(f"slot {slot}: {why}")
                return
            said[slot] += SAID
            length += SAID + len(prompt) // 2
            goes_on = longest is None or length < longest
            if not goes_on:
                length = 0

    threads = [threading.Thread(target=converse, args=(slot,)) for slot in range(clients)]
    start = time.monotonic()
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        memory.append((time.monotonic() - start, server.resident_megabytes()))
        time.sleep(min(1.0, seconds / 50))
    took = time.monotonic() - start
    every = [gap for of_slot in gaps for gap in of_slot]
    slots = server.ask("GET", "/slots")[1]["slots"]
    halves = [[m for at, m in memory if low * took <= at < high * took]
              for low, high in ((0.4, 0.7), (0.7, 1.01))]
    return {
        "seconds": round(took, 1),
        "errors": errors,
        "tokens_said": sum(said),
        "tokens_a_second": round(sum(said) / took, 1),
        "p50_ms": round(1e3 * quantile(every, 0.5), 2),
        "p99_ms": round(1e3 * quantile(every, 0.99), 2),
        "longest_gap_ms": round(1e3 * max(every), 1),
        "compactions": sum(each["compactions"] for each in slots),
        "refused": server.metric("kvfit_compactions_refused_total"),
        "longest_stall_ms": round(1e3 * (server.metric("kvfit_longest_stall_seconds") or 0), 1),
        "longest_wait_ms": round(1e3 * (server.metric("kvfit_longest_wait_seconds") or 0), 1),
        "longest_conversation_tokens": max(each["tokens"] for each in slots),
        "most_rows": max(each["rows"] for each in slots),
        "megabytes_40_to_70_percent": round(max(halves[0]), 1),
        "megabytes_70_to_100_percent": round(max(halves[1]), 1),
    }


class Faults:
    """One fault after the other; `wrong` lists what should not have happened."""

    def __init__(self, server, text, states, seed):
        self.server, self.text, self.states = server, text, pathlib.Path(states)
        self.source = random.Random(seed)
        self.wrong = []
        self.counts = {}
        say(server, 0, part_of(text, self.source, 2400), False, 8)
        self.need("POST", "/slots/0/compact", {"ratio": 3}, 200)
        say(server, 0, part_of(text, self.source), True, 8)
        self.need("POST", "/slots/0/save", {"name": "kept"}, 200)
        self.reference = say(server, 0, " And then", True, 12)

    def need(self, method, path, body, *wanted):
        status, said = self.server.ask(method, path, body)
        if status not in wanted:
            self.wrong.append(f"{method} {path} {body}: status {status}, {str(said)[:200]}")
        return said

    def check(self):
        """What was saved before all faults is there, and says what it said."""
        self.need("GET", "/health", None, 200)
        self.need("POST", "/slots/0/restore", {"name": "kept"}, 200)
        again = say(self.server, 0, " And then", True, 12)
        if again != self.reference:
            self.wrong.append(f"said {again!r} instead of {self.reference!r}")

    def raw(self, data, answers=True):
        with socket.create_connection(("127.0.0.1", self.server.port), timeout=LIMIT) as to:
            try:
                to.sendall(data)
                return to.recv(4096) if answers else b""
            except (BrokenPipeError, ConnectionResetError):
                return b""

    def killed(self):
        # While it reads, says, saves or fits: at a random moment.
        def busy():
            try:
                say(self.server, 1, part_of(self.text, self.source, 1500), False, 64)
                self.server.ask("POST", "/slots/1/save", {"name": "other"})
            except Exception:  # pylint: disable=broad-exception-caught
                pass  # the server is gone
        thread = threading.Thread(target=busy)
        thread.start()
        time.sleep(self.source.uniform(0, 0.6))
        self.server.kill()
        thread.join()
        self.server.start()

    def disk_full(self):
        pid = self.server.process.pid
        hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (self.source.randrange(1, 100000), hard))
        self.need("POST", "/slots/0/save", {"name": "kept"}, 507)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))

    def damaged(self):
        saved = bytearray(next(self.states.glob("kept*")).read_bytes())
        if self.source.random() < 0.5:
            saved[self.source.randrange(len(saved))] ^= 1 << self.source.randrange(8)
        else:
            del saved[self.source.randrange(len(saved)):]
        suffix = next(self.states.glob("kept*")).suffix
        (self.states / ("bad" + suffix)).write_bytes(saved)
        self.need("POST", "/slots/0/restore", {"name": "bad"}, 422)

    def slow(self):
        with socket.create_connection(("127.0.0.1", self.server.port), timeout=LIMIT) as to:
            to.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Le")
            say(self.server, 1, part_of(self.text, self.source), False, 4)

    def hung_up(self):
        body = json.dumps({"prompt": part_of(self.text, self.source, 600), "max_tokens": 400,
                           "stream": True, "slot": 1}).encode()
        self.raw(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json"
                 b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    def oversized(self):
        try:
            self.need("POST", "/v1/completions", {"prompt": "x" * 300000}, 413)
        except (BrokenPipeError, ConnectionResetError):
            pass  # refused before all of it was sent

    def malformed(self):
        body = self.source.choice(
            [b"", b"{", b"[]", b"null", b'{"prompt": 3}', b'{"prompt": "a", "max_tokens": -1}',
             b'{"prompt": "a", "surprise": 1}', b"\xff\xfe", b'{"prompt": "a", "slot": 99}',
             bytes(self.source.randrange(256) for _ in range(200))])
        to = self.server.connect()
        try:
            to.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
            status = to.getresponse().status
        finally:
            to.close()
        if status not in (400, 404):
            self.wrong.append(f"malformed {body[:60]!r}: status {status}")
        self.raw(bytes(self.source.randrange(256) for _ in range(80)) + b"\r\n\r\n")

    def outside(self):
        for name in ("../kept", "/etc/passwd", "a/b", "", "x" * 65, "kept\x00"):
            self.need("POST", "/slots/0/restore", {"name": name}, 400)

    def run(self, count):
        kinds = [self.killed, self.disk_full, self.damaged, self.slow, self.hung_up, self.oversized,
                 self.malformed, self.outside]
        for number in range(count):
            kind = kinds[number] if number < len(kinds) else self.source.choice(kinds)
            self.counts[kind.__name__] = self.counts.get(kind.__name__, 0) + 1
            before = len(self.wrong)
            try:
                kind()
                self.check()
            except Exception as why:  # pylint: disable=broad-exception-caught
                self.wrong.append(repr(why))
            for each in self.wrong[before:]:
                print(f"fault {number}, {kind.__name__}: {each}", flush=True)
            if self.server.process.poll() is not None:
                self.wrong.append(f"the server ended with {self.server.process.returncode}")
                break
        return {"faults": count, "kinds": self.counts, "wrong": self.wrong}


def run(asked):
    text = pathlib.Path(asked.text).read_text(encoding="utf-8")
    out = {"clients": asked.clients, "minutes": asked.minutes, "seed": asked.seed,
           "processors": os.cpu_count()}
    with tempfile.TemporaryDirectory() as folder:
        plain = Server(asked.program, asked.model, folder + "/plain", asked.clients)
        out["without_compaction"] = load(plain, text, asked.clients, asked.minutes * 12,
                                         asked.seed, 1500)
        plain.stop()
        print(json.dumps(out["without_compaction"]), flush=True)
        long = Server(asked.program, asked.model, folder + "/long", asked.clients, "--trigger",
                      "768", "--target", "384", "--protect-first", "4", "--protect-recent", "64")
        out["with_compaction"] = load(long, text, asked.clients, asked.minutes * 48, asked.seed,
                                      None)
        long.stop()
        print(json.dumps(out["with_compaction"]), flush=True)
        hurt = Server(asked.program, asked.model, folder + "/hurt", 2)
        faults = Faults(hurt, text, folder + "/hurt", asked.seed)
        out["faults"] = faults.run(asked.faults)
        hurt.stop()
        print(json.dumps(out["faults"]), flush=True)
    pathlib.Path(asked.json).write_text(json.dumps(out, indent=1) + "\n", encoding="utf-8")
    failed = [*out["without_compaction"]["errors"], *out["with_compaction"]["errors"],
              *out["faults"]["wrong"]]
    grown = (out["with_compaction"]["megabytes_70_to_100_percent"] /
             out["with_compaction"]["megabytes_40_to_70_percent"])
    if grown > 1.05:
        failed.append(f"memory grew by {grown:.3f} times in the last third")
    if out["with_compaction"]["longest_conversation_tokens"] <= TRAINED:
        failed.append("no conversation went beyond the trained length")
    return failed


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program")
    parser.add_argument("model")
    parser.add_argument("text")
    parser.add_argument("--json", required=True)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    failed = run(parser.parse_args())
    for each in failed:
        print("FAILED: " + each, file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
