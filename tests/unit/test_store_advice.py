"""What an S3 server complains about, as clauses with what helps. tests/farm/test_s3_faults.py has real servers."""

from __future__ import annotations

import certifi
import pytest
from botocore.exceptions import (
    ClientError,
    ConfigParseError,
    HTTPClientError,
    InvalidChecksumConfigError,
    InvalidRegionError,
    ProfileNotFound,
    SSLError,
)

from render_farm.store_advice import diagnose

HTTPS = {"AWS_ENDPOINT_URL": "https://store.example:9000"}
NEW = {"AWS_REQUEST_CHECKSUM_CALCULATION": "when_required", "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required"}


def refused(code: str, status: int = 400, message: str = "", **more: str) -> OSError:
    """As s3fs raises it."""
    answer = {"Error": {"Code": code, "Message": message, **more}, "ResponseMetadata": {"HTTPStatusCode": status}}
    error = OSError(message)
    error.__cause__ = ClientError(answer, "PutObject")
    return error


@pytest.mark.parametrize(
    ("error", "environment", "problem", "advice"),
    [
        (refused("ExpiredToken"), {}, "session token has expired", "AWS_SESSION_TOKEN"),
        (refused("RequestTimeTooSkewed", 403), {}, "clocks", "set this machine's clock"),
        (
            refused("AuthorizationHeaderMalformed", Region="eu-west-1"),
            {},
            "another region",
            "AWS_DEFAULT_REGION=eu-west-1",
        ),
        (
            refused("AuthorizationHeaderMalformed", message="expecting 'ap-east-1'"),
            {},
            "another",
            "ap-east-1",
        ),
        (refused("PermanentRedirect", 301), {}, "another region", "the region of the bucket"),
        (refused("InvalidArgument", message="x-amz-sdk"), {}, "InvalidArgument", "CALCULATION=when_required"),
        (refused("NotImplemented", 501), {}, "NotImplemented", "CALCULATION=when_required"),
        (refused("NoSuchBucket", 404), {"AWS_ENDPOINT_URL": "http://h:1/s3"}, "a path (/s3)", "URL=http://h:1,"),
        (refused("MethodNotAllowed", 405), {"AWS_ENDPOINT_URL_S3": "https://h/s3/"}, "(/s3)", "URL=https://h,"),
        (
            SSLError(endpoint_url="https://store.example:9000", error="[SSL: WRONG_VERSION_NUMBER]"),
            HTTPS,
            "https://store.example:9000 does not speak TLS",
            "AWS_ENDPOINT_URL=http://store.example:9000",
        ),
        (
            SSLError(endpoint_url="", error="CERTIFICATE_VERIFY_FAILED: self-signed certificate"),
            HTTPS,
            "cannot be trusted",
            "AWS_CA_BUNDLE",
        ),
        (
            SSLError(endpoint_url="", error="CERTIFICATE_VERIFY_FAILED: Hostname mismatch"),
            HTTPS,
            "another name",
            "the name that the certificate has",
        ),
        (SSLError(endpoint_url="", error="alert handshake failure"), {}, "no secure connection to the store", "check"),
        (
            InvalidRegionError(region_name="bad region"),
            {},
            "'bad region' doesn't match",
            "correct AWS_DEFAULT_REGION or",
        ),
        (ProfileNotFound(profile="nobody"), {}, "profile (nobody) could not be found", "correct AWS_PROFILE or"),
        (
            InvalidChecksumConfigError(
                config_key="request_checksum_calculation", valid_options=("when_required",), config_value="never"
            ),
            {},
            "Expected one of ('when_required',) but got never",
            "correct AWS_REQUEST_CHECKSUM_CALCULATION or",
        ),
        (
            InvalidChecksumConfigError(config_key="response_checksum_validation", valid_options=(), config_value="x"),
            {},
            "but got x",
            "correct AWS_RESPONSE_CHECKSUM_VALIDATION or",
        ),
        (ConfigParseError(path="/etc/aws"), {}, "parse config file: /etc/aws", "set AWS_CONFIG_FILE to another"),
        (
            ConfigParseError(path="/etc/keys"),
            {"AWS_SHARED_CREDENTIALS_FILE": "/etc/keys"},
            "parse config file: /etc/keys",
            "set AWS_SHARED_CREDENTIALS_FILE to another",
        ),
        (
            HTTPClientError(error="[Errno 2] No such file or directory"),
            {"AWS_CA_BUNDLE": "/nope"},
            "AWS_CA_BUNDLE=/nope cannot be used: No such file",
            "a PEM file",
        ),
        (HTTPClientError(error="no certificate"), {"AWS_CA_BUNDLE": __file__}, "cannot be used: ", "a PEM file"),
        (refused("400", message="Bad Request"), {}, "does not say why", "expired"),
    ],
)
def test_what_is_wrong_is_said_with_what_helps(error, environment, problem, advice):
    found = diagnose(error, environment)
    assert found is not None and problem in found.problem and advice in found.advice


@pytest.mark.parametrize(
    ("error", "environment"),
    [
        (refused("InvalidArgument"), NEW),
        (refused("NoSuchBucket", 404), {"AWS_ENDPOINT_URL": "http://h:1"}),
        (refused("NoSuchKey", 404), {"AWS_ENDPOINT_URL": "http://h:1/s3"}),
        (refused("AccessDenied", 403), {}),
        (FileNotFoundError("a"), {}),
        (ValueError("a"), {}),
        (HTTPClientError(error="cut short"), {}),
        (HTTPClientError(error="cut short"), {"AWS_CA_BUNDLE": certifi.where()}),
    ],
)
def test_the_rest_speaks_for_itself(error, environment):
    assert diagnose(error, environment) is None


def test_signed_addresses_of_an_answer_are_not_repeated():
    for error in (
        refused("InvalidArgument", message="https://host/a?X-Amz-Signature=topsecret"),
        SSLError(endpoint_url="https://host/a?X-Amz-Signature=topsecret", error="topsecret"),
    ):
        assert "topsecret" not in str(diagnose(error, {}))
