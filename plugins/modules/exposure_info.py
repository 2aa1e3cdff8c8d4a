#!/usr/bin/python
# Copyright (c) FileForge operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: exposure_info
short_description: Look at an endpoint of your own as a stranger would
version_added: 1.0.0
author:
  - FileForge operations (@fileforge)
description:
  - C(exposure.ports) compares the open TCP ports of the host with those that are expected, by connecting to each.
  - C(exposure.tls) finds the versions of TLS that are spoken, also those that this host's own library no longer speaks, and
    whether a weak cipher suite would be taken.
  - C(exposure.headers) looks at the security headers of an answer, and at headers that tell what runs there.
  - C(exposure.paths) asks for files and pages that should not be there (repositories, secrets, keys, dumps, debug pages). A path
    counts only when its content is what it seems to be, so an application that answers everything with one page is no finding.
    Contents are never returned.
  - What could not be looked at is V(unknown), and hides nothing else.
  - It connects and asks; it changes nothing and tries no password. Point it only at what is yours, and run it from outside the
    platform, because a firewall lets insiders through.
options:
  url:
    description: Endpoint, V(http) or V(https), without credentials. Its path is the one whose headers are looked at.
    type: str
    required: true
  name:
    description: Name of the endpoint, as the subject of its checks. Without it, the host of O(url).
    type: str
    default: ""
  address:
    description: Address to connect to instead of the host of O(url), whose name is asked for all the same.
    type: str
    default: ""
  expected_ports:
    description: Ports that are meant to be open. Without it ports are not looked at.
    type: list
    elements: int
  ports:
    description: Ports and ranges of ports to connect to.
    type: list
    elements: str
    default: ["1-65535"]
  minimum_tls:
    description: The oldest version of TLS that may be spoken.
    type: str
    choices: [TLSv1.2, TLSv1.3]
    default: TLSv1.2
  paths:
    description: More paths that should not be there.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: The path, beginning with a slash.
        type: str
        required: true
      pattern:
        description: Regular expression that is found in the content when it is what it seems to be.
        type: str
        required: true
      what:
        description: What it gives away, for the report.
        type: str
        required: true
      status:
        description: How bad it is.
        type: str
        choices: [warning, critical]
        default: critical
  accepted:
    description:
      - Findings that somebody decided to live with, for example V(port:22), V(tls:TLSv1.1), V(cipher:DES-CBC3-SHA),
        V(header:server), V(path:/metrics) or V(debug).
    type: list
    elements: str
    default: []
  timeout:
    description: Seconds for each question.
    type: float
    default: 5
  port_timeout:
    description: Seconds that a port has to answer.
    type: float
    default: 1
  at_once:
    description: Ports that are connected to at the same time.
    type: int
    default: 400
seealso:
  - module: fileforge.ops.tls_certificate_info
  - module: fileforge.ops.penetration_record
extends_documentation_fragment:
  - fileforge.ops.attributes.info_module
"""

EXAMPLES = r"""
- name: See what the API shows to strangers
  fileforge.ops.exposure_info:
    url: https://api.fileforge.io/health
    expected_ports: [80, 443]
    accepted: [header:referrer-policy]
  delegate_to: localhost
"""

RETURN = r"""
checks:
  description:
    - The checks C(exposure.ports), C(exposure.tls), C(exposure.headers) and C(exposure.paths), with what was found as evidence.
  type: list
  elements: dict
  returned: success
status:
  description: The worst status of the checks.
  type: str
  returned: success
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fileforge.ops.plugins.module_utils._module import conclude
from ansible_collections.fileforge.ops.plugins.module_utils._probes.exposure_info import ARGUMENTS, operate


def main() -> t.NoReturn:
    """Entry point."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    conclude(module, lambda: operate(module.params, module.check_mode))


if __name__ == "__main__":
    main()
