"""The deployable type registry: types, sites, credentials, lookups, and what they are good for when something is launched."""

import os
import unittest
import uuid
import xml.etree.ElementTree as ElementTree

from case import NPRESERVING, Case, fresh, until

DTRS = "dtrs"
NOT_FOUND = "dashi.exceptions.NotFoundError"
CONFLICT = "dashi.exceptions.WriteConflictError"
BAD = "dashi.exceptions.BadRequestError"
LOOKUP, VALIDATION, FORBIDDEN = "DeployableTypeLookupError", "DeployableTypeValidationError", "UserNotPermittedError"

# Whoever started us looks for it where it must not be.
SECRET = os.environ["EPU_TEST_SECRET"]
PERMITTED = "env:EPU_TEST_SECRET"

KEYS = {"access_key": "AKIATEST", "secret_key": SECRET, "key_name": "mykey"}
# Nobody answers there: a site with credentials is one that may be asked.
EC2 = {"type": "ec2", "region": "us-west-2", "host": "127.0.0.1", "port": 9, "secure": False}
NIMBUS = {"type": "nimbus", "host": "svc.example.org", "port": 8444}


def mapping(**more):
    return dict({"iaas_image": "ami-1", "iaas_allocation": "m1.small"}, **more)


class Registry(Case):
    def setUp(self):
        super().setUp()
        self.user = fresh("user")

    def dtrs(self, op, **args):
        return self.client.call(DTRS, op, **args)

    def refused(self, kind, text, op, **args):
        """It fails so, and with exactly this text."""
        error = self.fails(kind, "", self.dtrs, op, **args)
        self.assertEqual(error.value, text)
        self.assertNotIn(SECRET, repr(error.args))
        return error

    def with_type(self, definition, name=None, user=None):
        name = name or fresh("dt")
        self.assertIsNone(self.dtrs("add_dt", caller=user or self.user, dt_name=name, dt_definition=definition))
        return name

    def with_site(self, definition=None, name=None, user="own"):
        name = name or fresh("site")
        caller = self.user if user == "own" else user
        self.assertIsNone(self.dtrs("add_site", caller=caller, site_name=name, site_definition=definition or EC2))
        if caller is None:
            self.addCleanup(self.dtrs, "remove_site", caller=None, site_name=name)
        return name

    def with_keys(self, site, user=None, kind=None, **values):
        more = {"credential_type": kind} if kind else {}
        args = dict(caller=user or self.user, site_name=site, site_credentials=values or KEYS, **more)
        self.assertIsNone(self.dtrs("add_credentials", **args))


