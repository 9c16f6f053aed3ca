"""A gRPC server of another implementation: echoes, and tells who it was told called."""

import sys
import threading
from concurrent import futures

import grpc


def seen(context):
    metadata = dict(context.invocation_metadata())
    context.set_trailing_metadata((("saw-identity", metadata.get("x-forwarded-client-cert", "none")),))


def unary(request, context):
    seen(context)
    return request


def wait(request, context):
    seen(context)
    ended = threading.Event()
    context.add_callback(ended.set)
    ended.wait()
    return request


def server_stream(request, context):
    seen(context)
    for number in range(int(request)):
        yield str(number).encode()


def client_stream(requests, context):
    seen(context)
    return str(sum(len(request) for request in requests)).encode()


def both(requests, context):
    seen(context)
    yield from requests


class Echo(grpc.GenericRpcHandler):
    methods = {
        "/signet.test.Echo/Unary": grpc.unary_unary_rpc_method_handler(unary),
        "/signet.test.Echo/Wait": grpc.unary_unary_rpc_method_handler(wait),
        "/signet.test.Echo/ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
        "/signet.test.Echo/ClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
        "/signet.test.Echo/Both": grpc.stream_stream_rpc_method_handler(both),
        "/signet.test.Secret/Unary": grpc.unary_unary_rpc_method_handler(unary),
    }

    def service(self, details):
        return self.methods.get(details.method)


server = grpc.server(futures.ThreadPoolExecutor(8), handlers=(Echo(),), options=[("grpc.so_reuseport", 0), ("grpc.max_metadata_size", 65536)])
server.add_insecure_port(sys.argv[1])
server.start()
server.wait_for_termination()
