"""The part of Vault's HTTP API that a CA below it needs, as HashiCorp documents it, and OpenBao after it: the PKI secrets
engine with its roots and `sign-intermediate`, tokens with a life and a path, AppRole and Kubernetes login, namespaces,
sealing. It refuses what Vault refuses, in Vault's words, and signs as Vault does: subjects are written anew as Go writes
them, the TTL is cut to that of the mount and of the issuer, and the request decides the names.

    vault.py ADDRESS DIRECTORY

DIRECTORY holds `server.pem` and `server.key`. A root token, `root`, is in force. The file `hostile` there, if it has a
word in it, makes it answer as no Vault would.
"""

import datetime
import json
import ssl
import sys
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import ExtensionOID, NameOID

address, directory = sys.argv[1], Path(sys.argv[2])
lock = threading.RLock()
sealed = False
tokens = {"root": {"path": "", "ends": None}}
# By namespace and path.
mounts = {}
approles = {}
kubernetes = {}
PRINTABLE = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 '()+,-./:=?")
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Refused(Exception):
    def __init__(self, status, *errors):
        super().__init__(status, *errors)
        self.status, self.errors = status, list(errors)


def seconds(text):
    """A duration as Vault reads it: a number of seconds, or one with a unit."""
    text = str(text)
    try:
        return int(text[:-1]) * UNITS[text[-1]] if text[-1] in UNITS else int(text)
    except ValueError:
        raise Refused(400, "error converting input for field \"ttl\"") from None


def now():
    return datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)


def attribute(oid, value):
    """As Go's encoding/asn1 writes a string."""
    kind = _ASN1Type.PrintableString if set(value) <= PRINTABLE else _ASN1Type.UTF8String
    return x509.NameAttribute(oid, value, _type=kind)


def pem(certificate):
    return certificate.public_bytes(serialization.Encoding.PEM).decode().strip()


def key_identifier(key):
    return x509.SubjectKeyIdentifier.from_public_key(key)


class Issuer:
    def __init__(self, name, ttl, path_length):
        self.key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([attribute(NameOID.ORGANIZATION_NAME, "Example"), attribute(NameOID.COMMON_NAME, name)])
        builder = x509.CertificateBuilder(subject, subject, self.key.public_key(), x509.random_serial_number())
        self.certificate = (
            builder.not_valid_before(now() - datetime.timedelta(seconds=30))
            .not_valid_after(now() + datetime.timedelta(seconds=ttl))
            .add_extension(x509.BasicConstraints(True, path_length), critical=True)
            .add_extension(usage(), critical=True)
            .add_extension(key_identifier(self.key.public_key()), critical=False)
            .sign(self.key, hashes.SHA256())
        )


def usage():
    return x509.KeyUsage(False, False, False, False, False, True, True, False, False)