class Types(Registry):
    def test_they_are_added_described_listed_updated_and_removed(self):
        name, first = fresh("dt"), {"mappings": {"ec2": mapping(needs_elastic_ip=True)}, "contextualization": {"method": "chef-solo"}}
        self.assertEqual(self.dtrs("list_dts", caller=self.user), [])
        self.assertIsNone(self.dtrs("describe_dt", caller=self.user, dt_name=name))
        self.assertIsNone(self.dtrs("add_dt", caller=self.user, dt_name=name, dt_definition=first))
        self.assertEqual(self.dtrs("describe_dt", caller=self.user, dt_name=name), first)
        self.assertEqual(self.dtrs("list_dts", caller=self.user), [name])
        self.refused(CONFLICT, "DT %s already exists" % name, "add_dt", caller=self.user, dt_name=name, dt_definition=first)

        second = dict(first, extra={"deep": [1, None, "é"]})
        self.assertIsNone(self.dtrs("update_dt", caller=self.user, dt_name=name, dt_definition=dict(second, __version=3)))
        self.assertEqual(self.dtrs("describe_dt", caller=self.user, dt_name=name), second)
        self.assertIsNone(self.dtrs("remove_dt", caller=self.user, dt_name=name))
        self.assertEqual(self.dtrs("list_dts", caller=self.user), [])
        missing = "Caller %s has no DT named %s" % (self.user, name)
        self.refused(NOT_FOUND, missing, "remove_dt", caller=self.user, dt_name=name)
        self.refused(NOT_FOUND, missing, "update_dt", caller=self.user, dt_name=name, dt_definition=first)

    def test_they_are_of_their_caller_only(self):
        name = self.with_type({"mappings": {"a": {}}})
        other = fresh("user")
        self.assertIsNone(self.dtrs("describe_dt", caller=other, dt_name=name))
        self.assertEqual(self.dtrs("list_dts", caller=other), [])
        self.refused(NOT_FOUND, "Caller %s has no DT named %s" % (other, name), "remove_dt", caller=other, dt_name=name)
        # The same name is free for another, and for the default user, who is whoever names nobody.
        self.with_type({"mappings": {"b": {}}}, name=name, user=other)
        self.assertIsNone(self.dtrs("add_dt", dt_name=name, dt_definition={"mappings": {"c": {}}}))
        self.assertEqual(self.dtrs("describe_dt", caller="default", dt_name=name), {"mappings": {"c": {}}})
        self.assertEqual(self.dtrs("describe_dt", caller=self.user, dt_name=name), {"mappings": {"a": {}}})
        self.dtrs("remove_dt", caller=None, dt_name=name)

    def test_an_empty_one_is_none(self):
        for empty in ({}, None, [], "x"):
            error = self.fails(VALIDATION, "cannot be None nor can it be empty", self.dtrs, "add_dt", caller=self.user, dt_name="x", dt_definition=empty)
            self.assertTrue(error.value.startswith("Deployable Type 'x': The definition of the dt "), error.value)
        self.fails(BAD, "must not be empty", self.dtrs, "add_dt", caller=self.user, dt_name="", dt_definition={"a": 1})
        self.fails(BAD, "which is the most", self.dtrs, "add_dt", caller=self.user, dt_name="x", dt_definition={"a": "x" * 300000})
        self.fails(BAD, "Type error: add_dt() missing required argument: 'dt_definition'", self.dtrs, "add_dt", caller=self.user, dt_name="x")
        self.fails(BAD, "Type error: add_dt() got an unexpected keyword argument 'force'", self.dtrs, "add_dt", dt_name="x", dt_definition={}, force=1)
        self.fails("dashi.exceptions.UnknownOperationError", "Unknown operation: add_type", self.dtrs, "add_type")

    def test_callers_do_what_they_may(self):
        name = self.with_type({"mappings": {"a": {}}})
        self.assertEqual(self.dtrs("list_dts", caller="looker"), [])
        self.assertIsNone(self.dtrs("describe_dt", caller="looker", dt_name=name))
        for op, args in (
            ("add_dt", dict(dt_name="x", dt_definition={"a": 1})),
            ("update_dt", dict(dt_name="x", dt_definition={"a": 1})),
            ("remove_dt", dict(dt_name="x")),
            ("add_site", dict(site_name="x", site_definition=EC2)),
            ("update_site", dict(site_name="x", site_definition=EC2)),
            ("remove_site", dict(site_name="x")),
            ("add_credentials", dict(site_name="x", site_credentials=KEYS)),
            ("update_credentials", dict(site_name="x", site_credentials=KEYS)),
            ("remove_credentials", dict(site_name="x")),
        ):
            self.refused(FORBIDDEN, "user looker is not permitted to %s here" % op, op, caller="looker", **args)
        for op, args in (
            ("list_dts", {}), ("describe_dt", dict(dt_name=name)), ("list_sites", {}), ("describe_site", dict(site_name="x")),
            ("list_credentials", {}), ("describe_credentials", dict(site_name="x")),
            ("lookup", dict(dt_name=name, dtrs_request_node={"site": "a"}, vars=None)),
        ):
            self.refused(FORBIDDEN, "user outcast is not permitted to %s here" % op, op, caller="outcast", **args)


