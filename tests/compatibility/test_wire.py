"""The wire itself: declarations, properties, errors, malformed messages, many clients."""

import json
import pickle
import socket
import threading
import time
import unittest

import kombu
from amqp.exceptions import NotFound
from case import EPUM, PROVISIONER, SYSNAME, URI, Case, fresh
from dashi import BadRequestError, Peer, UnknownOperationError

BAD_REQUEST = "dashi.exceptions.BadRequestError"


class Wire(Case):
    def test_a_reply_has_the_properties_of_dashi(self):
        body, message, queue = self.client.reply_message(EPUM, {"op": "list_domain_definitions", "args": {}})
        self.assertEqual(set(body), {"result", "error"})
        self.assertIsNone(body["error"])
        self.assertEqual(message.content_type, "application/json")
        self.assertEqual(message.content_encoding, "utf-8")
        self.assertEqual(message.properties["delivery_mode"], 2)
        self.assertEqual(message.properties["priority"], 0)
        self.assertEqual(message.headers, {})
        for absent in ("reply_to", "correlation_id", "message_id", "timestamp", "type", "app_id"):
            self.assertNotIn(absent, message.properties)
        self.assertEqual(message.delivery_info["exchange"], self.client.exchange.name)
        self.assertEqual(message.delivery_info["routing_key"], queue)

    def test_the_reply_queue_is_deleted_after_a_call(self):
        _, _, queue = self.client.reply_message(EPUM, {"op": "list_domain_definitions", "args": {}})
        channel = self.client.connection.channel()
        with self.assertRaises(NotFound):
            channel.queue_declare(queue, passive=True)

    def test_an_unknown_operation(self):
        for topic in (EPUM, PROVISIONER):
            with self.assertRaises(UnknownOperationError) as caught:
                self.client.call(topic, "make_coffee")
            self.assertEqual(caught.exception.value, "Unknown operation: make_coffee")
        # An operation of the one service is none of the other.
        with self.assertRaises(UnknownOperationError):
            self.client.call(PROVISIONER, "list_domains")

    def test_unknown_and_missing_arguments_are_type_errors(self):
        for op, args in (
            ("describe_domain", {}),
            ("describe_domain", {"domain_id": "x", "caller": "alice", "sugar": 1}),
            ("describe_domain", {"domain_id": None, "caller": "alice"}),
            ("list_domains", {"caller": ["alice"]}),
            ("list_domain_definitions", {"caller": "alice"}),
            ("add_domain_definition", {"definition_id": "x", "definition": "text"}),
        ):
            error = self.fails(BAD_REQUEST, "Type error: %s()" % op, self.client.call, EPUM, op, **args)
            self.assertIsInstance(error, BadRequestError)

    def test_malformed_bodies_are_answered_and_kill_nobody(self):
        raw = dict(content_type="application/json", content_encoding="utf-8")
        for body, says in (
            (b"this is no json", "Invalid request: "),
            (b"", "Invalid request: "),
            (b"\xff\xfe\x00", "Invalid request: "),
            (b"[1, 2]", "Invalid request: "),
            (b'"text"', "Invalid request: "),
            (b'{"args": {}}', "Invalid request: "),
            (b'{"op": "list_domains", "args": {"caller": NaN}}', "Invalid request: "),
            (b"[" * 50000, "Invalid request: "),
            (b'{"op": "list_domains", "args": [1]}', "Type error: "),
            (b'{"op": "list_domains", "args": "text"}', "Type error: "),
            (b'{"op": "describe_domain", "args": null}', "Type error: "),
            (b'{"op": "describe_domain"}', "Type error: "),
        ):
            self.fails(BAD_REQUEST, says, self.client.answer, EPUM, body, **raw)
        self.fails("dashi.exceptions.UnknownOperationError", "None", self.client.answer, EPUM, b'{"op": null}', **raw)
        # What needs no arguments needs no mapping of them either.
        for body in (b'{"op": "list_domain_definitions", "args": null}', b'{"op": "list_domain_definitions"}'):
            self.assertIsInstance(self.client.answer(EPUM, body, **raw), list)

    def test_other_serializers_are_not_read(self):
        request = {"op": "list_domain_definitions", "args": {}}
        pickled = pickle.dumps(request, protocol=2)
        for body, kind, encoding in (
            (pickled, "application/x-python-serialize", "binary"),
            (b"op: list_domain_definitions\nargs: {}\n", "application/x-yaml", "utf-8"),
            (b"\x82\xa2op\xa1x\xa4args\x80", "application/x-msgpack", "binary"),
            (json.dumps(request).encode(), "text/plain", "utf-8"),
        ):
            says = "only application/json is read here, not %s" % kind
            self.fails(BAD_REQUEST, says, self.client.answer, EPUM, body, content_type=kind, content_encoding=encoding)

    def test_a_body_that_is_too_large_is_refused(self):
        body = json.dumps({"op": "list_domains", "args": {"caller": "x" * (2 << 20)}}).encode()
        self.fails(BAD_REQUEST, "Invalid request: ", self.client.answer, EPUM, body, content_type="application/json", content_encoding="utf-8")

    def test_fires_of_nonsense_and_dead_reply_queues_hold_nobody_up(self):
        with self.client.connection.channel() as channel:
            raw = dict(content_type="application/json", content_encoding="utf-8")
            for body in (b"nonsense", b"{}", b'{"op": "make_coffee"}', b'{"op": "subscribe_domain", "args": {"domain_id": "no"}}'):
                for headers in ({}, {"sender": 5}, {"reply-to": 7}, {"reply-to": "a-queue-that-is-gone", "sender": "x"}, {"reply-to": "x" * 300}):
                    self.client.publish(channel, EPUM, body, headers, **raw)
        began = time.monotonic()
        self.assertIsInstance(self.epum("list_domain_definitions"), list)
        self.assertLess(time.monotonic() - began, 10)

    def test_two_clients_at_once_and_many(self):
        failures = []

        def work(number):
            client = Peer(URI, "client-%d" % number, sysname=SYSNAME)
            try:
                for _ in range(10):
                    name = fresh("def")
                    client.call(EPUM, "add_domain_definition", definition_id=name, definition={"general": {"n": number}})
                    found = client.call(EPUM, "describe_domain_definition", definition_id=name)
                    if found["definition"] != {"general": {"n": number}}:
                        failures.append(found)
                    client.call(EPUM, "remove_domain_definition", definition_id=name)
            except Exception as error:  # told below, with the thread's number
                failures.append((number, error))
            finally:
                client.close()

        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(failures, [])

    def test_what_was_fired_is_done_before_what_is_called_next(self):
        for _ in range(10):
            name = fresh("def")
            self.client.fire(EPUM, "add_domain_definition", definition_id=name, definition={"general": {"step": 1}})
            self.client.fire(EPUM, "update_domain_definition", definition_id=name, definition={"general": {"step": 2}})
            found = self.epum("describe_domain_definition", definition_id=name)
            self.assertEqual(found["definition"], {"general": {"step": 2}})
            self.client.fire(EPUM, "remove_domain_definition", definition_id=name)
            self.assertNotIn(name, self.epum("list_domain_definitions"))

    def test_a_call_to_nobody_times_out_near_its_limit(self):
        began = time.monotonic()
        with self.assertRaises(socket.timeout):
            self.client.call("nobody", "op", timeout=0.5)
        self.assertLess(time.monotonic() - began, 1.5)

    def test_another_sysname_is_another_deployment(self):
        other = Peer(URI, sysname="some-other-deployment")
        self.addCleanup(other.close)
        with self.assertRaises(socket.timeout):
            other.call(EPUM, "list_domain_definitions", timeout=1)
        self.assertIsInstance(self.epum("list_domain_definitions"), list)

    def test_the_service_queues_are_durable_and_have_the_names_of_their_routing_keys(self):
        for topic in (EPUM, PROVISIONER):
            with self.client.connection.channel() as channel:
                found = channel.queue_declare(self.client.prefixed(topic), durable=True, auto_delete=False)
                self.assertEqual(found.consumer_count, 1)

    def test_an_exchange_that_was_deleted_comes_back(self):
        with self.client.connection.channel() as channel:
            channel.exchange_delete(self.client.exchange.name)
        # The first calls may go nowhere: the client declares the exchange, and the services bind to it again within seconds.
        self.until_answered(EPUM, "list_domain_definitions")
        self.until_answered(PROVISIONER, "describe_nodes", caller="alice")

    def test_a_service_queue_that_was_deleted_comes_back(self):
        with self.client.connection.channel() as channel:
            channel.queue_delete(self.client.prefixed(PROVISIONER))
        self.until_answered(PROVISIONER, "describe_nodes", caller="alice")

    def until_answered(self, topic, op, **args):
        for _ in range(20):
            try:
                return self.client.call(topic, op, timeout=1, **args)
            except socket.timeout:
                pass
        raise AssertionError("nobody answers for %s any more" % topic)


if __name__ == "__main__":
    kombu.enable_insecure_serializers(["pickle"])  # to send it; nothing here reads it
    unittest.main()
