"""The provisioner: nodes that belong to no domain, and those of domains."""

import unittest
import uuid

from case import PROVISIONER, Case, until

NODE = {"launch_id", "node_id", "state", "state_desc", "site", "allocation", "creator", "client_token", "state_changes", "update_counter"}


class Nodes(Case):
    def provision(self, node=None, launch=None, caller="alice", **more):
        args = dict(
            launch_id=launch or str(uuid.uuid4()),
            deployable_type="worker",
            instance_ids=[node or str(uuid.uuid4())],
            site="local",
            allocation=None,
            vars={"broker_ip_address": "10.0.0.1", "broker_password": "p$w"},
            caller=caller,
        )
        args.update(more)
        found = self.provisioner("provision", **args)
        self.assertIsInstance(found, list)
        self.assertEqual(len(found), 1)
        self.addCleanup(self.end, found[0], caller)
        return found[0]

    def end(self, record, caller):
        if record["state"] < "800-TERMINATED":
            self.provisioner("terminate_nodes", nodes=[record["node_id"]], caller=caller)

    def node(self, node_id, caller="alice"):
        found = self.provisioner("describe_nodes", nodes=[node_id], caller=caller)
        return found[0] if found else None

    def until_state(self, node_id, state, caller="alice"):
        return until(lambda: (lambda n: n if n and n["state"] == state else None)(self.node(node_id, caller)), "%s in %s" % (node_id, state))

    def test_a_node_is_launched_described_and_ended(self):
        node_id, launch_id = str(uuid.uuid4()), str(uuid.uuid4())
        record = self.provision(node_id, launch_id, allocation="small")
        self.assertLessEqual(NODE, set(record), NODE - set(record))
        self.assertIn("__version", record)
        self.assertEqual((record["node_id"], record["launch_id"]), (node_id, launch_id))
        self.assertEqual((record["site"], record["allocation"], record["creator"]), ("local", "small", "alice"))
        self.assertEqual(record["client_token"], "__EPU_PROVISIONER_" + launch_id)
        self.assertGreaterEqual(record["state"], "200-REQUESTED")

        running = self.until_state(node_id, "600-RUNNING")
        self.assertNotIn("__version", running)
        self.assertIn("iaas_id", running)
        self.assertGreater(running["update_counter"], record["update_counter"])
        self.assertEqual([s for s, _ in running["state_changes"]], sorted(s for s, _ in running["state_changes"]))
        self.assertIn(node_id, [n["node_id"] for n in self.provisioner("describe_nodes", nodes=[], caller="alice")])
        self.assertIn(node_id, [n["node_id"] for n in self.provisioner("describe_nodes", nodes=None, caller="alice")])
        self.assertIn(node_id, [n["node_id"] for n in self.provisioner("describe_nodes", caller="alice")])

        found = self.provisioner("terminate_nodes", nodes=[node_id], caller="alice")
        self.assertEqual([(n["node_id"], n["state"] >= "700-TERMINATING", "__version" in n) for n in found], [(node_id, True, True)])
        self.until_state(node_id, "800-TERMINATED")
        # Ended ones are described as long as they are kept, and ending them again is fine.
        again = self.provisioner("terminate_nodes", nodes=[node_id], caller="alice")
        self.assertEqual([n["state"] for n in again], ["800-TERMINATED"])

    def test_asking_again_launches_nothing_more(self):
        node_id, launch_id = str(uuid.uuid4()), str(uuid.uuid4())
        self.provision(node_id, launch_id)
        first = self.until_state(node_id, "600-RUNNING")
        again = self.provision(node_id, launch_id)
        self.assertEqual((again["node_id"], again["iaas_id"]), (node_id, first["iaas_id"]))
        named = [n for n in self.provisioner("describe_nodes", nodes=[], caller="alice") if n["node_id"] == node_id]
        self.assertEqual(len(named), 1)

    def test_a_fire_launches_too(self):
        node_id = str(uuid.uuid4())
        self.client.fire(
            PROVISIONER, "provision", launch_id=str(uuid.uuid4()), deployable_type="worker", instance_ids=[node_id], site="local", allocation=None,
            vars=None, caller="alice",
        )
        self.assertEqual(self.node(node_id)["node_id"], node_id)
        self.until_state(node_id, "600-RUNNING")
        self.client.fire(PROVISIONER, "terminate_nodes", nodes=[node_id], caller="alice")
        self.until_state(node_id, "800-TERMINATED")

    def test_ids_need_not_be_uuids(self):
        node_id = "node-" + uuid.uuid4().hex
        record = self.provision(node_id, "my launch no. 1 " + node_id)
        self.assertEqual(record["node_id"], node_id)
        running = self.until_state(node_id, "600-RUNNING")
        self.assertEqual(running["launch_id"], "my launch no. 1 " + node_id)
        self.provisioner("terminate_nodes", nodes=[node_id], caller="alice")
        self.until_state(node_id, "800-TERMINATED")

    def test_what_cannot_be_asked_for_is_a_provisioning_error(self):
        for wrong in (
            {"launch_id": ""}, {"launch_id": None}, {"deployable_type": ""}, {"site": None}, {"instance_ids": []}, {"instance_ids": ["a", "b"]},
            {"instance_ids": [""]}, {"instance_ids": None}, {"instance_ids": "abc"}, {"instance_ids": [5]},
        ):
            args = dict(launch_id="l", deployable_type="worker", instance_ids=[str(uuid.uuid4())], site="local", caller="alice")
            args.update(wrong)
            self.fails("ProvisioningError", "must", self.provisioner, "provision", **args)

    def test_an_unknown_type_or_site_is_a_failed_record(self):
        for more in ({"deployable_type": "no-such-type"}, {"site": "no-such-site"}):
            node_id = str(uuid.uuid4())
            record = self.provision(node_id, **more)
            self.assertEqual(record["state"], "900-FAILED")
            self.assertTrue(record["state_desc"].startswith("DTRS_LOOKUP_FAILED "), record)
            self.assertEqual(self.node(node_id)["state"], "900-FAILED")
            # Final: the same request finds the same record.
            self.assertEqual(self.provision(node_id)["state"], "900-FAILED")

    def test_other_users_neither_see_nor_end_a_node(self):
        node_id = str(uuid.uuid4())
        self.provision(node_id)
        self.until_state(node_id, "600-RUNNING")
        self.assertEqual(self.provisioner("describe_nodes", nodes=[node_id], caller="bob"), [])
        self.assertNotIn(node_id, [n["node_id"] for n in self.provisioner("describe_nodes", nodes=[], caller="bob")])
        own = self.provision(caller="bob")["node_id"]
        self.until_state(own, "600-RUNNING", "bob")
        # A refusal ends none of them.
        self.fails("UserNotPermittedError", node_id, self.provisioner, "terminate_nodes", nodes=[own, node_id], caller="bob")
        self.assertEqual(self.node(own, "bob")["state"], "600-RUNNING")
        self.assertEqual(self.node(node_id)["state"], "600-RUNNING")

    def test_nodes_of_domains_are_nodes_too(self):
        name = self.domain(1)
        found = self.running(name, 1)[0]["instance_id"]
        self.assertEqual(self.node(found)["creator"], "alice")
        self.assertIn(found, [n["node_id"] for n in self.provisioner("describe_nodes", nodes=[], caller="alice")])
        self.assertEqual(self.provisioner("describe_nodes", nodes=[found], caller="bob"), [])

    def test_an_unknown_id_is_a_key_error_to_look_at_and_an_ended_node_to_end(self):
        node_id = str(uuid.uuid4())
        error = self.fails("KeyError", node_id, self.provisioner, "describe_nodes", nodes=[node_id], caller="alice")
        self.assertEqual(error.value, "'%s'" % node_id)
        found = self.provisioner("terminate_nodes", nodes=[node_id], caller="alice")
        self.assertEqual([(n["node_id"], n["state"], n["launch_id"]) for n in found], [(node_id, "800-TERMINATED", "provisioner-unknown-launch")])
        self.assertIsNone(found[0]["creator"])
        # A provision that was overtaken by its end launches nothing.
        self.assertEqual(self.provision(node_id)["state"], "800-TERMINATED")

    def test_the_default_user_is_who_names_none(self):
        node_id = str(uuid.uuid4())
        found = self.provisioner(
            "provision", launch_id=str(uuid.uuid4()), deployable_type="worker", instance_ids=[node_id], site="local", allocation=None, vars={}
        )
        self.addCleanup(self.end, found[0], "default")
        self.assertEqual(found[0]["creator"], "default")
        self.assertEqual(self.provisioner("describe_nodes", nodes=[node_id])[0]["node_id"], node_id)

    def test_dump_state_sends_one_record_for_each_known_node(self):
        listener = self.listener("info_listener")
        node_id = str(uuid.uuid4())
        self.provision(node_id)
        self.until_state(node_id, "600-RUNNING")
        listener.drain(1)
        listener.arrived.clear()
        self.assertIsNone(self.provisioner("dump_state", nodes=[node_id, "unknown", str(uuid.uuid4())]))
        record = listener.until(lambda body: body["args"]["record"]["node_id"] == node_id)["record"]
        listener.drain(0.5)
        named = [body for body, _ in listener.arrived if body["args"]["record"]["node_id"] == node_id]
        self.assertEqual(len(named), 1)
        self.assertEqual(named[0]["op"], "instance_info")
        self.assertEqual((record["state"], "__version" in record), ("600-RUNNING", False))
        # As the original's own client sends it, which its last service refused.
        other = self.listener("another_listener")
        self.provisioner("dump_state", nodes=[node_id], force_subscribe="another_listener")
        self.assertEqual(other.until(lambda body: True)["record"]["node_id"], node_id)
        for nothing in ([], None):
            self.assertIsNone(self.provisioner("dump_state", nodes=nothing))
        self.fails("dashi.exceptions.BadRequestError", "Type error", self.provisioner, "dump_state", nodes="text")