class Sites(Registry):
    def test_they_are_added_described_listed_updated_and_removed(self):
        name = fresh("site")
        for caller in (self.user, None):
            self.assertNotIn(name, self.dtrs("list_sites", caller=caller))
            self.assertIsNone(self.dtrs("describe_site", caller=caller, site_name=name))
            self.assertIsNone(self.dtrs("add_site", caller=caller, site_name=name, site_definition=NIMBUS))
            self.assertEqual(self.dtrs("describe_site", caller=caller, site_name=name), NIMBUS)
            self.assertEqual(self.dtrs("list_sites", caller=caller).count(name), 1)
            self.refused(CONFLICT, "Site %s already exists" % name, "add_site", caller=caller, site_name=name, site_definition=NIMBUS)
            changed = dict(NIMBUS, port="8445", opentsdb_tag="x", extra={"a": [1]})
            self.assertIsNone(self.dtrs("update_site", caller=caller, site_name=name, site_definition=changed))
            self.assertEqual(self.dtrs("describe_site", caller=caller, site_name=name), changed)
            self.assertIsNone(self.dtrs("remove_site", caller=caller, site_name=name))
            self.refused(NOT_FOUND, "No site named %s" % name, "remove_site", caller=caller, site_name=name)
            self.refused(NOT_FOUND, "No site named %s" % name, "update_site", caller=caller, site_name=name, site_definition=NIMBUS)
            self.assertIsNone(self.dtrs("describe_site", caller=caller, site_name=name))

    def test_common_ones_are_seen_by_all_and_changed_by_nobody_in_particular(self):
        name = self.with_site(user=None)
        self.assertEqual(self.dtrs("describe_site", caller=self.user, site_name=name), EC2)
        self.assertIn(name, self.dtrs("list_sites", caller=self.user))
        self.assertIn(name, self.dtrs("list_sites"))
        self.refused(NOT_FOUND, "No site named %s" % name, "update_site", caller=self.user, site_name=name, site_definition=NIMBUS)
        self.refused(NOT_FOUND, "No site named %s" % name, "remove_site", caller=self.user, site_name=name)
        # An own one of that name goes before it, for its owner.
        self.with_site(NIMBUS, name=name)
        self.assertEqual(self.dtrs("describe_site", caller=self.user, site_name=name), NIMBUS)
        self.assertEqual(self.dtrs("describe_site", site_name=name), EC2)
        self.assertEqual(self.dtrs("list_sites", caller=self.user).count(name), 1)
        self.dtrs("remove_site", caller=self.user, site_name=name)
        self.assertEqual(self.dtrs("describe_site", caller=self.user, site_name=name), EC2)

    def test_those_of_a_caller_are_its_own(self):
        name = self.with_site()
        for other in (fresh("user"), None, "default"):
            self.assertIsNone(self.dtrs("describe_site", caller=other, site_name=name))
            self.assertNotIn(name, self.dtrs("list_sites", caller=other))
            self.refused(NOT_FOUND, "No site named %s" % name, "remove_site", caller=other, site_name=name)
        text = "Can't add a user site starting with common::"
        self.refused(BAD, text, "add_site", caller=self.user, site_name="common::" + name, site_definition=EC2)

    def test_bad_definitions_are_refused_when_added_and_when_updated(self):
        name = self.with_site()
        for definition, text in (
            ({}, "IaaS site description is missing key 'type'"),
            ({"region": "us-east-1"}, "IaaS site description is missing key 'type'"),
            ({"type": "nimbus", "host": "h"}, "IaaS site description missing key 'port'"),
            ({"type": "openstack", "port": 80}, "IaaS site description missing key 'host'"),
            (dict(NIMBUS, port="http"), "port value 'http' is not a valid port number"),
            (dict(NIMBUS, port=0), "port value '0' is not a valid port number"),
            (dict(NIMBUS, port=65536), "port value '65536' is not a valid port number"),
            (dict(NIMBUS, secure="True"), "secure value 'True' is not a valid boolean"),
            ({"type": "ec2", "region": "atlantis"}, "EC2 region atlantis is unknown"),
            ({"type": "other"}, "IaaS site type other is unknown"),
        ):
            self.refused(BAD, text, "add_site", caller=self.user, site_name=fresh("site"), site_definition=definition)
            self.refused(BAD, text, "update_site", caller=self.user, site_name=name, site_definition=definition)
        self.assertEqual(self.dtrs("describe_site", caller=self.user, site_name=name), EC2)
        self.fails(BAD, "Type error: add_site() argument 'site_definition' must be mapping", self.dtrs, "add_site", site_name="x", site_definition=None)

    def test_every_type_of_site_is_kept(self):
        for definition in (
            {"type": "ec2"}, {"type": "ec2", "region": "eu-central-1", "secure": False}, dict(NIMBUS, secure=True),
            {"type": "openstack", "host": "h", "port": "8773", "path": "/services/Cloud"}, {"type": "fake"}, {"type": "mock-ec2", "sqlite_db": "/x"},
        ):
            name = self.with_site(definition)
            self.assertEqual(self.dtrs("describe_site", caller=self.user, site_name=name), definition)


