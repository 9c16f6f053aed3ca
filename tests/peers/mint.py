"""Mints tokens as JSON {name: token}: what PyJWT signs when asked, and what no library signs, made by hand.

Standard input: {"issuer", "audience", "claims", "key": PEM file of the issuer's RSA key, "kid", "ec_key": PEM file of
the issuer's EC key, "ec_kid", "trap": URL that nobody may fetch}. Every token is as good as `good` but for what its
name says.
"""

import base64
import hashlib
import hmac
import json
import sys
import time

import jwt
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

asked = json.load(sys.stdin)


def private(path):
    with open(path, "rb") as pem:
        return serialization.load_pem_private_key(pem.read(), None)


key, ec_key = private(asked["key"]), private(asked["ec_key"])
stranger = rsa.generate_private_key(65537, 2048)
kid, now = asked["kid"], int(time.time())
claims = {
    "iss": asked["issuer"],
    "aud": asked["audience"],
    "sub": "pipeline",
    "iat": now,
    "nbf": now,
    "exp": now + 600,
    **asked["claims"],
}


def encode(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed(changes=None, without=(), key=key, algorithm="RS256", **headers):
    """By PyJWT: the usual claims with `changes`."""
    body = {name: value for name, value in {**claims, **(changes or {})}.items() if name not in without}
    return jwt.encode(body, key, algorithm, headers={"kid": kid, **headers})


def by_hand(header, payload, sign=lambda data: key.sign(data, padding.PKCS1v15(), hashes.SHA256())):
    """Any two texts, signed like RS256 unless told otherwise."""
    text = [part if isinstance(part, bytes) else part.encode() for part in (header, payload)]
    signing_input = ".".join(encode(part) for part in text)
    return signing_input + "." + encode(sign(signing_input.encode()))


def head(**changes):
    return json.dumps({"alg": "RS256", "typ": "JWT", "kid": kid, **changes})


def jwk_of(public):
    return json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(public))


def public_pem(public):
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return public.public_bytes(serialization.Encoding.PEM, form)


def mac(secret):
    return lambda data: hmac.new(secret, data, hashlib.sha256).digest()


body = json.dumps(claims)
good = signed()
header, payload, signature = good.split(".")
raw_signature = base64.urlsafe_b64decode(signature + "==")
pem = public_pem(key.public_key())
der = key.public_key().public_bytes(
    serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
)
modulus = base64.urlsafe_b64decode(jwk_of(key.public_key())["n"] + "==")
members = body[1:-1]

accepted = {
    "good": good,
    "good_es256": signed(key=ec_key, algorithm="ES256", kid=asked["ec_kid"]),
    "good_for_several_audiences": signed({"aud": ["elsewhere", asked["audience"]]}),
}

