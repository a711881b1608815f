"""Google Cloud Storage on 127.0.0.1: as much of its JSON interface as gcsfs and TensorStore ask for.

Objects live in the memory of the tests, so what a process left when it was killed is there for the next one. As in the
real service nothing is renamed or appended to, every write is a new generation, and preconditions on generations hold.
"""

import base64
import contextlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit


@dataclass
class Stored:
    content: bytes
    generation: int
    updated: str


class Storage(ThreadingHTTPServer):
    """One bucket, called `bucket`, in which `forbidden/` cannot be written. `objects` may be looked at and changed."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Requests)
        self.objects: dict[str, Stored] = {}
        self.uploads: dict[str, tuple[str, bytearray]] = {}
        self.lock = threading.Lock()
        self.generation = 1000
        self.heard: Callable[[str], object] = lambda line: None
        """Is told the first line of every request."""

    @property
    def environment(self) -> dict[str, str]:
        """What makes a process look here: gcsfs and Google's client, then TensorStore, none with credentials."""
        url = f"http://127.0.0.1:{self.server_port}"
        here = {"STORAGE_EMULATOR_HOST": url, "TENSORSTORE_GCS_HTTP_URL": url, "GCE_METADATA_ROOT": url}
        # gcsfs asks for the kind of a bucket through another service, over gRPC.
        return {**here, "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none", "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}

    def names(self, prefix: str = "") -> list[str]:
        with self.lock:
            return sorted(name for name in self.objects if name.startswith(prefix))

    def put(self, name: str, content: bytes | bytearray) -> Stored:
        self.generation += 1
        now = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + f".{self.generation % 1000:03d}Z"
        self.objects[name] = Stored(bytes(content), self.generation, now)
        return self.objects[name]

    def describe(self, name: str) -> dict[str, Any]:
        one = self.objects[name]
        return {
            "kind": "storage#object",
            "id": f"bucket/{name}/{one.generation}",
            "name": name,
            "bucket": "bucket",
            "generation": str(one.generation),
            "metageneration": "1",
            "size": str(len(one.content)),
            "etag": base64.b64encode(str(one.generation).encode()).decode(),
            "timeCreated": one.updated,
            "updated": one.updated,
            "contentType": "application/octet-stream",
            "storageClass": "STANDARD",
        }


class Requests(BaseHTTPRequestHandler):
    server: Storage
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: Any) -> None:
        """Nothing: the output of tests belongs to what they test."""

    def handle_one_request(self) -> None:
        with contextlib.suppress(ConnectionError):  # a client was killed
            super().handle_one_request()

    def do_request(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.chunks() if "chunked" in self.headers.get("Transfer-Encoding", "") else self.rfile.read(length)
        address = urlsplit(self.path)
        asked = dict(parse_qsl(address.query, keep_blank_values=True))
        path = re.sub("^/(download/)?(upload/)?storage/v1/", r"\2", address.path)
        self.server.heard(self.requestline)
        with self.server.lock:
            self.answer(*self.route(path, asked, body))

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_request

    def chunks(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def route(self, path: str, asked: dict[str, str], body: bytes) -> tuple[int, Any, dict[str, str]]:
        """(status, JSON or bytes, headers)."""
        if re.fullmatch("b/bucket", path):
            return 200, {"kind": "storage#bucket", "name": "bucket", "storageClass": "STANDARD", "location": "US"}, {}
        if path == "upload/b/bucket/o":
            return self.upload(asked, body)
        if path == "b/bucket/o":
            return 200, self.listing(asked), {}
        if copy := re.fullmatch("b/bucket/o/(.+)/(rewriteTo|copyTo|moveTo)(?:/b/bucket)?/o/(.+)", path):
            return self.copy(unquote(copy[1]), copy[2], unquote(copy[3]))
        if one := re.fullmatch("b/bucket/o/(.+)", path):
            return self.one_object(unquote(one[1]), asked)
        return 404, {"error": {"code": 404, "message": f"no such thing: {path}"}}, {}

    def one_object(self, name: str, asked: dict[str, str]) -> tuple[int, Any, dict[str, str]]:
        stored = self.server.objects.get(name)
        if refused := self.refused(name, asked):
            return refused
        if stored is None or asked.get("generation", str(stored.generation)) != str(stored.generation):
            return 404, {"error": {"code": 404, "message": f"No such object: bucket/{name}"}}, {}
        if self.command == "DELETE":
            del self.server.objects[name]
            return 204, b"", {}
        if asked.get("alt") != "media":
            return 200, self.server.describe(name), {}
        return self.content(stored)

    def content(self, stored: Stored) -> tuple[int, Any, dict[str, str]]:
        headers = {"x-goog-generation": str(stored.generation), "x-goog-metageneration": "1", "ETag": "etag"}
        size = len(stored.content)
        found = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if not found:
            return 200, stored.content, headers
        first, last = found.groups()
        begin = int(first) if first else max(size - int(last), 0)
        end = min(int(last) + 1 if first and last else size, size)
        if begin >= size:
            return 416, b"", headers | {"Content-Range": f"bytes */{size}"}
        return 206, stored.content[begin:end], headers | {"Content-Range": f"bytes {begin}-{end - 1}/{size}"}

    def refused(self, name: str, asked: dict[str, str]) -> tuple[int, Any, dict[str, str]] | None:
        """What a precondition that does not hold answers; an object that is not there has generation 0."""
        there = str(self.server.objects[name].generation if name in self.server.objects else 0)
        if asked.get("ifGenerationMatch", there) != there:
            return 412, {"error": {"code": 412, "message": "conditionNotMet"}}, {}
        return (304, b"", {}) if asked.get("ifGenerationNotMatch") == there else None

    def upload(self, asked: dict[str, str], body: bytes) -> tuple[int, Any, dict[str, str]]:
        kind, name = asked.get("uploadType"), asked.get("name", "")
        if "upload_id" in asked:
            return self.one_chunk(asked["upload_id"], body)
        if kind == "multipart":
            boundary = re.findall(r'boundary="?([^";]+)', self.headers["Content-Type"])[0].encode()
            _, about, content, _ = re.split(rb"(?:^|\r?\n)--" + re.escape(boundary), body)
            name = json.loads(re.split(rb"\r?\n\r?\n", about, maxsplit=1)[1])["name"]
            body = re.split(rb"\r?\n\r?\n", content, maxsplit=1)[1]
        name = name or json.loads(body)["name"]
        if refused := self.refused(name, asked):
            return refused
        if name.startswith("forbidden/"):
            return 403, {"error": {"code": 403, "message": "no permission to create objects"}}, {}
        if kind == "resumable":
            upload_id = f"upload-{len(self.server.uploads)}"
            self.server.uploads[upload_id] = (name, bytearray())
            host = f"http://{self.headers['Host']}/upload/storage/v1/b/bucket/o"
            return 200, {}, {"Location": f"{host}?uploadType=resumable&upload_id={upload_id}"}
        self.server.put(name, body)
        return 200, self.server.describe(name), {}

    def one_chunk(self, upload_id: str, body: bytes) -> tuple[int, Any, dict[str, str]]:
        name, so_far = self.server.uploads[upload_id]
        so_far += body
        total = self.headers.get("Content-Range", "bytes */*").rpartition("/")[2]
        if total == "*" or len(so_far) < int(total):
            return 308, b"", {"Range": f"bytes=0-{len(so_far) - 1}"}
        self.server.put(name, bytes(so_far))
        return 200, self.server.describe(name), {}

    def copy(self, source: str, how: str, target: str) -> tuple[int, Any, dict[str, str]]:
        if source not in self.server.objects:
            return 404, {"error": {"code": 404, "message": f"No such object: bucket/{source}"}}, {}
        stored = self.server.put(target, self.server.objects[source].content)
        if how == "moveTo":
            del self.server.objects[source]
        about, size = self.server.describe(target), str(len(stored.content))
        rewritten = {"done": True, "resource": about, "objectSize": size, "totalBytesRewritten": size}
        return 200, rewritten if how == "rewriteTo" else about, {}

    def listing(self, asked: dict[str, str]) -> dict[str, Any]:
        prefix, delimiter = asked.get("prefix", ""), asked.get("delimiter")
        after, before = asked.get("startOffset", ""), asked.get("endOffset", "")
        names: list[str] = []
        folders: set[str] = set()
        for name in sorted(self.server.objects):
            if not name.startswith(prefix) or name < after or (before and name >= before):
                continue
            head, found, _ = name[len(prefix) :].partition(delimiter) if delimiter else (name, "", "")
            folders.add(prefix + head + found) if found else names.append(name)
        limit = int(asked.get("maxResults") or 1000)
        page = int(asked.get("pageToken") or 0)
        content: dict[str, Any] = {"kind": "storage#objects", "prefixes": sorted(folders) if page == 0 else []}
        content["items"] = [self.server.describe(name) for name in names[page : page + limit]]
        return content | ({"nextPageToken": str(page + limit)} if len(names) > page + limit else {})

    def answer(self, status: int, content: Any, headers: dict[str, str]) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(0 if status in (204, 304) else len(body))}.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json" if not isinstance(content, bytes) else "application/binary")
        self.end_headers()
        if status not in (204, 304):
            self.wfile.write(body)


@contextlib.contextmanager
def storage() -> Iterator[Storage]:
    """The service while the block runs."""
    server = Storage()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