class Credentials(Registry):
    def test_they_are_added_described_listed_updated_and_removed_and_their_secret_is_not_shown(self):
        site = self.with_site()
        self.assertEqual(self.dtrs("list_credentials", caller=self.user), [])
        self.assertIsNone(self.dtrs("describe_credentials", caller=self.user, site_name=site))
        self.with_keys(site)
        shown = dict(KEYS, secret_key="***")
        self.assertEqual(self.dtrs("describe_credentials", caller=self.user, site_name=site), shown)
        self.assertEqual(self.dtrs("describe_credentials", caller=self.user, site_name=site, credential_type="site"), shown)
        self.assertEqual(self.dtrs("list_credentials", caller=self.user), [site])
        text = "Credentials '%s' of type 'site' already exist" % site
        self.refused(CONFLICT, text, "add_credentials", caller=self.user, site_name=site, site_credentials=KEYS)

        # What is described can be sent back with other things changed.
        changed = dict(shown, key_name="other", note={"a": [1, "é"]}, __version=1)
        self.assertIsNone(self.dtrs("update_credentials", caller=self.user, site_name=site, site_credentials=changed))
        del changed["__version"]
        self.assertEqual(self.dtrs("describe_credentials", caller=self.user, site_name=site), changed)
        self.assertIsNone(self.dtrs("remove_credentials", caller=self.user, site_name=site))
        text = "Credentials '%s' not found for user %s and type site" % (site, self.user)
        self.refused(NOT_FOUND, text, "remove_credentials", caller=self.user, site_name=site)
        self.refused(NOT_FOUND, text, "update_credentials", caller=self.user, site_name=site, site_credentials=KEYS)
        self.assertEqual(self.dtrs("list_credentials", caller=self.user), [])
        self.assertIsNone(self.dtrs("describe_credentials", caller=self.user, site_name=site))

    def test_they_are_for_a_site_that_the_caller_sees(self):
        name = fresh("site")
        text = "Cannot add credentials for unknown site %s" % name
        self.refused(NOT_FOUND, text, "add_credentials", caller=self.user, site_name=name, site_credentials=KEYS)
        self.with_site(name=name, user=None)
        self.with_keys(name)
        # Of the config file's too.
        self.with_keys("local", key_name="mykey")
        self.assertEqual(sorted(self.dtrs("list_credentials", caller=self.user)), sorted(["local", name]))
        other = fresh("user")
        self.assertEqual(self.dtrs("list_credentials", caller=other), [])
        self.assertIsNone(self.dtrs("describe_credentials", caller=other, site_name=name))
        self.fails(NOT_FOUND, "not found for user " + other, self.dtrs, "remove_credentials", caller=other, site_name=name)

    def test_types_are_apart(self):
        site = self.with_site()
        chef = {"url": "https://chef.example.org", "client_key": SECRET, "validator_key": "-----BEGIN\n" + SECRET, "client_name": "admin"}
        self.with_keys(site)
        self.with_keys(site, kind="chef", **chef)
        self.with_keys("chef", kind="chef", **chef)
        self.assertEqual(self.dtrs("list_credentials", caller=self.user), [site])
        self.assertEqual(sorted(self.dtrs("list_credentials", caller=self.user, credential_type="chef")), sorted(["chef", site]))
        shown = dict(chef, client_key="***", validator_key="***")
        self.assertEqual(self.dtrs("describe_credentials", caller=self.user, site_name="chef", credential_type="chef"), shown)
        self.dtrs("remove_credentials", caller=self.user, site_name=site, credential_type="chef")
        self.assertEqual(self.dtrs("list_credentials", caller=self.user), [site])
        text = "Credentials '%s' not found for user %s and type chef" % (site, self.user)
        self.refused(NOT_FOUND, text, "remove_credentials", caller=self.user, site_name=site, credential_type="chef")
        self.assertEqual(self.dtrs("list_credentials", caller=self.user, credential_type="ssh"), [])
        args = dict(caller=self.user, site_name=site, site_credentials=chef, credential_type="ssh")
        self.refused(BAD, "Invalid credentials type 'ssh'", "add_credentials", **args)
        self.refused(BAD, "Invalid credentials type 'ssh'", "update_credentials", **args)

    def test_bad_ones_are_refused_and_not_repeated(self):
        site = self.with_site()
        self.with_keys(site)
        for name in ("a b", "a/b", "é", ""):
            self.refused(BAD, "Invalid credentials name '%s'" % name, "add_credentials", caller=self.user, site_name=name, site_credentials=KEYS)
        for values in ({}, None, [SECRET], SECRET):
            for op in ("add_credentials", "update_credentials"):
                self.refused(BAD, "Invalid credentials block", op, caller=self.user, site_name=site, site_credentials=values)
        for values, says in (
            ({"secret_key": [SECRET]}, "secret_key must be text"),
            ({"nested": {"secret_key": SECRET}}, "(secret_key) must not stand within nested"),
            ({"client_key": "***"}, "there is none"),
            ({"my secret": SECRET}, "in its name"),
            ({"secret_key": "env:HOME"}, "not permitted here"),
            ({"access_key": "file:/etc/hostname"}, "not permitted here"),
            ({"access_key": "file:/run/epu/../../etc/hostname"}, "not permitted here"),
        ):
            error = self.fails(BAD, says, self.dtrs, "update_credentials", caller=self.user, site_name=site, site_credentials=values)
            self.assertNotIn(SECRET, error.value)
        self.assertEqual(self.dtrs("describe_credentials", caller=self.user, site_name=site), dict(KEYS, secret_key="***"))

    def test_a_reference_that_is_permitted_is_kept_as_it_is(self):
        site = self.with_site()
        values = {"access_key": "file:/run/epu/id", "secret_key": PERMITTED, "key_name": "mykey"}
        self.with_keys(site, **values)
        self.assertEqual(self.dtrs("describe_credentials", caller=self.user, site_name=site), values)
        self.dtrs("update_credentials", caller=self.user, site_name=site, site_credentials=KEYS)
        self.assertEqual(self.dtrs("describe_credentials", caller=self.user, site_name=site), dict(KEYS, secret_key="***"))


