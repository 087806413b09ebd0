"""The EPU Management service: definitions, domains, engines, users."""

import unittest

import kombu
from case import NEEDY, NPRESERVING, QUEUELEN, SIMPLEST, Case, fresh, until

NOT_FOUND = "dashi.exceptions.NotFoundError"
CONFLICT = "dashi.exceptions.WriteConflictError"

# What an instance of a domain is described by.
INSTANCE = {
    "instance_id", "launch_id", "site", "allocation", "state", "state_time", "health", "deployable_type", "extravars", "errors", "error_time",
    "caller", "sensor_data", "update_counter", "state_desc", "state_changes", "creator", "client_token",
}


class Definitions(Case):
    def test_they_are_added_listed_described_updated_and_removed(self):
        name, first = fresh("def"), {"general": {"engine_class": SIMPLEST}, "health": {"monitor_health": False}}
        self.assertIsNone(self.epum("add_domain_definition", definition_id=name, definition=first))
        self.assertIn(name, self.epum("list_domain_definitions"))
        found = self.epum("describe_domain_definition", definition_id=name)
        self.assertEqual((found["name"], found["definition"]), (name, first))
        self.assertIn("preserve_n", found["documentation"])
        self.fails(CONFLICT, name, self.epum, "add_domain_definition", definition_id=name, definition=first)

        second = {"general": {"engine_class": NPRESERVING}}
        self.assertIsNone(self.epum("update_domain_definition", definition_id=name, definition=second))
        found = self.epum("describe_domain_definition", definition_id=name)
        self.assertEqual(found, {"name": name, "definition": second})

        self.assertIsNone(self.epum("remove_domain_definition", definition_id=name))
        self.assertNotIn(name, self.epum("list_domain_definitions"))

    def test_what_is_not_there_is_not_found(self):
        name = fresh("def")
        self.fails(NOT_FOUND, name, self.epum, "describe_domain_definition", definition_id=name)
        self.fails(NOT_FOUND, name, self.epum, "update_domain_definition", definition_id=name, definition={})
        self.fails(NOT_FOUND, name, self.epum, "remove_domain_definition", definition_id=name)

    def test_those_of_the_config_are_there_from_the_start(self):
        found = self.epum("describe_domain_definition", definition_id="from-config")
        self.assertEqual(found["definition"]["general"], {"engine_class": SIMPLEST})


