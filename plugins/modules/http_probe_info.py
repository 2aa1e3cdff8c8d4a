#!/usr/bin/python
# Copyright (c) FileForge operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: http_probe_info
short_description: Probe an HTTP endpoint N of M times and judge status, body and latency
version_added: 1.0.0
description:
  - Asks an endpoint several times, each time over a new connection, and judges the answers.
  - The endpoint is healthy when at least O(required) of the last O(probes) probes were good and the newest one was good.
  - Redirects are reported, not followed. Proxies from the environment are not used.
  - C(endpoint.<name>.health) is V(ok) when all probes of the window were good, V(warning) when enough but not all were, and
    V(critical) otherwise, also when the endpoint refuses connections, times out, or its name does not exist. It is
    V(unknown) only when no probe could be made from here, that is when this host's own resolver or network does not work or
    O(ca_cert) cannot be read.
  - C(endpoint.<name>.latency) grades the 95th percentile of the good probes; without a good one it is V(unknown).
  - The module does not fail for an unhealthy endpoint; use RV(healthy) or RV(status).
author:
  - FileForge operations (@fileforge)
extends_documentation_fragment:
  - fileforge.ops.attributes.info_module
options:
  url:
    description: URL of the endpoint, V(http) or V(https), without credentials.
    type: str
    required: true
  name:
    description: Name of the endpoint in the ids of the checks. Without it, the host name of O(url).
    type: str
  method:
    description: Request method.
    type: str
    choices: [GET, HEAD, OPTIONS]
    default: GET
  headers:
    description: More request headers. Their values are not kept secret; use O(bearer_token) for a token.
    type: dict
    default: {}
  bearer_token:
    description: Token that is sent as C(Authorization) header.
    type: str
  probes:
    description: How many probes make up the window that decides (M).
    type: int
    default: 5
  required:
    description: How many probes of the window must be good (N).
    type: int
    default: 3
  interval:
    description: Seconds between two probes.
    type: float
    default: 1
  timeout:
    description: Seconds for one whole probe, from the connection to the last byte of the answer.
    type: float
    default: 5
  retries_for:
    description: Seconds during which an unhealthy endpoint is probed further, with the window of the last O(probes).
    type: float
    default: 0
  status_codes:
    description: Status codes of a good answer.
    type: list
    elements: int
    default: [200]
  body_regex:
    description: Regular expression that must be found in the body of a good answer.
    type: str
  body_json:
    description:
      - Values that the JSON body of a good answer must have, by dotted path, for example V(database.status).
      - A number in a path is an index into a list.
    type: dict
    default: {}
  latency_warning:
    description: Seconds over which the 95th percentile of the latency is a warning.
    type: float
    default: 0.5
  latency_critical:
    description: Seconds over which the 95th percentile of the latency is critical.
    type: float
    default: 1.0
  validate_certs:
    description: Whether to verify the certificate and its host name.
    type: bool
    default: true
  ca_cert:
    description: PEM file of the authorities that the certificate may be signed by. Without it, the system's.
    type: path
seealso:
  - module: fileforge.ops.kube_rollout
"""

EXAMPLES = r"""
- name: Wait up to five minutes until the API is healthy again
  fileforge.ops.http_probe_info:
    name: api
    url: https://api.fileforge.io/health
    body_json:
      status: ok
      database: ok
    retries_for: 300
  register: api
  failed_when: not api.healthy

- name: Look at the front end once
  fileforge.ops.http_probe_info:
    url: https://app.fileforge.io/
    probes: 1
    required: 1
    body_regex: "<title>FileForge"
"""

RETURN = r"""
name:
  description: Name of the endpoint as it stands in the ids of the checks.
  type: str
  returned: success
url:
  description: The URL that was probed.
  type: str
  returned: success
healthy:
  description: Whether enough of the last probes were good, the newest among them.
  type: bool
  returned: success
good:
  description: Good probes in the window.
  type: int
  returned: success
made:
  description: Probes made altogether.
  type: int
  returned: success
latency:
  description: Latency of the good probes of the window in seconds (C(minimum), C(p50), C(p95), C(p99), C(maximum)).
  type: dict
  returned: success
probes:
  description: The last probes, each with time, status, latency, problem, redirect location and an excerpt of the body.
  type: list
  elements: dict
  returned: success
tls:
  description: Protocol version and end of the certificate's validity of the last probe.
  type: dict
  returned: success
checks:
  description: The checks C(endpoint.<name>.health) and C(endpoint.<name>.latency).
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
from ansible_collections.fileforge.ops.plugins.module_utils._probes.http_probe_info import ARGUMENTS, operate


def main() -> t.NoReturn:
    """Entry point."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    conclude(module, lambda: operate(module.params, module.check_mode))


if __name__ == "__main__":
    main()
