"""An OpenID provider (oidc-provider-mock: Authlib, Flask) whose signing keys are files for a test to rotate.

KEYS holds one PKCS#8 PEM for each key of the JWKS, named by its kid, and `signing`, a link to the RSA key that
signs. It is read for every request.
"""

import os
import sys
from pathlib import Path

os.environ["AUTHLIB_INSECURE_TRANSPORT"] = "1"

import flask
import uvicorn
from authlib.jose import JsonWebKey, KeySet
from oidc_provider_mock import _app as provider

address, keys = sys.argv[1], Path(sys.argv[2])


def key(path):
    return JsonWebKey.import_key(path.read_bytes(), {"kid": path.stem, "use": "sig"})


class Storage(provider.Storage):
    """Signs with the key in force instead of one that it made itself."""

    @property
    def jwk(self):
        return key((keys / "signing").resolve())

    @jwk.setter
    def jwk(self, generated):
        pass


def jwt_config(grant, *arguments, usual=provider.OpenIDCode.get_jwt_config, **options):
    config = usual(grant, *arguments, **options)
    return {**config, "kid": config["key"]["kid"]}


provider.Storage = Storage
# Without it, an ID token would not say which key signed it.
provider.OpenIDCode.get_jwt_config = jwt_config
app = provider.app()
app.view_functions["oidc-provider-mock.jwks"] = lambda: flask.jsonify(
    KeySet([key(path) for path in sorted(keys.glob("*.pem"))]).as_dict()
)
host, port = address.rsplit(":", 1)
uvicorn.run(app, interface="wsgi", host=host, port=int(port))