class Mount:
    def __init__(self):
        self.most, self.issuers, self.default = 768 * 3600, {}, None

    def generate(self, asked):
        ttl = min(seconds(asked.get("ttl", self.most)), self.most)
        path_length = int(asked.get("max_path_length", -1))
        issuer = Issuer(asked["common_name"], ttl, None if path_length < 0 else path_length)
        name = asked.get("issuer_name", str(uuid.uuid4()))
        self.issuers[name] = issuer
        self.default = self.default or name
        return {"issuer_name": name, "certificate": pem(issuer.certificate), "issuing_ca": pem(issuer.certificate)}

    def issuer(self, name):
        found = self.issuers.get(self.default if name == "default" else name)
        if found is None:
            raise Refused(404 if name != "default" else 400, f"unable to find PKI issuer for reference: {name}")
        return found

    def sign(self, name, asked):
        try:
            request = x509.load_pem_x509_csr(asked["csr"].encode())
        except (KeyError, ValueError):
            raise Refused(400, "certificate request could not be parsed") from None
        if not request.is_signature_valid:
            raise Refused(400, "request signature invalid")
        issuer, mode = self.issuer(name), hostile()
        key = request.public_key()
        constraints = issuer.certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        if constraints.path_length == 0 and mode != "path":
            raise Refused(400, "signing certificate has a max path length of zero, and cannot issue further CA certificates")
        if mode == "path":
            issuer = Issuer("Short", 3600 * 24, 0)
        if mode == "key":
            key = ec.generate_private_key(ec.SECP256R1()).public_key()
        ends = now() + datetime.timedelta(seconds=min(seconds(asked.get("ttl", self.most)), self.most))
        subject = [attribute(one.oid, one.value) for one in request.subject]
        if not asked.get("use_csr_values"):
            subject = [attribute(NameOID.COMMON_NAME, asked["common_name"])]
        length = int(asked.get("max_path_length", -1))
        builder = (
            x509.CertificateBuilder()
            .issuer_name(issuer.certificate.subject)
            .subject_name(x509.Name(subject))
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now() - datetime.timedelta(seconds=30))
            .not_valid_after(min(ends, issuer.certificate.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(True, None if length < 0 else length), critical=True)
            .add_extension(key_identifier(key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(key_identifier(issuer.key.public_key())),
                critical=False,
            )
        )
        if asked.get("use_csr_values"):
            # All extensions of the request but its basic constraints.
            for one in request.extensions:
                if one.oid != ExtensionOID.BASIC_CONSTRAINTS:
                    builder = builder.add_extension(one.value, one.critical)
        else:
            builder = builder.add_extension(usage(), critical=True)
        signed = builder.sign(issuer.key, hashes.SHA256())
        above = issuer.certificate
        if mode == "swapped":
            signed, above = above, signed
        return {
            "certificate": pem(signed),
            "issuing_ca": pem(above),
            "ca_chain": [pem(signed), pem(above)],
            "serial_number": f"{signed.serial_number:x}",
            "expiration": int(signed.not_valid_after_utc.timestamp()),
        }


def hostile():
    path = directory / "hostile"
    return path.read_text().strip() if path.exists() else ""


def new_token(path, ttl):
    token = "hvs." + uuid.uuid4().hex
    tokens[token] = {"path": path, "ends": time.time() + seconds(ttl) if ttl else None}
    return {"auth": {"client_token": token, "lease_duration": seconds(ttl or 0), "renewable": True}}


def may(token, path):
    known = tokens.get(token)
    if known is None or (known["ends"] is not None and known["ends"] < time.time()):
        raise Refused(403, "2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n")
    if not path.startswith(known["path"]):
        raise Refused(403, "1 error occurred:\n\t* permission denied\n\n")


def handle(namespace, path, token, asked):
    """The body of an answer with 200, or None for 204."""
    global sealed
    if path == "sys/unseal":
        sealed = False
        return {"sealed": False}
    if sealed:
        raise Refused(503, "Vault is sealed")
    if path.startswith("auth/") and path.endswith("/login"):
        return log_in(namespace, path, asked)
    may(token, path)
    if path == "sys/seal":
        sealed = True
        return None
    if path == "auth/token/create":
        return new_token(asked.get("path", ""), asked.get("ttl"))
    if path == "auth/token/revoke":
        tokens.pop(asked["token"], None)
        return None
    if path.startswith("sys/mounts/"):
        name = path.removeprefix("sys/mounts/")
        if name.endswith("/tune"):
            mounts[namespace, name.removesuffix("/tune")].most = seconds(asked["max_lease_ttl"])
        else:
            mounts[namespace, name] = Mount()
        return None
    if path.startswith("auth/approle/role/"):
        approles[namespace, asked["role_id"]] = asked
        return None
    if path.startswith("auth/kubernetes/role/"):
        kubernetes[namespace, path.removeprefix("auth/kubernetes/role/")] = asked
        return None
    for (of, name), mount in mounts.items():
        if of == namespace and path.startswith(name + "/"):
            return {"data": pki(mount, path.removeprefix(name + "/"), asked)}
    raise Refused(404, f"no handler for route \"{path}\". route entry not found.")


def log_in(namespace, path, asked):
    if path == "auth/approle/login":
        role = approles.get((namespace, asked.get("role_id")))
        if role is None or role["secret_id"] != asked.get("secret_id"):
            raise Refused(400, "invalid role or secret ID")
        return new_token(role["path"], "1m")
    if path == "auth/kubernetes/login":
        role = kubernetes.get((namespace, asked.get("role")))
        if role is None or role["jwt"] != asked.get("jwt"):
            raise Refused(403, "permission denied")
        return new_token(role["path"], "1m")
    raise Refused(403, "permission denied")


def pki(mount, path, asked):
    parts = path.split("/")
    if path == "root/sign-intermediate":
        return mount.sign("default", asked)
    if parts[0] == "issuer" and parts[2:] == ["sign-intermediate"]:
        return mount.sign(parts[1], asked)
    if path in ("root/generate/internal", "root/rotate/internal"):
        return mount.generate(asked)
    if path == "config/issuers":
        mount.issuer(asked["default"])
        mount.default = asked["default"]
        return {"default": mount.default}
    raise Refused(404, "unsupported path")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.removeprefix("/v1/")
        signs = path.endswith("sign-intermediate")
        if signs and hostile() == "hangs":
            print("asked, and hangs", flush=True)
            threading.Event().wait()
        if signs and hostile() == "endless":
            self.endless()
            return
        try:
            if not self.path.startswith("/v1/"):
                raise Refused(404)
            with lock:
                namespace = self.headers.get("X-Vault-Namespace", "").strip("/")
                answer = handle(namespace, path, self.headers.get("X-Vault-Token"), json.loads(body or b"{}"))
            status = 204 if answer is None else 200
            answer = answer and {"request_id": str(uuid.uuid4()), **answer}
        except Refused as refused:
            status, answer = refused.status, {"errors": refused.errors}
        if signs and hostile() == "elsewhere":
            status, answer = 307, {}
        print(f"{status} {path}", flush=True)
        text = b"" if answer is None else json.dumps(answer).encode()
        self.send_response(status)
        if status == 307:
            self.send_header("Location", f"https://{address}/v1/elsewhere")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def endless(self):
        """A billion bytes of JSON, or as many as are read."""
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(1_000_000_000))
        self.end_headers()
        sent, piece = 0, b" " * 65536
        try:
            while sent < 1_000_000_000:
                self.wfile.write(piece)
                sent += len(piece)
        except OSError:
            self.close_connection = True
        print(f"endless: {sent} bytes were taken", flush=True)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True


host, port = address.rsplit(":", 1)
server = Server((host, int(port)), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(directory / "server.pem", directory / "server.key")
server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
server.serve_forever()
