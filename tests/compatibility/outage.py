"""A client that lives through a restart of the broker and of the service. It says on standard output what is to happen next, and goes on when
it reads a line that says that it has.
"""

import socket
import sys
import time
import unittest

from case import EPUM, SYSNAME, URI, Case, until
from dashi import Peer


def have(what):
    print(what, flush=True)
    answer = sys.stdin.readline().strip()
    assert answer == "done", answer


class Outage(Case):
    def until_answered(self, timeout=60):
        """Calls as a client does that tries again: on a new connection after each failure."""
        end = time.monotonic() + timeout
        while True:
            try:
                return self.client.call(EPUM, "list_domains", caller="alice", timeout=2)
            except (OSError, socket.timeout, self.client.connection.connection_errors[0]) as error:
                if time.monotonic() > end:
                    raise AssertionError("nobody answers: %r" % error)
                time.sleep(0.3)
                self.client.reconnect()

    def test_the_service_comes_back_after_the_broker_and_what_was_sent_while_it_was_away_is_done(self):
        name = self.domain(1)
        node = self.running(name, 1)[0]["instance_id"]

        have("broker: restart")
        self.assertEqual(self.until_answered(), [name])
        self.assertEqual(self.running(name, 1)[0]["instance_id"], node)

        have("service: stop")
        # Its queue is durable: the original's was gone after 60 s, and what was fired then was lost.
        self.client.fire(EPUM, "reconfigure_domain", domain_id=name, config={"engine_conf": {"preserve_n": 2}}, caller="alice")
        with self.assertRaises(socket.timeout):
            self.client.call(EPUM, "list_domains", caller="alice", timeout=1)
        have("service: start")
        self.until_answered()
        until(lambda: self.describe(name)["config"]["engine_conf"]["preserve_n"] == 2, "what was fired being done")
        self.assertIn(node, [i["instance_id"] for i in self.running(name, 2)])

    def test_a_queue_of_a_former_service_is_waited_for(self):
        have("service: stop")
        former = Peer(URI, sysname=SYSNAME)
        self.addCleanup(former.close)
        queue = former.prefixed(EPUM)
        with former.connection.channel() as channel:
            channel.queue_delete(queue)
            # As the original's service declared it, but for the time: nobody waits a minute here.
            former.exchange(channel).declare()
            channel.queue_declare(queue, durable=False, auto_delete=False, arguments={"x-expires": 4000})
            channel.queue_bind(queue, former.exchange.name, queue)
        have("service: start")
        self.until_answered()


if __name__ == "__main__":
    unittest.main()
