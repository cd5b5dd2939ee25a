"""grpcio against an echo behind the sidecar, over mTLS: all four kinds of calls, trailers, and a caller who leaves."""
import os
import queue

import grpc

read = lambda name: open(os.environ[name], "rb").read()
credentials = grpc.ssl_channel_credentials(read("CA"), read("KEY"), read("CERT"))
options = [("grpc.ssl_target_name_override", "localhost"), ("grpc.max_receive_message_length", -1)]
channel = grpc.secure_channel(os.environ["ADDRESS"], credentials, options)


def ended(call):
    trailers = dict(call.trailing_metadata())
    assert call.code() == grpc.StatusCode.OK and trailers.get("echo-trailer") == "seen", (call.code(), trailers)


def unary():
    call = channel.unary_unary("/echo.Echo/Unary")
    for size in [0, 1, 100_000, 3_000_000]:
        message = os.urandom(size)
        reply, rest = call.with_call(message, timeout=30)
        assert reply == message, size
        ended(rest)


def client_and_server_streams():
    pieces = [os.urandom(size) for size in (1, 10, 100_000, 0, 7)]
    replies = channel.stream_stream("/echo.Echo/Pieces")(iter(pieces), timeout=30)
    assert list(replies) == pieces
    ended(replies)
    replies = channel.unary_stream("/echo.Echo/One")(b"one", timeout=30)
    assert list(replies) == [b"one"]
    ended(replies)
    assert channel.stream_unary("/echo.Echo/One")(iter([b"one"]), timeout=30) == b"one"


def ping_pong():
    """Each message is sent only after the answer to the one before: nothing may be kept back on the way."""
    waiting = queue.Queue()
    replies = channel.stream_stream("/echo.Echo/Chat")(iter(waiting.get, None), timeout=60)
    for number in range(200):
        message = str(number).encode()
        waiting.put(message)
        assert next(replies) == message
    waiting.put(None)
    assert list(replies) == []
    ended(replies)


def leave():
    waiting = queue.Queue()
    replies = channel.stream_stream("/echo.Echo/Chat")(iter(waiting.get, None), timeout=60)
    waiting.put(b"hello")
    assert next(replies) == b"hello"
    replies.cancel()
    waiting.put(None)
    unary()


def deadline():
    try:
        channel.unary_unary("/slow")(b"x", timeout=0.2)
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error
    else:
        raise AssertionError("answered after its deadline")


for case in [unary, client_and_server_streams, ping_pong, leave, deadline]:
    case()
    print(f"grpcio: {case.__name__} ok")