class Domains(Case):
    def test_a_domain_keeps_its_number_and_is_described(self):
        name = self.domain(2, epuworker_allocation="small")
        self.assertIn(name, self.epum("list_domains", caller="alice"))
        running = self.running(name, 2)
        found = self.describe(name)
        self.assertEqual(set(found), {"name", "config", "sensor_data", "instances"})
        self.assertEqual(set(found["config"]), {"general", "health", "engine_conf"})
        self.assertEqual(found["name"], name)
        self.assertEqual(found["config"]["general"]["engine_class"], SIMPLEST)
        self.assertEqual(found["config"]["engine_conf"], {"epuworker_type": "worker", "preserve_n": 2, "epuworker_allocation": "small"})
        for instance in running:
            self.assertLessEqual(INSTANCE, set(instance), INSTANCE - set(instance))
            self.assertNotIn("node_id", instance)
            self.assertNotIn("__version", instance)
            self.assertEqual((instance["site"], instance["deployable_type"]), ("local", "worker"))
            self.assertEqual((instance["allocation"], instance["creator"]), ("small", "alice"))
            self.assertIn(instance["health"], ("UNKNOWN", "OK"))
            self.assertEqual(instance["errors"], [])
            self.assertIsInstance(instance["state_time"], float)
            self.assertIsInstance(instance["update_counter"], int)
            self.assertEqual(instance["state_changes"][-1][0], "600-RUNNING")
        until(lambda: all(i["health"] == "OK" for i in self.running(name, 2)), "heartbeats being heard")

    def test_a_domain_grows_and_shrinks_as_it_is_told(self):
        name = self.domain(2)
        self.running(name, 2)
        for count in (4, 0):
            self.assertIsNone(self.epum("reconfigure_domain", domain_id=name, config={"engine_conf": {"preserve_n": count}}, caller="alice"))
            self.running(name, count)
            self.assertEqual(self.describe(name)["config"]["engine_conf"]["preserve_n"], count)

    def test_a_failed_instance_is_replaced(self):
        name = self.domain(1)
        first = self.running(name, 1)[0]["instance_id"]
        self.provisioner("terminate_nodes", nodes=[first], caller="alice")
        until(lambda: [i["instance_id"] for i in self.running(name, 1)] != [first], "another one")

    def test_a_removed_domain_ends_its_instances_and_is_listed_until_they_have_ended(self):
        name = self.domain(2)
        ids = [i["instance_id"] for i in self.running(name, 2)]
        self.assertIsNone(self.epum("remove_domain", domain_id=name, caller="alice"))
        until(lambda: name not in self.epum("list_domains", caller="alice"), "it being gone")
        self.fails(NOT_FOUND, name, self.describe, name)
        self.fails(NOT_FOUND, name, self.epum, "remove_domain", domain_id=name, caller="alice")
        self.assertEqual(len(ids), 2)
        # The name is free again.
        again = dict(domain_id=name, definition_id=self.definition(), config={"engine_conf": {"preserve_n": 0}}, caller="alice")
        self.assertIsNone(self.epum("add_domain", **again))
        self.without(name, "alice")

    def test_adding_and_removing_at_once_leaves_nothing(self):
        name = self.domain(3)
        self.epum("remove_domain", domain_id=name, caller="alice")
        until(lambda: name not in self.epum("list_domains", caller="alice"), "it being gone")

    def test_what_is_not_there_is_not_found(self):
        name = fresh()
        for op, more in (
            ("describe_domain", {}),
            ("remove_domain", {}),
            ("reconfigure_domain", {"config": {"engine_conf": {"preserve_n": 1}}}),
            ("subscribe_domain", {"subscriber_name": "s", "subscriber_op": "o"}),
            ("unsubscribe_domain", {"subscriber_name": "s"}),
        ):
            self.fails(NOT_FOUND, name, self.epum, op, domain_id=name, caller="alice", **more)

    def test_a_second_domain_of_the_same_name_is_a_conflict(self):
        name = self.domain(0)
        again = dict(domain_id=name, definition_id=self.definition(), config={"engine_conf": {"preserve_n": 0}}, caller="alice")
        self.fails(CONFLICT, name, self.epum, "add_domain", **again)

    def test_bad_settings_are_value_errors_and_leave_nothing(self):
        good = {"engine_conf": {"preserve_n": 1, "epuworker_type": "worker"}}

        def add(name=None, definition=None, **config):
            name = fresh() if name is None else name
            more = dict(domain_id=name, definition_id=definition or self.definition(), config=config or good, caller="alice")
            self.addCleanup(lambda: self.assertNotIn(name, self.epum("list_domains", caller="alice")))
            return self.epum("add_domain", **more)

        self.fails("ValueError", "no-such-definition", add, definition="no-such-definition")
        for name in (".", "..", "zookeeper", "a/b", "with space", "/x", ""):
            self.fails("ValueError", "name", add, name=name)
        for conf in ({}, {"preserve_n": -1}, {"preserve_n": "asd"}, {"preserve_n": 1, "more": 1}, {"preserve_n": 1, "epuworker_type": "no-such-type"},
                     {"preserve_n": 1, "force_site": "no-such-site"}):
            self.fails("ValueError", "", add, engine_conf=conf)
        self.fails("ValueError", "general", add, general="text", **good)
        for engine in ("epu.decisionengine.impls.sensor.SensorEngine", "os.path.join", "no.such.Thing"):
            error = self.fails("ImportError", "supported are", add, general={"engine_class": engine}, **good)
            self.assertIn("npreserving.NpreservingEngine", error.value)

    def test_a_bad_reconfiguration_changes_nothing(self):
        name = self.domain(1)
        for conf in ({"preserve_n": -1}, {"preserve_n": None}, {"nonsense": 1}, {"epuworker_type": "other-worker"}):
            self.fails("ValueError", "", self.epum, "reconfigure_domain", domain_id=name, config={"engine_conf": conf}, caller="alice")
        self.assertEqual(self.describe(name)["config"]["engine_conf"], {"epuworker_type": "worker", "preserve_n": 1})
        self.running(name, 1)

    def test_sections_are_merged_one_level_deep(self):
        definition = fresh("def")
        below = {"general": {"engine_class": NPRESERVING}, "health": {"monitor_health": False, "boot_timeout": 20}, "other": {"x": 1}}
        self.epum("add_domain_definition", definition_id=definition, definition=below)
        name = fresh()
        config = {"health": {"boot_timeout": 30}, "engine_conf": {"preserve_n": 0, "epuworker_type": "worker", "provisioner_vars": {"a": "1"}}}
        self.epum("add_domain", domain_id=name, definition_id=definition, config=config, caller="alice")
        self.addCleanup(self.without, name, "alice")
        # What is made from a definition stays as it is.
        self.epum("remove_domain_definition", definition_id=definition)
        found = self.describe(name)["config"]
        self.assertEqual(found["health"], {"monitor_health": False, "boot_timeout": 30})
        self.assertEqual(set(found), {"general", "health", "engine_conf"})
        over = {"health": {"monitor_health": True}, "ignored": {"x": 1}}
        self.epum("reconfigure_domain", domain_id=name, config=over, caller="alice")
        found = self.describe(name)["config"]
        self.assertEqual(found["health"], {"monitor_health": True, "boot_timeout": 30})
        self.assertEqual(set(found), {"general", "health", "engine_conf"})

    def test_the_default_engine_works_with_an_empty_definition(self):
        definition, name = fresh("def"), fresh()
        self.epum("add_domain_definition", definition_id=definition, definition={})
        # Also without a type: there is one that the original took.
        self.epum("add_domain", domain_id=name, definition_id=definition, config={"engine_conf": {"preserve_n": 1}}, caller="alice")
        self.addCleanup(self.without, name, "alice")
        self.assertEqual(self.running(name, 1)[0]["deployable_type"], "epu_work_consumer")


