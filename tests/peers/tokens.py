"""An API that takes bearer tokens, as its JWT library checks them by the issuer's OpenID Connect documents, and the app
that calls it, with tokens that the SPIFFE library fetches from the socket beside it. SOCKET ISSUER CA_FILE: a line of
JSON for each token that is new, and one when there are none any more; ends at the first that is not believed."""

import json
import ssl
import sys
import time
import urllib.request

import jwt
from spiffe import JwtSource, WorkloadApiClient

AUDIENCE = "https://billing.example"

socket, issuer, ca_file = sys.argv[1:]
trust = ssl.create_default_context(cafile=ca_file)


def say(message, **fields):
    print(json.dumps({"fields": {"message": message, **fields}}), flush=True)


def document(url):
    with urllib.request.urlopen(url, context=trust) as answer:
        return json.load(answer), answer.headers["cache-control"]


configuration, kept = document(f"{issuer}/.well-known/openid-configuration")
assert configuration["issuer"] == issuer, configuration
say("configuration", cache=kept, keys=configuration["jwks_uri"])
# It keeps what it reads for as long as it may, and asks no sooner for a key that it does not know.
kept_for = int(kept.rpartition("max-age=")[2])
keys = jwt.PyJWKClient(configuration["jwks_uri"], ssl_context=trust, lifespan=kept_for, cooldown_duration=3600)


def believed(token):
    key = keys.get_signing_key_from_jwt(token).key
    algorithms = configuration["id_token_signing_alg_values_supported"]
    claims = jwt.decode(
        token, key, algorithms, audience=AUDIENCE, issuer=issuer, options={"require": ["exp", "iat", "sub", "aud"]}
    )
    try:
        jwt.decode(token, key, algorithms, audience="https://other.example", issuer=issuer)
    except jwt.InvalidAudienceError:
        return claims
    raise AssertionError("it is for everybody")


checked, seen = 0, set()
with WorkloadApiClient(socket) as client, JwtSource(socket_path=socket) as source:
    while True:
        try:
            svid = client.fetch_jwt_svid({AUDIENCE}, timeout=20)
        except Exception as error:
            say("none", error=str(error), checked=checked)
            break
        claims = believed(svid.token)
        checked += 1
        # By the proxy, and by the library with the bundle that it streams.
        validated = client.validate_jwt_svid(svid.token, AUDIENCE)
        assert str(validated.spiffe_id) == claims["sub"], claims
        bundle = source.get_bundle_for_trust_domain(svid.spiffe_id.trust_domain)
        kid = jwt.get_unverified_header(svid.token)["kid"]
        if kid not in seen:
            seen.add(kid)
            life = claims["exp"] - time.time()
            say("token", kid=kid, sub=claims["sub"], life=life, token=svid.token, published=len(bundle.jwt_authorities))
        time.sleep(0.05)
