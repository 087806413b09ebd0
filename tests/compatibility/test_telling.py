"""What is told without being asked: subscribers of domains, instance_info, heartbeats of agents."""

import unittest
import uuid

from case import EPUM, Case, fresh, until


class Subscribers(Case):
    def test_they_are_told_that_an_instance_runs_and_ends_once_each(self):
        listener = self.listener(fresh("listener"))
        topic = listener.peer.name
        name = self.domain(1, subscriber=(topic, "node_state"))
        told = listener.until(lambda body: body["args"]["state"] == "600-RUNNING")
        self.assertEqual(set(told), {"node_id", "state", "domain_id", "properties"})
        self.assertEqual((told["domain_id"], set(told["properties"])), (name, {"hostname"}))
        body, headers = listener.arrived[0]
        self.assertEqual((body["op"], set(body)), ("node_state", {"op", "args"}))
        self.assertEqual(headers, {"sender": self.client.prefixed(EPUM)})
        node = self.running(name, 1)[0]["instance_id"]
        self.assertEqual(told["node_id"], node)

        self.provisioner("terminate_nodes", nodes=[node], caller="alice")
        listener.until(lambda body: body["args"]["node_id"] == node and body["args"]["state"] == "900-FAILED")
        other = listener.until(lambda body: body["args"]["node_id"] != node and body["args"]["state"] == "600-RUNNING")
        listener.drain(1)
        ran = [body["args"]["node_id"] for body, _ in listener.arrived if body["args"]["state"] == "600-RUNNING"]
        self.assertEqual(sorted(ran), sorted([node, other["node_id"]]))
        self.assertLessEqual({body["args"]["state"] for body, _ in listener.arrived}, {"600-RUNNING", "900-FAILED"})

    def test_they_come_and_go_and_what_was_there_is_no_news(self):
        first, second = self.listener(fresh("first")), self.listener(fresh("second"))
        name = self.domain(1)
        before = self.running(name, 1)[0]["instance_id"]
        for listener, op in ((first, "old_op"), (first, "new_op"), (second, "other_op")):
            self.client.fire(EPUM, "subscribe_domain", domain_id=name, subscriber_name=listener.peer.name, subscriber_op=op, caller="alice")
        self.epum("reconfigure_domain", domain_id=name, config={"engine_conf": {"preserve_n": 2}}, caller="alice")
        for listener, op in ((first, "new_op"), (second, "other_op")):
            listener.until(lambda body: body["args"]["state"] == "600-RUNNING")
            self.assertEqual({body["op"] for body, _ in listener.arrived}, {op})
            self.assertNotIn(before, [body["args"]["node_id"] for body, _ in listener.arrived])

        self.assertIsNone(self.epum("unsubscribe_domain", domain_id=name, subscriber_name=first.peer.name, caller="alice"))
        # One that was not told is fine.
        self.assertIsNone(self.epum("unsubscribe_domain", domain_id=name, subscriber_name="nobody", caller="alice"))
        first.arrived.clear()
        second.arrived.clear()
        self.epum("reconfigure_domain", domain_id=name, config={"engine_conf": {"preserve_n": 3}}, caller="alice")
        second.until(lambda body: body["args"]["state"] == "600-RUNNING")
        first.drain(1)
        self.assertEqual(first.arrived, [])

    def test_domains_are_kept_apart(self):
        one, two = self.listener(fresh("one")), self.listener(fresh("two"))
        names = [self.domain(1, subscriber=(listener.peer.name, "node_state")) for listener in (one, two)]
        for listener, name in zip((one, two), names):
            listener.until(lambda body: body["args"]["state"] == "600-RUNNING")
            self.assertEqual({body["args"]["domain_id"] for body, _ in listener.arrived}, {name})

    def test_a_subscriber_without_a_queue_holds_nobody_up(self):
        name = self.domain(1, subscriber=("nobody-listens-here", "op"))
        self.running(name, 1)


class InstanceInfo(Case):
    def test_each_change_of_an_instance_is_sent_to_those_who_are_listed(self):
        listener = self.listener("info_listener")
        name = self.domain(1)
        node = self.running(name, 1)[0]["instance_id"]
        listener.until(lambda body: body["args"]["record"]["node_id"] == node and body["args"]["record"]["state"] == "600-RUNNING")
        records = [body["args"]["record"] for body, _ in listener.arrived if body["args"]["record"]["node_id"] == node]
        self.assertEqual({body["op"] for body, _ in listener.arrived}, {"instance_info"})
        counters = [record["update_counter"] for record in records]
        self.assertEqual(counters, sorted(set(counters)))
        self.assertTrue(all(record["creator"] == "alice" and "__version" not in record for record in records))

    def test_what_comes_in_is_taken_and_changes_nothing(self):
        name = self.domain(1)
        node = self.running(name, 1)[0]["instance_id"]
        for record in ({"node_id": node, "state": "800-TERMINATED"}, {}, None, "text", {"node_id": 5}):
            self.assertIsNone(self.epum("instance_info", record=record))
            self.client.fire(EPUM, "instance_info", record=record)
        self.assertEqual(self.running(name, 1)[0]["instance_id"], node)


class Heartbeats(Case):
    def test_they_are_taken_whatever_they_say(self):
        name = self.domain(1, health={"monitor_health": True, "boot_timeout": 300, "missing_timeout": 120})
        node = self.running(name, 1)[0]["instance_id"]
        for heartbeat in (
            {"node_id": node, "state": "OK", "timestamp": 1.5},
            {"node_id": node, "state": "OK"},
            {"node_id": "node-of-nobody", "state": "OK"},
            {"node_id": str(uuid.uuid4()), "state": "PROCESS_ERROR", "failed_processes": [{"name": "p", "exitcode": 1, "stderr": "x"}]},
            {"node_id": node, "state": "WHAT"},
            {"node_id": node},
            {"state": "OK"},
            {},
            None,
            "text",
            [1],
        ):
            self.assertIsNone(self.epum("ou_heartbeat", heartbeat=heartbeat))
            self.client.fire(EPUM, "ou_heartbeat", heartbeat=heartbeat)
        until(lambda: self.running(name, 1)[0]["health"] == "OK", "it being in good health")
        self.assertEqual(self.running(name, 1)[0]["instance_id"], node)


if __name__ == "__main__":
    unittest.main()