class Engines(Case):
    def test_npreserving_has_unique_instances(self):
        unique = {"left": {"SIDE": "left"}, "right": {"SIDE": "right"}}
        name = self.domain(3, engine=NPRESERVING, unique_instances=unique, provisioner_vars={"COLOUR": "red", "price": "$5"})
        running = self.running(name, 3)
        self.assertEqual(sorted(str(i["extravars"]) for i in running), sorted(["None", str({"SIDE": "left"}), str({"SIDE": "right"})]))
        left = next(i for i in running if i["extravars"] == {"SIDE": "left"})
        self.fails("ValueError", "unique_instances", self.epum, "reconfigure_domain", domain_id=name, config={"engine_conf": {"preserve_n": 1}}, caller="alice")
        # A label that is taken out takes its instance along, also when the number stays.
        self.epum("reconfigure_domain", domain_id=name, config={"engine_conf": {"unique_instances": {"right": {"SIDE": "right"}}}}, caller="alice")
        until(lambda: left["instance_id"] not in [i["instance_id"] for i in self.running(name, 3)], "left being gone")

    def test_variables_reach_the_worker(self):
        name = self.domain(1, engine=NPRESERVING, provisioner_vars={"COLOUR": "red $5", "LIST": [1, 2]}, epuworker_type="tells")
        found = self.running(name, 1)[0]["instance_id"]
        with open("/proc/%d/environ" % self.worker_of(found), "rb") as environ:
            seen = dict(entry.split(b"=", 1) for entry in environ.read().split(b"\0") if entry)
        self.assertEqual(seen[b"COLOUR"], b"red $5")
        self.assertEqual(seen[b"LIST"].replace(b" ", b""), b"[1,2]")
        self.assertEqual(seen[b"node_id"].decode(), found)
        self.assertEqual(seen[b"heartbeat_dest"], b"epu_management_service")

    def worker_of(self, instance):
        import os

        def look():
            for pid in filter(str.isdigit, os.listdir("/proc")):
                try:
                    with open("/proc/%s/environ" % pid, "rb") as environ, open("/proc/%s/cmdline" % pid, "rb") as cmdline:
                        if b"node_id=" + instance.encode() in environ.read().split(b"\0") and b"sleep" in cmdline.read():
                            return int(pid)
                except OSError:
                    pass
            return None

        return until(look, "the worker of %s" % instance)

    def test_needy_gives_each_instance_a_value_and_retires_those_it_is_told_to(self):
        name = self.domain(3, engine=NEEDY, iaas_site="local")
        running = [i["instance_id"] for i in self.running(name, 3)]
        conf = {"preserve_n": 1, "retirable_nodes": running[:2]}
        self.epum("reconfigure_domain", domain_id=name, config={"engine_conf": conf}, caller="alice")
        self.assertEqual([i["instance_id"] for i in self.running(name, 1)], running[2:])
        self.epum("reconfigure_domain", domain_id=name, config={"engine_conf": {"preserve_n": 2}}, caller="alice")
        grown = [i["instance_id"] for i in self.running(name, 2)]
        self.assertIn(running[2], grown)
        # Whoever was spared then may be named now.
        conf = {"preserve_n": 1, "retirable_nodes": [running[2]]}
        self.epum("reconfigure_domain", domain_id=name, config={"engine_conf": conf}, caller="alice")
        self.assertEqual([[i["instance_id"]] for i in self.running(name, 1)], [[i] for i in grown if i != running[2]])

    def test_needy_stops_where_its_values_end(self):
        name = self.domain(3, engine=NEEDY, unique_key="HOST", unique_values="a, b")
        self.assertEqual(sorted(i["extravars"]["HOST"] for i in self.running(name, 2)), ["a", "b"])

    def test_a_queue_is_followed(self):
        queue = fresh("work")
        with self.client.connection.channel() as channel:
            work = kombu.Queue(queue, channel=channel, durable=True)
            work.declare()
            self.addCleanup(self.delete_queue, queue)
            name = self.domain(None, engine=QUEUELEN, queuelen_high_water=2, queuelen_low_water=1, min_instances=0, queue_name_work=queue)
            self.running(name, 0)
            producer = kombu.Producer(channel, serializer="json")
            for number in range(5):
                producer.publish({"work": number}, routing_key=queue)
            self.running_at_least(name, 1)
            until(lambda: self.describe(name)["sensor_data"].get("queue-length", {}).get("Average") == 5, "the reading")
        for conf in ({"queuelen_high_water": 2}, {"queuelen_low_water": 2}, {"queuelen_high_water": 1, "queuelen_low_water": 2}):
            with self.assertRaises(Exception) as caught:
                self.domain(None, engine=QUEUELEN, queue_name_work=queue, **conf)
            self.assertEqual(caught.exception.exc_type, "ValueError")

    def running_at_least(self, name, count):
        def look():
            return [i for i in self.describe(name)["instances"] if i["state"] == "600-RUNNING"][: count] or None

        return until(look, "%d running in %s" % (count, name))

    def delete_queue(self, queue):
        with self.client.connection.channel() as channel:
            channel.queue_delete(queue)


