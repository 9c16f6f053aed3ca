"""Another JWT library: ISSUER CA_FILE AUDIENCE, the token on standard input. Says whom it names, or why it is not
believed."""

import ssl
import sys

import httpx
from joserfc import jwt
from joserfc.jwk import KeySet

issuer, ca_file, audience = sys.argv[1:]
trust = ssl.create_default_context(cafile=ca_file)
with httpx.Client(verify=trust) as client:
    keys = KeySet.import_key_set(client.get(f"{issuer}/keys").raise_for_status().json())
token = jwt.decode(sys.stdin.read().strip(), keys, algorithms=["ES256"])
claims = jwt.JWTClaimsRegistry(
    iss={"essential": True, "value": issuer},
    aud={"essential": True, "value": audience},
    exp={"essential": True},
    sub={"essential": True},
)
claims.validate(token.claims)
print(token.claims["sub"])
