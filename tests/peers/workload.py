"""An app that does its own TLS: asks the socket beside it with the SPIFFE library, and writes a line of JSON for each
state that it is shown. SOCKET watch: until it is told that there is nothing any more. SOCKET once: each call once."""

import hashlib
import json
import sys
import threading

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from spiffe import WorkloadApiClient


def say(message, **fields):
    print(json.dumps({"fields": {"message": message, **fields}}), flush=True)


def public(key):
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def show(context):
    svid = context.default_svid
    chain = svid.cert_chain
    bundle = context.x509_bundle_set.get_bundle_for_trust_domain(svid.spiffe_id.trust_domain)
    issuers = chain[1:] + list(bundle.x509_authorities)
    for certificate in chain:
        if certificate.issuer == certificate.subject:
            continue
        issuer = next(issuer for issuer in issuers if issuer.subject == certificate.issuer)
        certificate.verify_directly_issued_by(issuer)
    leaf = chain[0]
    assert public(leaf.public_key()) == public(svid.private_key.public_key()), "the key is another's"
    say(
        "context",
        id=str(svid.spiffe_id),
        serial=format(leaf.serial_number, "032x"),
        key=hashlib.sha256(public(leaf.public_key())).hexdigest(),
        instance=leaf.subject.get_attributes_for_oid(NameOID.SERIAL_NUMBER)[0].value,
        authorities=len(bundle.x509_authorities),
        domains=[str(each.trust_domain) for each in context.x509_bundle_set.bundles],
    )


def watch(client):
    over = threading.Event()

    def failed(error):
        say("error", error=str(error))
        over.set()

    client.stream_x509_contexts(show, failed, retry_connect=False)
    over.wait()


def once(client):
    for name, call in [
        ("svid", lambda: str(client.fetch_x509_svid(timeout=20).spiffe_id)),
        ("bundles", lambda: [str(each.trust_domain) for each in client.fetch_x509_bundles(timeout=20).bundles]),
        ("jwt", lambda: client.fetch_jwt_svid({"orders"}, timeout=20).token),
    ]:
        try:
            say(name, answer=call())
        except Exception as error:
            say(name, error=str(error))


with WorkloadApiClient(sys.argv[1]) as client:
    {"watch": watch, "once": once}[sys.argv[2]](client)