class Lookups(Registry):
    def look(self, name, site, vars=None, **request):
        return self.dtrs("lookup", caller=self.user, dt_name=name, dtrs_request_node=dict(request, site=site, count=1), vars=vars)

    def ready(self, context=None, **more):
        site = self.with_site()
        self.with_keys(site)
        definition = {"mappings": {site: mapping(**more)}}
        if context:
            definition["contextualization"] = context
        return self.with_type(definition), site

    def document(self, found):
        """What is in the document but for what every document has."""
        cluster = ElementTree.fromstring(found["document"])
        workspace = cluster.find("workspace")
        self.assertEqual((cluster.tag, len(cluster)), ("cluster", 1))
        self.assertEqual([child.tag for child in workspace], ["name", "image", "quantity", "nic", "ctx"])
        self.assertEqual((workspace.findtext("name"), workspace.findtext("quantity"), workspace.findtext("nic")), ("domain_instance", "1", "public"))
        self.assertEqual(workspace.find("nic").attrib, {"wantlogin": "true"})
        self.assertEqual([child.tag for child in workspace.find("ctx")], ["provides", "requires"])
        self.assertEqual([child.tag for child in workspace.find("ctx/provides")], ["identity"])
        requires = list(workspace.find("ctx/requires"))
        self.assertEqual(requires[0].tag, "identity")
        return workspace.findtext("image"), [(data.tag, data.attrib, data.text) for data in requires[1:]]

    def test_without_a_method_it_is_chef_solo_without_data(self):
        name, site = self.ready()
        found = self.look(name, site)
        self.assertEqual(set(found), {"document", "node"})
        # As Python's minidom wrote it, letter by letter.
        self.assertEqual(
            found["document"],
            '<?xml version="1.0" ?><cluster><workspace><name>domain_instance</name><image>ami-1</image><quantity>1</quantity>'
            '<nic wantlogin="true">public</nic><ctx><provides><identity/></provides><requires><identity/></requires></ctx></workspace></cluster>',
        )
        self.assertEqual(self.document(found), ("ami-1", []))
        self.assertEqual(
            found["node"],
            {
                "iaas_image": "ami-1", "iaas_allocation": "m1.small", "iaas_sshkeyname": "mykey", "needs_elastic_ip": False,
                "ctx_method": "chef-solo", "needs_nimbus_ctx": True,
            },
        )

    def test_the_request_may_name_another_allocation(self):
        name, site = self.ready(needs_elastic_ip=True)
        self.assertEqual(self.look(name, site, allocation="m1.large")["node"]["iaas_allocation"], "m1.large")
        found = self.look(name, site, allocation=None)["node"]
        self.assertEqual((found["iaas_allocation"], found["needs_elastic_ip"]), ("m1.small", True))

    def test_chef_solo_has_its_config_in_the_document_with_variables_put_in(self):
        config = {"roles": ["a", "b"], "dollars": "$$5", "port": "${port}", "tree": "$tree"}
        name, site = self.ready({"method": "chef-solo", "chef_config": config}, iaas_image="ami-$flavour")
        found = self.look(name, site, {"port": 8080, "tree": {"x": [1, 2]}, "flavour": "big", "unused": None})
        image, data = self.document(found)
        self.assertEqual(image, "ami-big")
        text = '{"dollars": "$5", "port": "8080", "roles": ["a", "b"], "tree": "{"x": [1, 2]}"}'
        self.assertEqual(data, [("data", {"name": "dt-chef-solo"}, text)])
        self.assertIn('<data name="dt-chef-solo"><![CDATA[%s]]></data>' % text, found["document"])
        # The node has what stands in the type.
        self.assertEqual(found["node"]["iaas_image"], "ami-$flavour")
        self.assertIs(found["node"]["needs_nimbus_ctx"], True)

        begin = "Deployable Type '%s': " % name
        args = dict(caller=self.user, dt_name=name, dtrs_request_node={"site": site})
        self.refused(VALIDATION, begin + "DT doc has variable not present in request: 'flavour'", "lookup", vars=None, **args)
        self.refused(VALIDATION, begin + "DT doc has variable not present in request: 'port'", "lookup", vars={"flavour": "x"}, **args)
        self.refused(VALIDATION, begin + "vars must be a dict", "lookup", vars=["x"], **args)
        name, site = self.ready({"method": "chef-solo", "chef_config": {"price": "$5"}})
        self.fails(VALIDATION, "Deployable type document has bad variable: Invalid placeholder in string: line 1, col ", self.look, name, site)

    def test_chef_has_its_lists_in_the_node(self):
        name, site = self.ready({"method": "chef", "run_list": ["role[$web]"], "attributes": {"a": {"b": 1}}})
        self.fails(LOOKUP, "Chef credentials chef missing", self.look, name, site)
        self.with_keys("chef", kind="chef", url="https://chef", client_key=SECRET, validator_key=SECRET)
        found = self.look(name, site)
        self.assertEqual(self.document(found), ("ami-1", []))
        node = found["node"]
        self.assertEqual((node["chef_runlist"], node["chef_attributes"], node["chef_credential"]), (["role[$web]"], {"a": {"b": 1}}, "chef"))
        self.assertEqual((node["ctx_method"], node["needs_nimbus_ctx"]), ("chef", False))
        self.assertNotIn(SECRET, repr(found))
        self.fails(LOOKUP, "Chef credentials other missing", self.look, name, site, {"chef_credential": "other"})
        self.with_keys("other", kind="chef", url="https://chef", client_key=SECRET, validator_key=SECRET)
        self.assertEqual(self.look(name, site, {"chef_credential": "other"})["node"]["chef_credential"], "other")
        name, site = self.ready({"method": "chef"})
        node = self.look(name, site)["node"]
        self.assertEqual((node["chef_runlist"], node["chef_attributes"]), ([], {}))

    def test_user_data_is_passed_on_unchanged(self):
        text = "#!/bin/sh\necho $HOME ${nothing} <&>\n"
        name, site = self.ready({"method": "userdata", "userdata": text})
        found = self.look(name, site)
        self.assertEqual(found["node"]["iaas_userdata"], text)
        self.assertEqual((found["node"]["ctx_method"], found["node"]["needs_nimbus_ctx"]), ("userdata", False))
        self.assertEqual(self.document(found), ("ami-1", []))
        site = self.with_site()
        self.with_keys(site)
        both = {"mappings": {site: mapping()}, "contextualization": {"method": "userdata", "userdata": {site: "one", "else": "two"}}}
        self.assertEqual(self.look(self.with_type(both), site)["node"]["iaas_userdata"], "one")

    def test_what_is_missing_is_said(self):
        site, bare = self.with_site(), self.with_site()
        definition = {"mappings": {site: mapping(), "no-image": {"iaas_allocation": "x"}, "no-allocation": {"iaas_image": "x"}, bare: mapping()}}
        name = self.with_type(definition)

        def missing(text, site, dt=name, kind=LOOKUP):
            self.refused(kind, text, "lookup", caller=self.user, dt_name=dt, dtrs_request_node={"site": site, "count": 1}, vars={})

        missing("Unknown deployable type name: none", site, dt="none")
        self.refused(LOOKUP, "Node request missing site", "lookup", caller=self.user, dt_name=name, dtrs_request_node={"count": 1}, vars=None)
        missing("Site else missing in mappings of DT %s" % name, "else")
        missing("iaas_image missing in mappings of DT %s and site no-image" % name, "no-image")
        missing("iaas_allocation missing in mappings of DT %s and site no-allocation" % name, "no-allocation")
        missing("Credentials missing for caller %s and site %s" % (self.user, site), site)
        self.with_keys(bare, access_key="AKIATEST", secret_key=SECRET)
        missing("key_name missing from credentials of caller %s and site %s" % (self.user, bare), bare)
        # Another's type is unknown.
        other = dict(caller=fresh("user"), dt_name=name, dtrs_request_node={"site": site}, vars=None)
        self.refused(LOOKUP, "Unknown deployable type name: %s" % name, "lookup", **other)
        for context, text in (
            ({"method": "chef-solo"}, "Missing chef_config in DT definition"),
            ({"method": "userdata"}, "Missing userdata in DT definition"),
            ({"method": "puppet"}, "Unknown contextualization method puppet"),
        ):
            broken, at = self.ready(context)
            missing("Deployable Type '%s': %s" % (broken, text), at, dt=broken, kind=VALIDATION)


