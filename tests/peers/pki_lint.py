"""What pkilint and cryptography say of certificates and revocation lists, PEM or DER files named on the command line, as
one JSON object: of each file pkilint's findings, and of lists what is in them and whether the issuer's key signed them.

    pki_lint.py FILE... where a list is ISSUER:LIST
"""

import contextlib
import io
import json
import sys

from cryptography import x509
from pkilint.bin import lint_crl, lint_pkix_cert


def findings(lint, arguments):
    """Codes of all that is at least a warning."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        lint.main(["lint", "--severity", "WARNING", "--format", "JSON", *arguments])
    results = json.loads(printed.getvalue())["results"]
    return sorted(found["code"] for result in results for found in result["finding_descriptions"])


def certificate_of(file):
    with open(file, "rb") as opened:
        return x509.load_pem_x509_certificate(opened.read())


def certificate(file):
    read = certificate_of(file)
    names = [extension.oid._name for extension in read.extensions]
    return {"findings": findings(lint_pkix_cert, [file]), "extensions": names}


def revocation_list(issuer, file):
    with open(file, "rb") as opened:
        read = x509.load_der_x509_crl(opened.read())
    found = {type(extension.value): extension.value for extension in read.extensions}

    def serial(entry):
        return entry.serial_number.to_bytes(20, "big").lstrip(b"\0").hex()

    def reason(entry):
        codes = entry.extensions
        return codes.get_extension_for_class(x509.CRLReason).value.reason.value if len(codes) else None

    return {
        "findings": findings(lint_crl, ["--type", "CRL", "--profile", "PKIX", file]),
        "signed": read.is_signature_valid(certificate_of(issuer).public_key()),
        "number": found[x509.CRLNumber].crl_number,
        "base": found[x509.DeltaCRLIndicator].crl_number if x509.DeltaCRLIndicator in found else None,
        "entries": {serial(entry): reason(entry) for entry in read},
    }


answers = {}
for argument in sys.argv[1:]:
    issuer, colon, listed = argument.partition(":")
    answers[listed or issuer] = revocation_list(issuer, listed) if colon else certificate(issuer)
json.dump(answers, sys.stdout)
