#!/usr/bin/python
# Copyright (c) FileForge operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: certificate_renewal
short_description: Renew a certificate with certbot and see that clients get it
version_added: 1.0.0
description:
  - Renews a certificate when fewer than O(renew_before_days) remain, when its names are not O(domains), or when the authority
    suggests it (ARI, RFC 9773). Issues it when there is none yet.
  - Tests the server's configuration, reloads the server, fetches the certificate that O(endpoints) serve, and requires the new
    one. Otherwise the old certificate is put back, the new one is set aside, and the module fails.
  - A certificate that could not be deployed is taken by the next run, so that no second one is requested from an authority that
    counts them.
  - Nothing is requested when the endpoints cannot be looked at or the server refuses its own configuration.
  - When nothing is due but an endpoint serves another certificate than the one that certbot keeps, the server is reloaded.
  - RV(outcome) says what truly happened.
author:
  - FileForge operations (@fileforge)
extends_documentation_fragment:
  - fileforge.ops.attributes
attributes:
  check_mode:
    details: The endpoints, the server's configuration and the authority's suggestion are looked at; nothing is requested.
  idempotent:
    support: partial
    details: With O(force) each run requests a certificate.
requirements:
  - The program C(certbot) 2.0 or newer, with its plugin for O(authenticator=nginx).
  - The Python library C(cryptography) 38 or newer.
options:
  cert_name:
    description: Name of the certificate in certbot's directory.
    type: str
    required: true
  domains:
    description:
      - Names that the certificate is for, V(*.example.org) for a wildcard.
      - Needed to issue it. Without it, the names stay as they are.
    type: list
    elements: str
    default: []
  endpoints:
    description: Where the certificate is served. Each must serve the new one in the end.
    type: list
    elements: dict
    required: true
    suboptions:
      host:
        description: Host name or address.
        type: str
        required: true
      port:
        description: Port.
        type: int
        default: 443
      server_name:
        description: Name that is sent as SNI, when it is not O(endpoints[].host).
        type: str
      starttls:
        description: Protocol that is spoken before TLS begins.
        type: str
        choices: [smtp, postgres]
  renew_before_days:
    description: The certificate is due when fewer days remain.
    type: float
    default: 30
  use_ari:
    description:
      - Whether to ask the authority when to renew.
      - An authority that suggests nothing, or does not answer, leaves the decision to O(renew_before_days).
    type: bool
    default: true
  force:
    description: Whether to request a new certificate although none is due.
    type: bool
    default: false
  authenticator:
    description:
      - How control over the names is proven. Needed to issue; without it, certbot does it as the last time.
      - V(webroot) writes files below O(webroot_path). V(nginx) lets certbot change nginx's configuration for a moment.
        V(dns_hook) runs O(dns_auth_hook), which must publish a TXT record.
    type: str
    choices: [webroot, nginx, dns_hook]
  webroot_path:
    description: Directory that the server serves under C(/) on port 80.
    type: path
  dns_auth_hook:
    description:
      - Program that publishes the TXT record C(_acme-challenge.$CERTBOT_DOMAIN) with the value C($CERTBOT_VALIDATION), and ends
        when it can be seen.
    type: path
  dns_cleanup_hook:
    description: Program that removes it.
    type: path
  nginx_server_root:
    description: Directory of C(nginx.conf), when it is not C(/etc/nginx).
    type: path
  email:
    description: Address that the account at the authority is registered with, when it is made.
    type: str
  agree_tos:
    description: Whether you agree to the authority's terms of service. Needed when the account is made.
    type: bool
    default: false
  acme_server:
    description: Directory URL of the ACME server. Without it, the one of the last time, or certbot's own (Let's Encrypt).
    type: str
  acme_ca_cert:
    description: PEM file of the authorities that O(acme_server) itself may be signed by. Without it, the system's.
    type: path
  key_type:
    description: Type of the certificate's key. Without it, the one of the last time, or certbot's own.
    type: str
    choices: [ecdsa, rsa]
  certbot_path:
    description: The program.
    type: str
    default: certbot
  config_directory:
    description: certbot's directory of certificates, keys and accounts.
    type: path
    default: /etc/letsencrypt
  work_directory:
    description: certbot's working directory.
    type: path
    default: /var/lib/letsencrypt
  logs_directory:
    description: certbot's directory of logs.
    type: path
    default: /var/log/letsencrypt
  certbot_arguments:
    description:
      - More arguments for certbot, for example V(--preferred-chain=ISRG Root X1). Secrets would show in the process list.
    type: list
    elements: str
    default: []
  certbot_timeout:
    description: Seconds for certbot.
    type: float
    default: 300
  link:
    description:
      - Symbolic link through which the server reads its certificate, as C(<link>/fullchain.pem) and C(<link>/privkey.pem).
      - Before the first certificate is issued it leads to a directory with a placeholder. The module makes it lead to certbot's
        directory, and back if that fails.
      - Without it, the server reads certbot's directory C(<config_directory>/live/<cert_name>) itself.
    type: path
  test_command:
    description: Program and arguments that test the server's configuration. An empty list tests nothing.
    type: list
    elements: str
    default: [nginx, -t, -q]
  reload_command:
    description: Program and arguments that make the server read its certificate again.
    type: list
    elements: str
    default: [nginx, -s, reload]
  command_timeout:
    description: Seconds for O(test_command) and for O(reload_command).
    type: float
    default: 60
  reload_timeout:
    description: Seconds within which the new certificate must be served.
    type: float
    default: 30
  probe_timeout:
    description: Seconds for one look at an endpoint, and for one question to the authority.
    type: float
    default: 10