class Launching(Registry):
    def provision(self, name, site="local", **more):
        args = dict(launch_id=str(uuid.uuid4()), deployable_type=name, instance_ids=[str(uuid.uuid4())], site=site, allocation=None, vars={})
        return self.provisioner("provision", **dict(args, caller=self.user, **more))[0]

    def node(self, record):
        return self.provisioner("describe_nodes", nodes=[record["node_id"]], caller=self.user)[0]

    def end(self, record):
        self.provisioner("terminate_nodes", nodes=[record["node_id"]], caller=self.user)
        until(lambda: self.node(record)["state"] == "800-TERMINATED", "%s having ended" % record["node_id"])

    def test_a_node_of_a_type_is_launched(self):
        name = self.with_type({"mappings": {"local": mapping()}, "contextualization": {"method": "chef-solo", "chef_config": {"id": "$node_id"}}})
        record = self.provision(name, allocation="small")
        self.assertEqual((record["site"], record["allocation"]), ("local", "small"))
        running = until(lambda: (lambda n: n if n["state"] == "600-RUNNING" else None)(self.node(record)), "a node of a type running")
        self.assertTrue(running["iaas_image"].startswith(name + "@"), running)
        self.end(record)

    def test_a_type_that_cannot_be_used_launches_nothing_and_says_why(self):
        mapped = {"mappings": {"local": mapping()}}
        for definition, says in (
            (None, "there is no template"),
            ({"mappings": {"else": mapping()}}, "Site local missing in mappings of DT "),
            ({"mappings": {"local": {"iaas_image": "x"}}}, "iaas_allocation missing"),
            (dict(mapped, contextualization={"method": "puppet"}), "Unknown contextualization method puppet"),
            (dict(mapped, contextualization={"method": "chef-solo", "chef_config": {"a": "$none"}}), "variable not present in request: 'none'"),
            (dict(mapped, run="sleep"), "run must be a list of texts"),
            # Whoever may write to the exchange must not run what he likes where the services are.
            (dict(mapped, run=["/bin/sleep", "7777"]), "its own run is not carried out on the machine of the services"),
        ):
            name = self.with_type(definition) if definition else fresh("dt")
            record = self.provision(name)
            self.assertEqual(record["state"], "900-FAILED", says)
            self.assertIn("DTRS_LOOKUP_FAILED", record["state_desc"])
            self.assertIn(says, record["state_desc"])
        # Another's type is none, and a template of the config file goes before a type of its name.
        other = self.with_type(mapped, user=fresh("user"))
        self.assertIn("there is no template", self.provision(other)["state_desc"])
        self.with_type({"mappings": {}}, name="worker")
        record = self.provision("worker")
        self.assertLess(record["state"], "700-TERMINATING")
        self.end(record)

    def test_a_site_without_credentials_or_of_another_is_none(self):
        site = self.with_site({"type": "fake"})
        name = self.with_type({"mappings": {site: mapping(), "else": mapping()}})
        self.assertIn("Credentials missing", self.provision(name, site)["state_desc"])
        self.with_keys(site)
        self.assertIn("there is no site %s" % site, self.provision(name, site)["state_desc"])
        self.assertIn("Credentials missing", self.provision(name, "else")["state_desc"])
        # The name that a site of another has among ours is none of one's own.
        theirs, user = fresh("site"), fresh("user")
        self.with_site(EC2, name=theirs, user=user)
        self.with_keys(theirs, user=user)
        record = self.provision("worker", "%s.%s" % (theirs, user))
        self.assertIn("there is no site %s.%s" % (theirs, user), record["state_desc"])

    def test_a_domain_of_a_type_keeps_its_number(self):
        name = self.with_type({"mappings": {"local": mapping()}})
        conf = dict(epuworker_type=name, force_site="local", epuworker_allocation="small")
        domain = self.domain(2, caller=self.user, engine=NPRESERVING, **conf)
        for instance in self.running(domain, 2, self.user):
            self.assertEqual((instance["deployable_type"], instance["allocation"], instance["site"]), (name, "small", "local"))
        first = self.running(domain, 2, self.user)[0]["iaas_image"]
        self.assertTrue(first.startswith(name + "@"), first)

        # New instances are of the type as it is now.
        self.dtrs("update_dt", caller=self.user, dt_name=name, dt_definition={"mappings": {"local": mapping(iaas_image="ami-2")}})
        change = lambda **conf: self.epum("reconfigure_domain", domain_id=domain, config={"engine_conf": conf}, caller=self.user)
        change(preserve_n=3)
        until(lambda: len({i["iaas_image"] for i in self.running(domain, 3, self.user)}) == 2, "an instance of the updated type")
        self.fails("ValueError", "its template was made of deployable type " + name, change, epuworker_allocation="large")
        self.fails("ValueError", "its template was made of deployable type " + name, change, force_site="else")
        # Sites of callers are none of the installation's: a domain that names none is still on its only one.
        site = self.with_site()
        self.with_keys(site)
        plain = self.domain(1, caller=self.user)
        self.assertEqual([i["site"] for i in self.running(plain, 1, self.user)], ["local"])
        self.fails("ValueError", "no site is named " + site, self.epum, "reconfigure_domain", domain_id=plain, config={"engine_conf": {"force_site": site + "x"}}, caller=self.user)
        change(preserve_n=1)
        self.running(domain, 1, self.user)

    def test_a_site_with_credentials_is_one_to_launch_on(self):
        site = self.with_site()
        self.with_keys(site)
        name = self.with_type({"mappings": {site: mapping()}, "contextualization": {"method": "userdata", "userdata": "#!/bin/sh\n"}, "run": ["/bin/true"]})
        # Nothing is asked for there, since nobody would answer.
        domain = self.domain(0, caller=self.user, epuworker_type=name, force_site=site)
        self.assertEqual(self.describe(domain, self.user)["config"]["engine_conf"]["force_site"], site)
        self.assertEqual(self.epum("list_domains", caller=self.user), [domain])
        # For its caller only.
        user = fresh("user")
        add = dict(domain_id=fresh(), definition_id=self.definition(), config={"engine_conf": {"preserve_n": 0, "epuworker_type": "worker"}}, caller=user)
        for named in (site, "%s.%s" % (site, self.user)):
            add["config"]["engine_conf"]["force_site"] = named
            self.fails("ValueError", "no site is named " + named, self.epum, "add_domain", **add)

    def test_a_domain_of_a_type_that_cannot_be_used_is_refused(self):
        add = lambda name: self.epum(
            "add_domain", domain_id=fresh(), definition_id=self.definition(), caller=self.user,
            config={"engine_conf": {"preserve_n": 1, "epuworker_type": name, "force_site": "local"}},
        )
        self.fails("ValueError", "Site local missing in mappings of DT ", add, self.with_type({"mappings": {"else": mapping()}}))
        self.fails("ValueError", "its own run is not carried out", add, self.with_type({"mappings": {"local": mapping()}, "run": ["/bin/true"]}))
        self.fails("ValueError", "no template is named", add, fresh("dt"))
        self.assertEqual(self.epum("list_domains", caller=self.user), [])


class Staying(Registry):
    def test_what_stays_is_looked_at_by_whoever_started_us(self):
        user = "keeper"
        self.with_site(EC2, name="stays", user=user)
        self.with_keys("stays", user=user)
        self.with_site(EC2, name="goes", user=user)
        self.with_keys("goes", user=user)
        self.dtrs("update_credentials", caller=user, site_name="stays", site_credentials=dict(KEYS, secret_key="new " + SECRET))
        self.dtrs("remove_credentials", caller=user, site_name="goes")


if __name__ == "__main__":
    unittest.main()
