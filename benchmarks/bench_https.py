"""
What an invocation costs over https, beside the official SDK of Function Compute.

    python benchmarks/bench_https.py [--calls 3200] [--sdk-calls 64] [--rounds 5]

The cloud is a TLS server in a process of its own, whose certificate all trust by `SSL_CERT_FILE`,
beside those that the system trusts, as it would be in production. The SDK is called as its users
do: one client, `invoke_function_with_options_async` with `X-Fc-Invocation-Type: Async`, with as
many in flight as the others have. It gets fewer calls, since it would take all the time. CPU is
that of this process; rounds alternate, medians are compared.
"""

import argparse
import contextlib
import datetime as dt
import ipaddress
import os
import ssl
import subprocess
import sys
from pathlib import Path

from common import (
    PAYLOAD,
    Contender,
    alternate,
    at_once,
    cloud,
    folder,
    machine,
    run,
    table,
)
from contenders import plain_aiohttp, through_dispatcher

IN_FLIGHT = 32
SDK, PLAIN = "official FC SDK, async", "aiohttp, unsigned"


def certificate(base: Path) -> tuple[Path, Path]:
    """Make a certificate for this machine, and its key."""
    from cryptography import x509  # noqa: PLC0415 -- only needed here
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "benchmark")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = base / "certificate.pem", base / "key.pem"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return paths


def trusting(base: Path, certificate: Path) -> dict[str, str]:
    """Return the environment of a process that trusts *certificate* beside what the system trusts."""
    known = ssl.get_default_verify_paths().cafile
    bundle = base / "trusted.pem"
    bundle.write_text((Path(known).read_text() if known else "") + certificate.read_text())
    return {**os.environ, "SSL_CERT_FILE": str(bundle)}


# -- Contenders -----------------------------------------------------------------------------------


def official_sdk(url: str) -> Contender:
    """Call the SDK's asynchronous invoke."""
    from alibabacloud_fc20230330 import models  # noqa: PLC0415 -- only this contender needs it
    from alibabacloud_fc20230330.client import Client  # noqa: PLC0415
    from alibabacloud_tea_openapi.utils_models import Config  # noqa: PLC0415
    from darabonba.runtime import RuntimeOptions  # noqa: PLC0415

    client = Client(
        Config(
            endpoint=url.removeprefix("https://"),
            protocol="https",
            region_id="us-east-1",
            access_key_id="AK",
            access_key_secret="made up",
        )
    )

    async def one() -> None:
        await client.invoke_function_with_options_async(
            "thumbs",
            models.InvokeFunctionRequest(body=PAYLOAD),
            models.InvokeFunctionHeaders(x_fc_invocation_type="Async"),
            RuntimeOptions(),
        )

    return lambda calls: at_once(IN_FLIGHT, calls, one)


async def compare(url: str, base: Path, options: argparse.Namespace) -> None:
    async with contextlib.AsyncExitStack() as stack:
        enter = stack.enter_async_context
        contenders = {
            SDK: official_sdk(url),
            PLAIN: await enter(plain_aiohttp(url, "aliyun-fc", IN_FLIGHT)),
            "dispatcher, memory": await enter(
                through_dispatcher(url, base, "aliyun-fc", "memory:", IN_FLIGHT)
            ),
            "dispatcher, SQLite": await enter(
                through_dispatcher(url, base, "aliyun-fc", "sqlite:fc.db", IN_FLIGHT)
            ),
        }
        calls = dict.fromkeys(contenders, options.calls) | {SDK: options.sdk_calls}
        figures = await alternate(contenders, calls, options.rounds)
    table(
        ("FC over https", "CPU ms/call", "calls/s", "x SDK", "x aiohttp"),
        [
            (
                name,
                f"{figures.cpu_ms(name):.3f}",
                f"{figures.per_s(name):.0f}",
                f"{figures.times(name, SDK):.1f}",
                f"{figures.times(name, PLAIN):.2f}",
            )
            for name in contenders
        ],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--calls", type=int, default=3200, help="in each round")
    parser.add_argument("--sdk-calls", type=int, default=64, help="of the SDK in each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--url", help="of a cloud that runs and is trusted already")
    options = parser.parse_args()
    with folder() as base:
        if options.url:
            run(compare, options.url, base, options)
            return
        print(f"{machine()}; {IN_FLIGHT} in flight, {options.rounds} rounds", flush=True)
        tls = certificate(base)
        with cloud(tls) as url:
            # In a process of its own: aiohttp reads what it trusts when it is imported.
            command = [sys.executable, *sys.argv, "--url", url]
            subprocess.run(command, check=True, env=trusting(base, tls[0]))


if __name__ == "__main__":
    main()
