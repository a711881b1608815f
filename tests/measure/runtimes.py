"""Runtimes for the tests of the worker: each shows one way to behave."""

import os
import sys
import threading
import time


class Sleeper:
    """Takes one millisecond a token and two to tokenise; talks where it must not."""

    name = "sleeper"
    device = "a bed"

    def __init__(self, path, texts, pairs, max_length):
        self.pace = float(os.path.basename(path))
        self.versions = {"sleeper": "1", "texts": str(len(texts)), "max_length": str(max_length)}
        print("a library that talks on stdout")

    def encode(self, texts, pairs):
        time.sleep(0.002)
        return texts if pairs is None else [f"{t} {p}" for t, p in zip(texts, pairs, strict=True)]

    def forward(self, inputs):
        time.sleep(self.pace * 1e-3 * max(len(text.split()) for text in inputs))


class Restless(Sleeper):
    """Spins a thread while it should wait."""

    def __init__(self, path, texts, pairs, max_length):
        super().__init__(path, texts, pairs, max_length)
        threading.Thread(target=self._spin, daemon=True).start()

    def _spin(self):
        while True:
            pass


class Crashing(Sleeper):
    """Dies at the first text, like a library with a bug in C."""

    def forward(self, inputs):
        sys.stderr.write("terrible things happened in C\n")
        sys.stderr.flush()
        os._exit(11)


class Hanging(Sleeper):
    """Never answers."""

    def forward(self, inputs):
        time.sleep(60)
