"""A Google Cloud Storage on 127.0.0.1 for tests and benchmarks: gcsfs, google-cloud-storage and Beam speak to it.

In a test:

    with gcs_server.serve() as gcs:
        gcs.put("bucket", "a.jpg", content)
        gcs.set(faults=Faults(seed=1, status_503=0.1), latency_seconds=0.03)
        ...  # clients that see the variables of gcs.environment

By hand: `python -m tests.gcs_server --port 9000`, and `GcsServer("http://127.0.0.1:9000")` for its controls.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tests import loopback
from tests.gcs_faults import Faults

OBJECT_READS = ("download", "metadata")
"""For `deny`: the kinds of requests that need permission to read an object."""


@dataclass(frozen=True)
class Settings:
    """How the server behaves besides being right.

    Attributes:
        faults: What fails now and then.
        latency_seconds: Waited before every answer.
        list_latency_seconds: Waited besides for every page of a listing.
        deny: Kinds of requests that are answered with 403, or ("all",).
        outage: Whether everything is answered with 503.
        rewrite_bytes: As much is copied by one rewriteTo; the client asks again for the rest.
        keys_a_page: No more are in a page of a listing, however many are asked for.
        places: Where buckets lie: a region or a multi-region, or the name of a pair and the two regions of it;
            others are in US-CENTRAL1.
    """

    faults: Faults = field(default_factory=Faults)
    latency_seconds: float = 0.0
    list_latency_seconds: float = 0.0
    deny: tuple[str, ...] = ()
    outage: bool = False
    rewrite_bytes: int = 1 << 40
    keys_a_page: int = 1000
    places: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Counts:
    """What was asked of the server since it started or was reset.

    Attributes:
        requests: By kind, failed ones included; the parts of a batch each.
        downloads: By "bucket/name", failed ones and ranges included.
        faults: By name, as they happened.
        peak_in_flight: The most requests that were under way at one time.
    """

    requests: Mapping[str, int]
    downloads: Mapping[str, int]
    faults: Mapping[str, int]
    peak_in_flight: int


class GcsServer(loopback.Controls):
    """The controls of a server that runs at `url`, from whichever process."""

    @property
    def environment(self) -> dict[str, str]:
        """Variables that lead gcsfs, google-cloud-storage and Beam here.

        The last spares a new process the search for a metadata server; where google.auth is imported
        already, gcsfs needs `token="anon"` or `write_credentials` for that.
        """
        return {
            "STORAGE_EMULATOR_HOST": self.url,
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
            "NO_GCE_CHECK": "true",
        }

    def write_credentials(self, path: Path) -> Path:
        """A service account that this server gives tokens to, for GOOGLE_APPLICATION_CREDENTIALS.

        Beam looks for credentials for 22 s where there are none.
        """
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import rsa

        key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        account = {
            "type": "service_account",
            "project_id": "project",
            "private_key_id": "1",
            "private_key": key.decode(),
            "client_email": "tester@project.iam.gserviceaccount.com",
            "client_id": "1",
            "token_uri": f"{self.url}/token",
        }
        path.write_text(json.dumps(account))
        return path

    def create_bucket(self, bucket: str) -> None:
        """Make an empty bucket; nothing happens where it is there. The methods below make theirs."""
        self.control("create_bucket", bucket=bucket)

    def put(self, bucket: str, name: str, content: bytes) -> int:
        """Store an object; returns its generation."""
        return self.control("put", bucket=bucket, name=name, content=base64.b64encode(content).decode())

    def fill(self, bucket: str, pattern: str, count: int, contents: Sequence[bytes] = (b"",)) -> None:
        """Store `count` objects named `pattern.format(0)`, ...; they take turns with `contents`."""
        encoded = [base64.b64encode(content).decode() for content in contents]
        self.control("fill", bucket=bucket, pattern=pattern, count=count, contents=encoded)

    def put_directory(self, directory: Path, bucket: str, prefix: str = "") -> int:
        """Store the files below a local directory as `prefix` + relative path; returns how many."""
        return self.control("put_directory", directory=str(directory), bucket=bucket, prefix=prefix)

    def objects(self, bucket: str, prefix: str = "") -> list[str]:
        """Names in a bucket, sorted."""
        return self.control("objects", bucket=bucket, prefix=prefix)

    def get(self, bucket: str, name: str) -> bytes:
        """An object's content."""
        return base64.b64decode(self.control("get", bucket=bucket, name=name))

    def delete(self, bucket: str, name: str) -> None:
        """Forget an object."""
        self.control("delete", bucket=bucket, name=name)

    def set(self, **changes: Any) -> None:
        """Change some of `Settings`, at once; the others stay."""
        settings = asdict(replace(Settings(), **changes))
        self.control("set", **{name: settings[name] for name in changes})

    @property
    def counts(self) -> Counts:
        """What was asked so far."""
        return Counts(**self.control("counts"))

    def reset_counts(self) -> None:
        """Count from zero."""
        self.control("reset_counts")

    def reset(self) -> None:
        """Forget buckets, objects, settings and counts."""
        self.control("reset")


@contextmanager
def serve(port: int = 0) -> Iterator[GcsServer]:
    """A server in a process of its own, at a free port unless told; it ends with this process at the latest."""
    with loopback.serve("tests.gcs_server", port) as url:
        yield GcsServer(url)


def main() -> None:
    """Run a server until it is killed; the first line of stdout is its URL."""
    from tests.gcs_service import Service

    loopback.main("A Google Cloud Storage in memory, on 127.0.0.1.", lambda origin: Service(origin).handle)


if __name__ == "__main__":
    main()
