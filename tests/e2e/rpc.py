"""A gRPC client made from the server's own reflection: what grpcurl is, in Python."""

import dataclasses

import grpc
from google.protobuf import descriptor_pool, json_format, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

MESSAGE_MAX = 64 << 20
CALL_SECONDS = 60


@dataclasses.dataclass
class Refusal(Exception):
    """A call that failed, with what its details say."""

    code: str
    message: str
    reason: str = ""
    domain: str = ""
    metadata: dict = dataclasses.field(default_factory=dict)
    fields: list = dataclasses.field(default_factory=list)
    retry: bool = False
    resource: str = ""

    def __str__(self):
        return f"{self.code} {self.reason} {self.fields}: {self.message}"


class Stream:
    """The messages of a server stream as dicts, of a call that can be cancelled."""

    def __init__(self, call, client):
        self._call, self._client = call, client

    def __iter__(self):
        try:
            for message in self._call:
                yield json_format.MessageToDict(
                    message, preserving_proto_field_name=True, descriptor_pool=self._client.pool
                )
        except grpc.RpcError as error:
            raise self._client.refusal_of(error) from None

    def cancel(self):
        self._call.cancel()


class Client:
    """Calls methods by name; requests and answers are dicts. int64 are strings, as in proto3's JSON."""

    def __init__(self, address):
        options = [
            ("grpc.max_receive_message_length", MESSAGE_MAX),
            ("grpc.max_send_message_length", MESSAGE_MAX),
            ("grpc.use_local_subchannel_pool", 1),
            # What a stream receives ahead of its reader does not grow with its rate.
            ("grpc.http2.bdp_probe", 0),
        ]
        self.channel = grpc.insecure_channel(address, options=options)
        self.reflection = ProtoReflectionDescriptorDatabase(self.channel)
        self.pool = descriptor_pool.DescriptorPool(self.reflection)
        self._methods = {}
        # Before the first error, because the server may be gone by then.
        names = ("Status", "ErrorInfo", "BadRequest", "RetryInfo", "ResourceInfo")
        self._details = {
            f"google.rpc.{name}": message_factory.GetMessageClass(
                self.pool.FindMessageTypeByName(f"google.rpc.{name}")
            )
            for name in names
        }

    def close(self):
        self.channel.close()

    def services(self):
        return sorted(self.reflection.get_services())

    def service(self, name):
        return self.pool.FindServiceByName(name)

    def method(self, path):
        """The descriptor of "package.Service/Method"."""
        if path not in self._methods:
            service, _, name = path.partition("/")
            self._methods[path] = self.service(service).FindMethodByName(name)
        return self._methods[path]

    def refusal_of(self, error):
        """The Refusal that a grpc.RpcError is."""
        refusal = Refusal(error.code().name, error.details())
        for key, value in error.trailing_metadata() or ():
            if key != "grpc-status-details-bin":
                continue
            for packed in self._details["google.rpc.Status"].FromString(value).details:
                self._add_detail(refusal, packed.type_url.rpartition("/")[2], packed.value)
        return refusal

    def _add_detail(self, refusal, kind, value):
        detail = self._details[kind].FromString(value)
        if kind == "google.rpc.ErrorInfo":
            refusal.reason, refusal.domain = detail.reason, detail.domain
            refusal.metadata = dict(detail.metadata)
        elif kind == "google.rpc.BadRequest":
            refusal.fields = [violation.field for violation in detail.field_violations]
        elif kind == "google.rpc.RetryInfo":
            refusal.retry = True
        elif kind == "google.rpc.ResourceInfo":
            refusal.resource = detail.resource_name

    def _prepare(self, path, request):
        method = self.method(path)
        message = message_factory.GetMessageClass(method.input_type)()
        json_format.ParseDict(request, message, descriptor_pool=self.pool)
        answer = message_factory.GetMessageClass(method.output_type)
        unary = not method.server_streaming
        make = self.channel.unary_unary if unary else self.channel.unary_stream
        serializer = message_factory.GetMessageClass(method.input_type).SerializeToString
        return make(f"/{path}", serializer, answer.FromString), message

    def call(self, path, request=None, timeout=CALL_SECONDS):
        """One answer; a failure is a Refusal."""
        stub, message = self._prepare(path, request or {})
        try:
            answer = stub(message, timeout=timeout)
        except grpc.RpcError as error:
            raise self.refusal_of(error) from None
        return json_format.MessageToDict(
            answer,
            preserving_proto_field_name=True,
            always_print_fields_with_no_presence=True,
            descriptor_pool=self.pool,
        )

    def stream(self, path, request=None, timeout=CALL_SECONDS):
        stub, message = self._prepare(path, request or {})
        return Stream(stub(message, timeout=timeout), self)

    def refused(self, path, request=None, timeout=CALL_SECONDS):
        """The Refusal of a call that must not succeed."""
        try:
            if self.method(path).server_streaming:
                answer = list(self.stream(path, request, timeout))
            else:
                answer = self.call(path, request, timeout)
        except Refusal as refusal:
            return refusal
        raise AssertionError(f"{path} {request} was not refused: {answer}")
