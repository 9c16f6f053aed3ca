"""Calls the gRPC server in every form and prints what came back as JSON."""

import json
import sys

import grpc

channel = grpc.insecure_channel(sys.argv[1], options=[("grpc.max_metadata_size", 65536)])
echo = "/signet.test.Echo/"
forged = (("x-forwarded-client-cert", "URI=spiffe://mesh.test/admin"), ("large", "v" * 20000))
said = {}


def code(call):
    try:
        call()
        return "OK"
    except grpc.RpcError as error:
        return f"{error.code().name}: {error.details()}"


answer, call = channel.unary_unary(echo + "Unary").with_call(b"hello", timeout=10, metadata=forged)
said["unary"] = answer.decode()
said["identity"] = dict(call.trailing_metadata())["saw-identity"]
said["large"] = len(channel.unary_unary(echo + "Unary")(b"x" * 3_000_000, timeout=30))
said["server_stream"] = len(list(channel.unary_stream(echo + "ServerStream")(b"1000", timeout=10)))
said["client_stream"] = channel.stream_unary(echo + "ClientStream")(iter([b"ab"] * 500), timeout=10).decode()
said["both"] = [part.decode() for part in channel.stream_stream(echo + "Both")(iter([b"a", b"b", b"c"]), timeout=10)]
said["deadline"] = code(lambda: channel.unary_unary(echo + "Wait")(b"", timeout=0.3))
cancelled = channel.unary_unary(echo + "Wait").future(b"", timeout=10)
cancelled.cancel()
said["cancelled"] = cancelled.cancelled()
said["denied"] = code(lambda: channel.unary_unary("/signet.test.Secret/Unary")(b"", timeout=10))
said["after_denial"] = channel.unary_unary(echo + "Unary")(b"still here", timeout=10).decode()
print(json.dumps(said))
