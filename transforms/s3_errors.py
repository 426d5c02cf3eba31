"""What S3 and botocore raise, as the errors that `patience` tells apart."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus

from botocore.exceptions import ConnectionError as NoConnectionError
from botocore.exceptions import (
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
)
from botocore.parsers import ResponseParserError

from transforms.patience import ShortRead, status_of

_PASSING_CODES = {
    *("RequestTimeout", "IncompleteBody", "BadDigest", "XAmzContentSHA256Mismatch"),
    *("ConditionalRequestConflict", "OperationAborted"),
}
"""What the connection or another writer did to a request, though the status is 4xx."""


@contextmanager
def as_os_errors() -> Iterator[None]:
    """The errors of botocore raised as OSError, as s3fs does for most answers of a store.

    Raises:
        ShortRead: The body is not what was announced.
        PermissionError: There are no credentials.
        FileNotFoundError: No bucket can have such a name.
        OSError: Anything else that may pass, and what s3fs raises.
    """
    try:
        yield
    except (IncompleteReadError, FlexibleChecksumError) as error:
        raise ShortRead(str(error)) from error
    except (HTTPClientError, NoConnectionError, ResponseParserError) as error:
        raise OSError(str(error)) from error
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise PermissionError(str(error)) from error
    except ParamValidationError as error:
        raise FileNotFoundError(str(error)) from error
    except OSError as error:
        code = _code(error)
        if code in _PASSING_CODES:
            # Without its cause, whose status would be taken for final.
            raise OSError(errno.EAGAIN, str(error)) from None
        if code == "InvalidBucketName":
            raise FileNotFoundError(str(error)) from error
        raise


def _code(error: OSError) -> str:
    """S3's code for the error that s3fs made `error` of."""
    response = getattr(error.__cause__, "response", None)
    return str(response["Error"].get("Code")) if isinstance(response, dict) else ""


def is_unknown(error: OSError) -> bool:
    """Whether the store does not know what a request asks for, such as a condition."""
    return _code(error) == "NotImplemented" or status_of(error) == HTTPStatus.NOT_IMPLEMENTED
