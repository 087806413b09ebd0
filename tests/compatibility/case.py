"""What every case stands on: where the broker is, a client, waiting."""

import os
import time
import unittest
import uuid

from dashi import Peer, Receiver

URI = os.environ["EPU_DASHI_URL"]
SYSNAME = os.environ.get("EPU_DASHI_SYSNAME") or None
PROVISIONER, EPUM = "provisioner", "epu_management_service"
SIMPLEST = "epu.decisionengine.impls.simplest.SimplestEngine"
NPRESERVING = "epu.decisionengine.impls.npreserving.NpreservingEngine"
NEEDY = "epu.decisionengine.impls.needy.NeedyEngine"
QUEUELEN = "epu.decisionengine.impls.queuelen_bounded.QueueLengthBoundedEngine"


def fresh(prefix="d"):
    return "%s-%s" % (prefix, uuid.uuid4().hex[:8])


def until(look, what, timeout=100):
    """Looks again and again until it is something; the last exception says why not."""
    end, last = time.monotonic() + timeout, None
    while time.monotonic() < end:
        last = look()
        if last:
            return last
        time.sleep(0.1)
    raise AssertionError("%s did not happen in %d s; last seen: %r" % (what, timeout, last))


class Case(unittest.TestCase):
    maxDiff = None

    def setUp(self):
        self.client = Peer(URI, sysname=SYSNAME)
        self.addCleanup(self.client.close)

    def epum(self, op, **args):
        return self.client.call(EPUM, op, **args)

    def provisioner(self, op, **args):
        return self.client.call(PROVISIONER, op, **args)

    def listener(self, topic):
        receiver = Receiver(URI, topic, sysname=SYSNAME)
        self.addCleanup(receiver.close)
        return receiver

    def definition(self, engine=SIMPLEST, **health):
        name = fresh("def")
        self.epum("add_domain_definition", definition_id=name, definition={"general": {"engine_class": engine}, "health": health})
        return name

    def domain(self, preserve_n=1, caller="alice", engine=SIMPLEST, subscriber=None, health=None, **conf):
        """A domain that is gone after the case."""
        name = fresh()
        type_key = "deployable_type" if engine == NEEDY else "epuworker_type"
        conf = dict({type_key: "worker"}, **conf)
        if preserve_n is not None:
            conf["preserve_n"] = preserve_n
        args = dict(domain_id=name, definition_id=self.definition(engine, **(health or {})), config={"engine_conf": conf}, caller=caller)
        if subscriber:
            args["subscriber_name"], args["subscriber_op"] = subscriber
        self.assertIsNone(self.epum("add_domain", **args))
        self.addCleanup(self.without, name, caller)
        return name

    def without(self, name, caller):
        if name in self.epum("list_domains", caller=caller):
            self.epum("remove_domain", domain_id=name, caller=caller)
            until(lambda: name not in self.epum("list_domains", caller=caller), "%s being gone" % name)

    def describe(self, name, caller="alice"):
        return self.epum("describe_domain", domain_id=name, caller=caller)

    def running(self, name, count, caller="alice"):
        """The running instances of a domain, once there are so many and no others are alive."""

        def look():
            alive = [i for i in self.describe(name, caller)["instances"] if i["state"] < "800-TERMINATED"]
            ready = [i for i in alive if i["state"] == "600-RUNNING"]
            return ready if len(ready) == len(alive) == count else None

        return until(look, "%d running in %s" % (count, name)) if count else until(lambda: look() is not None, "none in %s" % name)

    def fails(self, kind, says, ask, *args, **more):
        with self.assertRaises(Exception) as caught:
            ask(*args, **more)
        error = caught.exception
        self.assertEqual(error.exc_type, kind)
        self.assertIn(says, error.value)
        self.assertNotIn("Traceback", error.traceback)
        return error
