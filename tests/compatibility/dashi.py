"""A client and a receiver that speak dashi 0.3, on kombu alone.

Written from the description of the wire (exchange, queues, properties, bodies), not from the service under test: it declares, publishes, consumes
and deletes exactly as the original's library did, so that the service is seen by what its clients see.
"""

import socket
import time
import uuid

import kombu

DEFAULT_EXCHANGE = "default_dashi_exchange"


class DashiError(Exception):
    """What a service answered with; clients know four classes of it by name."""

    def __init__(self, exc_type, value, traceback):
        super().__init__("%s: %s" % (exc_type, value) if value else exc_type)
        self.exc_type, self.value, self.traceback = exc_type, value, traceback


class NotFoundError(DashiError):
    pass


class BadRequestError(DashiError):
    pass


class WriteConflictError(DashiError):
    pass


class UnknownOperationError(DashiError):
    pass


KNOWN = {c.__name__: c for c in (NotFoundError, BadRequestError, WriteConflictError, UnknownOperationError)}


def raised(error):
    prefix, _, name = error["exc_type"].rpartition(".")
    kind = KNOWN.get(name, DashiError) if prefix == "dashi.exceptions" else DashiError
    return kind(error["exc_type"], error["value"], error["traceback"])


class Peer:
    """One connection to the broker, with a name."""

    def __init__(self, uri, name="ceiclient", sysname=None, exchange=DEFAULT_EXCHANGE):
        self.uri, self.sysname, self.name = uri, sysname, name
        self.connection = kombu.Connection(uri, heartbeat=0)
        # Neither durable nor deleted automatically: another declaration would be a 406.
        self.exchange = kombu.Exchange(self.prefixed(exchange), type="direct", durable=False, auto_delete=False)

    def prefixed(self, name):
        return "%s.%s" % (self.sysname, name) if self.sysname else name

    def close(self):
        self.connection.release()

    def reconnect(self):
        try:
            self.connection.release()
        except (OSError, socket.error):
            pass
        self.connection = kombu.Connection(self.uri, heartbeat=0)

    def publish(self, channel, topic, body, headers, **more):
        producer = kombu.Producer(channel, exchange=self.exchange, serializer="json")
        producer.publish(body, routing_key=self.prefixed(topic), headers=headers, delivery_mode=2, priority=0, **more)

    def fire(self, topic, op, **args):
        with self.connection.channel() as channel:
            self.exchange(channel).declare()
            self.publish(channel, topic, {"op": op, "args": args}, {"sender": self.prefixed(self.name)})

    def call(self, topic, op, timeout=20, **args):
        return self.answer(topic, {"op": op, "args": args}, timeout)

    def answer(self, topic, body, timeout=20, **more):
        """Sends any body as a call and gives back the result, or raises the error."""
        reply = self.reply_message(topic, body, timeout, **more)[0]
        assert set(reply) == {"result", "error"}, reply
        if reply["error"] is None:
            return reply["result"]
        assert reply["result"] is None, reply
        assert set(reply["error"]) == {"exc_type", "value", "traceback"}, reply
        raise raised(reply["error"])

    def reply_message(self, topic, body, timeout=20, **more):
        """The reply and its message, with the queue's name."""
        msg_id = uuid.uuid4().hex
        arrived = []
        with self.connection.channel() as channel:
            expires = {"x-expires": int((timeout + 1) * 1000)}
            queue = kombu.Queue(msg_id, self.exchange, msg_id, channel=channel, durable=False, auto_delete=False, queue_arguments=expires)
            queue.declare()
            headers = {"reply-to": msg_id, "sender": self.prefixed(self.name)}
            self.publish(channel, topic, body, headers, **more)

            def took(decoded, message):
                arrived.append((decoded, message))
                message.ack()

            # Consumed only after the request went out, as the original did.
            with kombu.Consumer(channel, queues=[queue], callbacks=[took], auto_declare=False):
                until = time.monotonic() + timeout
                while not arrived:
                    left = until - time.monotonic()
                    if left <= 0:
                        raise socket.timeout("timed out")
                    try:
                        self.connection.drain_events(timeout=left)
                    except socket.timeout:
                        pass
            channel.queue_delete(msg_id, nowait=True)
        return arrived[0][0], arrived[0][1], msg_id


class Receiver:
    """A service's or subscriber's queue, declared as the original's services did."""

    def __init__(self, uri, topic, sysname=None, exchange=DEFAULT_EXCHANGE):
        self.peer = Peer(uri, topic, sysname, exchange)
        self.arrived = []
        self.channel = self.peer.connection.channel()
        name = self.peer.prefixed(topic)
        self.queue = kombu.Queue(
            name, self.peer.exchange, name, channel=self.channel, durable=False, auto_delete=False, queue_arguments={"x-expires": 60000}
        )
        self.queue.declare()
        self.consumer = kombu.Consumer(self.channel, queues=[self.queue], callbacks=[self._took], auto_declare=False)
        self.consumer.consume()

    def _took(self, body, message):
        self.arrived.append((body, message.headers))
        message.ack()

    def until(self, wanted, timeout=100):
        """Waits until a message fits; gives its arguments back. All that arrived stay in `arrived`."""
        until, looked = time.monotonic() + timeout, 0
        while True:
            for body, _ in self.arrived[looked:]:
                looked += 1
                if wanted(body):
                    return body["args"]
            left = until - time.monotonic()
            if left <= 0:
                raise AssertionError("nothing like that arrived; what did: %r" % self.arrived)
            self.drain(min(left, 0.5))

    def drain(self, seconds):
        """Takes what arrives for so long."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            try:
                self.peer.connection.drain_events(timeout=max(0.01, until - time.monotonic()))
            except socket.timeout:
                pass

    def close(self):
        self.peer.close()