seealso:
  - module: fileforge.ops.tls_certificate_info
"""

EXAMPLES = r"""
- name: Keep the certificate of the API young
  fileforge.ops.certificate_renewal:
    cert_name: api
    domains: [api.fileforge.io]
    authenticator: webroot
    webroot_path: /var/www/acme
    email: platform@fileforge-app.com
    agree_tos: true
    endpoints:
      - host: 127.0.0.1
        server_name: api.fileforge.io
  register: renewal

- name: Say what happened
  ansible.builtin.debug:
    msg: "{{ renewal.summary }}"

- name: A wildcard, proven by DNS, for a server that systemd reloads
  fileforge.ops.certificate_renewal:
    cert_name: wildcard
    domains: ["*.fileforge.io"]
    authenticator: dns_hook
    dns_auth_hook: /usr/local/lib/fileforge/dns-publish
    dns_cleanup_hook: /usr/local/lib/fileforge/dns-remove
    agree_tos: true
    test_command: [haproxy, -c, -f, /etc/haproxy/haproxy.cfg]
    reload_command: [systemctl, reload, haproxy]
    endpoints:
      - host: app.fileforge.io
"""

RETURN = r"""
outcome:
  description:
    - V(unchanged), nothing was due and the certificate is served. V(issued) and V(renewed), a new one was obtained and is served.
      V(deployed), one that was there already was not served and is now. V(failed), see RV(reason).
    - In check mode, what the run would end with.
  type: str
  returned: always, bad options apart
summary:
  description: The same in one sentence for people.
  type: str
  returned: success
reasons:
  description: Why something was or would be done.
  type: list
  elements: str
  returned: always, bad options apart
reason:
  description:
    - Why it failed, as a stable word. V(rate_limited), V(challenge_failed), V(authority_unavailable), V(authenticator_unavailable),
      V(account), V(certbot_busy), V(certbot_missing), V(certbot_failed), V(timeout), V(not_renewed) and V(not_usable) come from
      the request;
      V(configuration_refused), V(reload_failed) and V(not_served) from the server, V(not_written) from the disk;
      V(configuration_broken) and V(endpoint_unreachable) stand for nothing having been tried, V(locked) for another run.
  type: str
  returned: on failure
restored:
  description: Whether the state before is back, after a failure.
  type: bool
  returned: on failure, when something was tried
retry_after:
  description: Seconds after which the authority accepts a request again, if it said so.
  type: int
  returned: when RV(reason) is V(rate_limited)
certificate:
  description: The certificate that certbot keeps in the end, with dates, names, serial number and fingerprint.
  type: dict
  returned: always, bad options apart