class Everything(Case):
    """Last by name: it closes the whole installation."""

    def test_terminate_all_and_enable(self):
        domain = self.domain(2)
        self.running(domain, 2)
        nodes = [str(uuid.uuid4()) for _ in range(3)]
        for node_id in nodes:
            self.client.fire(
                PROVISIONER, "provision", launch_id=str(uuid.uuid4()), deployable_type="worker", instance_ids=[node_id], site="local",
                allocation=None, vars=None, caller="alice",
            )
        until(lambda: all(n["state"] == "600-RUNNING" for n in self.provisioner("describe_nodes", nodes=nodes, caller="alice")), "all running")

        self.assertIs(self.provisioner("terminate_all"), False)
        late = str(uuid.uuid4())
        args = dict(launch_id=str(uuid.uuid4()), deployable_type="worker", instance_ids=[late], site="local", caller="alice")
        found = self.provisioner("provision", **args)
        self.assertEqual([(n["state"], n["state_desc"]) for n in found], [("950-REJECTED", "PROVISIONER_DISABLED")])
        until(lambda: self.provisioner("terminate_all"), "everything being ended")
        ended = self.provisioner("describe_nodes", nodes=nodes, caller="alice")
        self.assertEqual([n["state"] for n in ended], ["800-TERMINATED"] * 3)
        self.assertEqual(self.provisioner("describe_nodes", nodes=[late], caller="alice")[0]["state"], "950-REJECTED")

        self.assertIsNone(self.provisioner("enable"))
        self.assertIsNone(self.provisioner("enable"))
        # The domain comes back by itself, and what is asked for is launched again.
        self.running(domain, 2)
        again = str(uuid.uuid4())
        found = self.provisioner("provision", **dict(args, launch_id=str(uuid.uuid4()), instance_ids=[again]))
        self.assertLess(found[0]["state"], "700-TERMINATING")
        self.provisioner("terminate_nodes", nodes=[again], caller="alice")


if __name__ == "__main__":
    unittest.main()
