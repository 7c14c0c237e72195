"""What an S3 server or its client complains about, in words, and what would help. For manifests, inputs and outputs.

The words of an error are repeated only where it is about a variable: others may hold signed addresses.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from render_farm.uris import S3_ENDPOINTS

_EXPIRED = ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired")
_REGION = (
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
    "InvalidRegion",
    "PermanentRedirect",
    "301",
)
_REFUSED_HEADER = (
    "InvalidArgument",
    "InvalidRequest",
    "InvalidDigest",
    "MissingContentLength",
    "MissingContentMD5",
    "NotImplemented",
    "XAmzContentSHA256Mismatch",
)
"""What stores answer that do not know the headers for checksums of newer clients."""
_CHECKSUMS = ("AWS_REQUEST_CHECKSUM_CALCULATION", "AWS_RESPONSE_CHECKSUM_VALIDATION")
_NO_BUCKET = ("NoSuchBucket", "MethodNotAllowed", "405")
_VARIABLES = {
    "InvalidRegionError": "AWS_DEFAULT_REGION",
    "ProfileNotFound": "AWS_PROFILE",
    "InvalidRetryModeError": "AWS_RETRY_MODE",
    "InvalidMaxRetryAttemptsError": "AWS_MAX_ATTEMPTS",
    "InvalidDefaultsMode": "AWS_DEFAULTS_MODE",
    "InvalidS3UsEast1RegionalEndpointConfigError": "AWS_S3_US_EAST_1_REGIONAL_ENDPOINT",
    "InvalidIMDSEndpointModeError": "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE",
}
"""What botocore raises about a setting of its own, before it asks the store, and the variable of the setting."""
_EXPECTED_REGION = re.compile(r"expecting '([a-z0-9-]+)'")


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What is wrong, as a clause, and what would help."""

    problem: str
    advice: str
    of_this_side: bool = True
    """Credentials, clock or endpoint of the farm are wrong, whatever was asked for."""


def diagnose(error: BaseException, environment: Mapping[str, str] | None = None) -> Diagnosis | None:
    """None for what needs no more than its own words. `environment` holds the endpoint (None: this process's)."""
    environment = os.environ if environment is None else environment
    endpoint = next((environment[name] for name in S3_ENDPOINTS if environment.get(name)), "")
    code, status = s3_code(error)
    if code in _EXPIRED:
        return Diagnosis(
            problem=f"the session token has expired ({code})",
            advice="get new credentials, set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN (or use a "
            "role or a profile, which renew theirs), and run the same command again: it continues",
        )
    if code == "RequestTimeTooSkewed":
        return Diagnosis(
            problem=f"the clocks of this machine and of the store differ ({code})", advice="set this machine's clock"
        )
    if code in _REGION or status == 301:
        return _wrong_region(error, code)
    if found := _wrong_setting(error, environment):
        return found
    if "SSLError" in {type(one).__name__ for one in _chain(error)}:
        return _no_tls(error, endpoint)
    if code in _REFUSED_HEADER and any(environment.get(name, "").lower() != "when_required" for name in _CHECKSUMS):
        return Diagnosis(
            problem=f"the store refuses the request ({code})",
            advice=f"it may not know the checksums that newer clients send: set {_CHECKSUMS[0]}=when_required and "
            f"{_CHECKSUMS[1]}=when_required",
            of_this_side=False,
        )
    if code == "400":  # the answer to a HEAD has no body
        return Diagnosis(
            problem="the store refuses the request and does not say why (400)",
            advice="the session token may have expired (get new credentials), or the bucket may be in another region "
            "(set AWS_DEFAULT_REGION)",
            of_this_side=False,
        )
    parts = urlsplit(endpoint)
    path = parts.path.strip("/")
    if path and code in _NO_BUCKET:
        return Diagnosis(
            problem=f"there is no such bucket at an endpoint with a path (/{path})",
            advice=f"most stores have none: set AWS_ENDPOINT_URL={parts.scheme}://{parts.netloc}, and name the bucket "
            "in the address, as in s3://bucket/folder",
        )
    return None


