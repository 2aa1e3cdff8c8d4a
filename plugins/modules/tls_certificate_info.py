#!/usr/bin/python
# Copyright (c) FileForge operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: tls_certificate_info
short_description: Judge the certificate that an endpoint serves, or one in a file
version_added: 1.0.0
description:
  - Connects to an endpoint as a client does, with SNI and with STARTTLS where asked, and looks at the certificate that is really
    served; or reads a PEM file.
  - C(certificate.<name>.presented) is V(unknown) when the endpoint cannot be reached, and V(critical) when it answers but no TLS
    connection comes about. Then nothing is known about the certificate, and the other checks are V(unknown).
  - C(certificate.<name>.expiry) grades the days left. C(certificate.<name>.hostname) asks whether it is for the name,
    C(certificate.<name>.chain) whether the chain is complete and trusted, C(certificate.<name>.key) whether the key is strong
    enough.
  - C(certificate.<name>.revocation) and C(certificate.<name>.renewal_window) appear with O(ocsp) and O(acme_directory).
  - The module does not fail for a bad certificate; use RV(status).
  - Without the Python library C(cryptography) on the host, only a trusted certificate of an endpoint can be described, and what
    was not seen is V(unknown).
author:
  - FileForge operations (@fileforge)
extends_documentation_fragment:
  - fileforge.ops.attributes.info_module
requirements:
  - The Python library C(cryptography) for everything but the dates and names of a trusted certificate.
  - The program C(openssl) for the chain of a file.
options:
  host:
    description: Host name or address of the endpoint.
    type: str
  port:
    description: Port of the endpoint. Without it, 443, or 25 for O(starttls=smtp) and 5432 for O(starttls=postgres).
    type: int
  server_name:
    description: Name that is sent as SNI, when it is not O(host).
    type: str
  starttls:
    description: Protocol that is spoken before TLS begins. Without it, TLS begins at once.
    type: str
    choices: [smtp, postgres]
  path:
    description: PEM file with the certificate first and then the ones that signed it, such as C(fullchain.pem).
    type: path
  name:
    description: Name in the ids of the checks. Without it, O(server_name), O(host), or the file's name without its extension.
    type: str
  hostname:
    description:
      - Name or address that the certificate must be for.
      - Without it, O(server_name) or O(host); for a file, the check is left out.
    type: str
  warning_days:
    description: Days left from which, downwards, C(expiry) is a warning.
    type: float
    default: 30
  critical_days:
    description: Days left from which, downwards, C(expiry) is critical.
    type: float
    default: 7
  ca_cert:
    description: PEM file of the authorities that are trusted. Without it, the system's.
    type: path
  timeout:
    description: Seconds for each connection, from the first packet to the end of the handshake.
    type: float
    default: 10
  ocsp:
    description: Whether to ask the OCSP responder that the certificate names, if it names one.
    type: bool
    default: false
  acme_directory:
    description: Directory URL of an ACME server that is asked when to renew (ARI, RFC 9773).
    type: str
  acme_ca_cert:
    description: PEM file of the authorities that O(acme_directory) itself may be signed by. Without it, the system's.
    type: path
seealso:
  - module: fileforge.ops.certificate_renewal
"""

EXAMPLES = r"""
- name: Look at the certificate of the API
  fileforge.ops.tls_certificate_info:
    host: api.fileforge.io
  register: certificate
  failed_when: certificate.status == 'critical'

- name: Look at one server behind the load balancer
  fileforge.ops.tls_certificate_info:
    host: 10.0.0.11
    server_name: api.fileforge.io

- name: Look at the database's certificate
  fileforge.ops.tls_certificate_info:
    host: db1.fileforge.io
    starttls: postgres
    ca_cert: /etc/fileforge/ca.pem

- name: Look at the file before it is installed
  fileforge.ops.tls_certificate_info:
    path: /etc/letsencrypt/live/api/fullchain.pem
    hostname: api.fileforge.io
"""

RETURN = r"""
name:
  description: Name in the ids of the checks.
  type: str
  returned: success
certificate:
  description:
    - The certificate with C(subject), C(issuer), C(names), C(not_before), C(not_after), C(days_left), C(serial), C(fingerprint)
      (SHA-256), C(key_type), C(ocsp_urls) and C(must_staple). None when it was not seen.
  type: dict
  returned: success
chain:
  description: The certificates as they were sent or as they stand in the file. None when they cannot be seen.
  type: list
  elements: dict
  returned: success
tls_version:
  description: Protocol version of the connection.
  type: str
  returned: success
renewal_window:
  description: What the authority suggests, with C(start), C(end), the C(moment) in it that this certificate takes, and C(due).
  type: dict
  returned: success
ocsp:
  description: What the OCSP responder said, with C(state), C(this_update) and C(next_update).
  type: dict
  returned: success
checks:
  description: One check for each question.
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
from ansible_collections.fileforge.ops.plugins.module_utils._probes.tls_certificate_info import ARGUMENTS, CONSTRAINTS, operate


def main() -> t.NoReturn:
    """Entry point."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True, **CONSTRAINTS)
    conclude(module, lambda: operate(module.params, module.check_mode))


if __name__ == "__main__":
    main()