refused = {
    # Time.
    "no_exp": signed(without=["exp"]),
    "exp_is_over": signed({"exp": now - 3600, "iat": now - 7200, "nbf": now - 7200}),
    "exp_is_text": by_hand(head(), json.dumps({**claims, "exp": str(now + 600)})),
    "exp_is_null": by_hand(head(), json.dumps({**claims, "exp": None})),
    "exp_is_beyond_time": by_hand(head(), body.replace(f'"exp": {now + 600}', '"exp": 1e300')),
    "exp_is_infinite": by_hand(head(), body.replace(f'"exp": {now + 600}', '"exp": Infinity')),
    "exp_is_negative": signed({"exp": -1}),
    "nbf_is_later": signed({"nbf": now + 3600}),
    # Issuer and audience.
    "no_iss": signed(without=["iss"]),
    "another_iss": signed({"iss": "https://issuer.invalid"}),
    "iss_with_a_slash": signed({"iss": asked["issuer"] + "/"}),
    "iss_is_a_list": by_hand(head(), json.dumps({**claims, "iss": [asked["issuer"]]})),
    "no_aud": signed(without=["aud"]),
    "another_aud": signed({"aud": "elsewhere"}),
    "aud_begins_alike": signed({"aud": asked["audience"] + "-staging"}),
    "aud_is_empty": signed({"aud": []}),
    "aud_is_an_object": signed({"aud": {asked["audience"]: True}}),
    # Algorithm.
    "alg_none": by_hand(head(alg="none"), body, lambda data: b""),
    "alg_none_signed": by_hand(head(alg="none"), body),
    "alg_NoNe": by_hand(head(alg="NoNe"), body, lambda data: b""),
    "alg_is_empty": by_hand(head(alg=""), body),
    "alg_is_null": by_hand(head(alg=None), body),
    "no_alg": by_hand(json.dumps({"kid": kid}), body),
    "hs256_with_the_public_key_pem": by_hand(head(alg="HS256"), body, mac(pem)),
    "hs256_with_the_public_key_pem_stripped": by_hand(head(alg="HS256"), body, mac(pem.strip())),
    "hs256_with_the_public_key_der": by_hand(head(alg="HS256"), body, mac(der)),
    "hs256_with_the_modulus": by_hand(head(alg="HS256"), body, mac(modulus)),
    "hs256_with_nothing": by_hand(head(alg="HS256"), body, mac(b"")),
    "es256_with_zeroes": by_hand(head(alg="ES256", kid=asked["ec_kid"]), body, lambda data: bytes(64)),
    "es256_for_the_rsa_key": signed(key=ec_key, algorithm="ES256"),
    "rs256_for_the_ec_key": signed(kid=asked["ec_kid"]),
    # Key.
    "signed_by_a_stranger": signed(key=stranger),
    "signed_by_a_stranger_without_kid": by_hand(
        json.dumps({"alg": "RS256"}), body, lambda data: stranger.sign(data, padding.PKCS1v15(), hashes.SHA256())
    ),
    "kid_is_unknown": signed(kid="no-such-key"),
    "kid_is_a_path": by_hand(head(alg="HS256", kid="../../../../dev/null"), body, mac(b"")),
    "kid_is_a_statement": by_hand(head(alg="HS256", kid="x' UNION SELECT 'secret'--"), body, mac(b"secret")),
    "kid_is_a_list": by_hand(head(kid=[kid]), body),
    "kid_is_a_number": by_hand(head(kid=0), body),
    "kid_twice": by_hand(head()[:-1] + ', "kid": "no-such-key"}', body),
    "jwk_of_the_signer": signed(key=stranger, jwk=jwk_of(stranger.public_key())),
    "jku_of_the_signer": signed(key=stranger, kid="theirs", jku=asked["trap"]),
    "x5u_of_the_signer": signed(key=stranger, kid="theirs", x5u=asked["trap"]),
    # Header.
    "crit_is_unknown": signed(crit=["urgent"], urgent=True),
    "payload_not_encoded": by_hand(head(b64=False, crit=["b64"]), body),
    "alg_twice": by_hand(head()[:-1] + ', "alg": "none"}', body),
    "header_is_a_list": by_hand("[]", body),
    "header_is_empty": by_hand("", body),
    # Form.
    "signature_is_missing": f"{header}.{payload}.",
    "signature_is_cut": good[:-8],
    "signature_of_another": f"{header}.{payload}.{signed({'sub': 'another'}).split('.')[2]}",
    "two_parts": f"{header}.{payload}",
    "four_parts": f"{good}.{signature}",
    "padded": f"{header}.{payload}.{signature}==",
    "with_a_line_break_inside": f"{header}.{payload}\n.{signature}",
    "in_standard_base64": f"{header}.{payload}.{base64.b64encode(raw_signature).rstrip(b'=').decode()}",
    "with_loose_bits": f"{header}.{payload}.{signature[:-1]}{chr(ord(signature[-1]) + 1)}",
    "payload_is_a_list": by_hand(head(), json.dumps([claims])),
    "payload_is_not_utf8": by_hand(head(), body.encode()[:-1] + b', "x": "\xff"}'),
    "payload_with_a_tail": by_hand(head(), body + "{}"),
    "nested_without_end": by_hand(head(), body[:-1] + ', "x": ' + "[" * 5000 + "]" * 5000 + "}"),
    "larger_than_any": signed({"padding": "x" * 300_000}),
    "as_json": json.dumps({"payload": payload, "protected": header, "signature": signature}),
    # Claims twice: which one is meant is anybody's guess.
    "claim_twice": by_hand(head(), '{"repository": "shop/other", ' + members + "}"),
    "claim_twice_the_other_way": by_hand(head(), "{" + members + ', "repository": "shop/other"}'),
    "claim_twice_escaped": by_hand(head(), '{"\\u0072epository": "shop/other", ' + members + "}"),
    "aud_twice": by_hand(head(), '{"aud": "elsewhere", ' + members + "}"),
    "exp_twice": by_hand(head(), "{" + members + ', "exp": 1}'),
    # Proven, but nothing that anybody registered.
    "claim_of_another": signed({"repository": "shop/other"}),
    "claim_begins_alike": signed({"repository": "shop/web-staging"}),
    "claim_in_another_case": signed({"repository": "Shop/Web"}),
    "claim_is_missing": signed(without=["repository"]),
    "claim_with_a_line_break": signed({"repository": "shop/web\n"}),
}
json.dump({"accepted": accepted, "refused": refused}, sys.stdout)