class Users(Case):
    def test_each_user_has_domains_of_his_own(self):
        name = self.domain(1, caller="alice")
        first = self.running(name, 1)[0]["instance_id"]
        for op, more in (
            ("describe_domain", {}),
            ("remove_domain", {}),
            ("reconfigure_domain", {"config": {"engine_conf": {"preserve_n": 0}}}),
            ("subscribe_domain", {"subscriber_name": "s", "subscriber_op": "o"}),
        ):
            self.fails(NOT_FOUND, name, self.epum, op, domain_id=name, caller="bob", **more)
        self.assertNotIn(name, self.epum("list_domains", caller="bob"))
        # The same name is another domain for another user, and for him who names none.
        for caller, more in (("bob", {"caller": "bob"}), ("default", {})):
            other = dict(domain_id=name, definition_id=self.definition(), config={"engine_conf": {"preserve_n": 0, "epuworker_type": "worker"}}, **more)
            self.epum("add_domain", **other)
            self.assertEqual(self.epum("list_domains", caller=caller), self.epum("list_domains", **more))
            self.assertIn(name, self.epum("list_domains", **more))
            self.epum("remove_domain", domain_id=name, **more)
            until(lambda: name not in self.epum("list_domains", **more), "it being gone")
        self.assertEqual(self.running(name, 1)[0]["instance_id"], first)

    def test_callers_have_the_rights_of_the_config(self):
        self.assertEqual(self.epum("list_domains", caller="looker"), [])
        add = dict(domain_id=fresh(), definition_id=self.definition(), config={"engine_conf": {"preserve_n": 0}})
        self.fails("UserNotPermittedError", "looker", self.epum, "add_domain", caller="looker", **add)
        self.fails("UserNotPermittedError", "outcast", self.epum, "list_domains", caller="outcast")
        self.fails("UserNotPermittedError", "looker", self.provisioner, "terminate_nodes", nodes=["x"], caller="looker")
        self.assertEqual(self.provisioner("describe_nodes", nodes=[], caller="looker"), [])


if __name__ == "__main__":
    unittest.main()