previous:
  description: The one before the run.
  type: dict
  returned: always, bad options apart
served:
  description: What each endpoint serves in the end, with C(endpoint), C(fingerprint), C(serial), C(not_after) and C(problem).
  type: list
  elements: dict
  returned: always, bad options apart
renewal_window:
  description: What the authority suggests; RV(renewal_window_problem) says why it could not be asked.
  type: dict
  returned: always, bad options apart
renewal_window_problem:
  description: Why the authority could not be asked when to renew; empty when it could.
  type: str
  returned: always, bad options apart
plan:
  description: What was or would be done.
  type: dict
  returned: always, bad options apart
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fileforge.ops.plugins.module_utils._module import conclude
from ansible_collections.fileforge.ops.plugins.module_utils._tls.certbot import CertbotOptions
from ansible_collections.fileforge.ops.plugins.module_utils._tls.endpoint import Endpoint
from ansible_collections.fileforge.ops.plugins.module_utils._tls.renewal import Renewal, Request

ORDER: dict[str, dict[str, t.Any]] = {
    "cert_name": {"type": "str", "required": True},
    "domains": {"type": "list", "elements": "str", "default": []},
    "authenticator": {"type": "str", "choices": ["webroot", "nginx", "dns_hook"]},
    "webroot_path": {"type": "path"},
    "dns_auth_hook": {"type": "path"},
    "dns_cleanup_hook": {"type": "path"},
    "nginx_server_root": {"type": "path"},
    "email": {"type": "str"},
    "agree_tos": {"type": "bool", "default": False},
    "acme_server": {"type": "str"},
    "acme_ca_cert": {"type": "path"},
    "key_type": {"type": "str", "choices": ["ecdsa", "rsa"], "no_log": False},
    "certbot_path": {"type": "str", "default": "certbot"},
    "config_directory": {"type": "path", "default": "/etc/letsencrypt"},
    "work_directory": {"type": "path", "default": "/var/lib/letsencrypt"},
    "logs_directory": {"type": "path", "default": "/var/log/letsencrypt"},
    "certbot_arguments": {"type": "list", "elements": "str", "default": []},
    "certbot_timeout": {"type": "float", "default": 300},
}
SERVER: dict[str, dict[str, t.Any]] = {
    "renew_before_days": {"type": "float", "default": 30},
    "use_ari": {"type": "bool", "default": True},
    "force": {"type": "bool", "default": False},
    "link": {"type": "path"},
    "test_command": {"type": "list", "elements": "str", "default": ["nginx", "-t", "-q"]},
    "reload_command": {"type": "list", "elements": "str", "default": ["nginx", "-s", "reload"]},
    "command_timeout": {"type": "float", "default": 60},
    "reload_timeout": {"type": "float", "default": 30},
    "probe_timeout": {"type": "float", "default": 10},
}
ENDPOINTS: dict[str, dict[str, t.Any]] = {
    "endpoints": {
        "type": "list",
        "elements": "dict",
        "required": True,
        "options": {
            "host": {"type": "str", "required": True},
            "port": {"type": "int", "default": 443},
            "server_name": {"type": "str"},
            "starttls": {"type": "str", "choices": ["smtp", "postgres"]},
        },
    },
}
ARGUMENTS = {**ORDER, **SERVER, **ENDPOINTS}


def operate(params: dict[str, t.Any], *, check: bool, diff: bool) -> dict[str, t.Any]:
    """Decide, and do it unless only asked."""
    endpoints = [Endpoint(**{name: value for name, value in item.items() if value is not None}) for item in params["endpoints"]]
    order = CertbotOptions(**{name: params[name] for name in ORDER})
    renewal = Renewal(Request(order=order, endpoints=endpoints, **{name: params[name] for name in SERVER}))
    result = renewal.rehearse() if check else renewal.apply()
    return {**result, "diff": renewal.plan.as_diff()} if diff else result


def main() -> t.NoReturn:
    """Entry point."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    conclude(module, lambda: operate(module.params, check=module.check_mode, diff=module._diff))


if __name__ == "__main__":
    main()