def _wrong_region(error: BaseException, code: str) -> Diagnosis:
    responses = (getattr(one, "response", None) for one in _chain(error))
    answer: dict[str, Any] = next((found for found in responses if isinstance(found, dict)), {})
    details = answer.get("Error", {})
    headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    named = _EXPECTED_REGION.search(str(details.get("Message", "")))
    region = details.get("Region") or headers.get("x-amz-bucket-region") or (named[1] if named else "")
    return Diagnosis(
        problem=f"the bucket is in another region ({code})",
        advice=f"set AWS_DEFAULT_REGION={region or 'the region of the bucket'}",
        of_this_side=False,
    )


def _wrong_setting(error: BaseException, environment: Mapping[str, str]) -> Diagnosis | None:
    """For a setting of botocore that cannot be used. It comes from a variable, or from the file of settings."""
    for one in _chain(error):
        name, said = type(one).__name__, " ".join(str(one).split()).rstrip(".")
        if name == "HTTPClientError" and (bundle := environment.get("AWS_CA_BUNDLE")):
            try:
                ssl.create_default_context(cafile=bundle)
            except OSError as why:
                problem = f"AWS_CA_BUNDLE={bundle} cannot be used: {why.strerror or why}"
                return Diagnosis(problem=problem, advice="set AWS_CA_BUNDLE to a PEM file with certificates")
        elif name == "ConfigParseError":
            credentials = environment.get("AWS_SHARED_CREDENTIALS_FILE")
            of_credentials = said.endswith(f": {credentials}") or said.endswith(".aws/credentials")
            variable = "AWS_SHARED_CREDENTIALS_FILE" if of_credentials else "AWS_CONFIG_FILE"
            return Diagnosis(problem=said, advice=f"correct that file, or set {variable} to another one")
        elif name == "InvalidChecksumConfigError":
            variable = next((one for one in _CHECKSUMS if one.removeprefix("AWS_").lower() in said), _CHECKSUMS[0])
            return Diagnosis(problem=said, advice=f"correct {variable} or ~/.aws/config")
        elif name in _VARIABLES:
            return Diagnosis(problem=said, advice=f"correct {_VARIABLES[name]} or ~/.aws/config")
    return None


def _no_tls(error: BaseException, endpoint: str) -> Diagnosis:
    said = " ".join(str(one) for one in _chain(error))
    where = endpoint or "the store"
    if re.search("wrong.version.number|record.layer|unknown.protocol|http.request", said, re.IGNORECASE):
        plain = endpoint.replace("https://", "http://", 1)
        return Diagnosis(problem=f"{where} does not speak TLS", advice=f"set AWS_ENDPOINT_URL={plain}")
    if re.search("hostname mismatch|doesn't match|not valid for", said, re.IGNORECASE):
        return Diagnosis(
            problem=f"the certificate of {where} is of another name",
            advice="set AWS_ENDPOINT_URL to the name that the certificate has",
        )
    if re.search("certificate.verify.failed|self.signed", said, re.IGNORECASE):
        return Diagnosis(
            problem=f"the certificate of {where} cannot be trusted",
            advice="set AWS_CA_BUNDLE to a PEM file with the certificate of your own authority",
        )
    return Diagnosis(problem=f"no secure connection to {where}", advice="check AWS_ENDPOINT_URL and the network")


def s3_code(error: BaseException | None) -> tuple[str, int]:
    """Error code and HTTP status of the server's answer behind `error`; "" and 0 when there was no answer."""
    for one in _chain(error):
        response = getattr(one, "response", None)
        if isinstance(response, dict) and "Error" in response:
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            return str(response["Error"].get("Code", "")), int(status or 0)
    return "", 0


def _chain(error: BaseException | None) -> list[BaseException]:
    found = []
    while error is not None:
        found.append(error)
        error = error.__cause__
    return found
