"""A collector of spans: OpenTelemetry's own messages over gRPC. Writes a line of JSON for each span.
Given files with a certificate and its key, over TLS.

Given `openmetrics` it reads a scrape instead, and writes the exemplars that Prometheus' own parser finds."""

import json
import sys
from concurrent import futures


def value(any_value):
    return getattr(any_value, any_value.WhichOneof("value"))


def attributes(of):
    return {attribute.key: value(attribute.value) for attribute in of}


def collect(address, files):
    import grpc
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as messages
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as service

    class Collector(service.TraceServiceServicer):
        def Export(self, request, context):
            for resource in request.resource_spans:
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        print(json.dumps({"fields": {
                            "message": "span",
                            "service": attributes(resource.resource.attributes).get("service.name"),
                            "trace": span.trace_id.hex(),
                            "span": span.span_id.hex(),
                            "parent": span.parent_span_id.hex(),
                            "state": span.trace_state,
                            "name": span.name,
                            "kind": span.kind,
                            "failed": span.status.code == 2,
                            "nanos": span.end_time_unix_nano - span.start_time_unix_nano,
                            "attributes": attributes(span.attributes),
                        }}), flush=True)
            return messages.ExportTraceServiceResponse()

    server = grpc.server(futures.ThreadPoolExecutor(max_workers=1))
    service.add_TraceServiceServicer_to_server(Collector(), server)
    if files:
        certificate, key = (open(file, "rb").read() for file in files)
        port = server.add_secure_port(address, grpc.ssl_server_credentials([(key, certificate)]))
    else:
        port = server.add_insecure_port(address)
    server.start()
    print(json.dumps({"fields": {"message": "listening", "port": port}}), flush=True)
    server.wait_for_termination()


def read(text):
    from prometheus_client.openmetrics.parser import text_string_to_metric_families

    exemplars = [
        {"name": sample.name, "labels": sample.labels, **sample.exemplar.labels, "value": sample.exemplar.value}
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.exemplar
    ]
    print(json.dumps(exemplars))


if sys.argv[1] == "openmetrics":
    read(sys.stdin.read())
else:
    collect(sys.argv[1], sys.argv[2:])
