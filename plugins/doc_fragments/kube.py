# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Connection to a Kubernetes API server."""

from __future__ import annotations


class ModuleDocFragment:
    """Options of module_utils/_argspec.py KUBE."""

    DOCUMENTATION = r"""
options:
  kube_config:
    description:
      - Path of a kubeconfig file. Without it (and without O(kube_host)), E(KUBECONFIG), then C(~/.kube/config) if there is one,
        then the pod's own service account.
    type: path
  kube_context:
    description: Context in the kubeconfig file. Without it, the current one.
    type: str
  kube_host:
    description: URL of the API server, instead of a kubeconfig file.
    type: str
  kube_token:
    description: Bearer token for O(kube_host). Without it, E(K8S_AUTH_API_KEY).
    type: str
  kube_ca_cert:
    description: PEM file of the authorities that the API server's certificate may be signed by.
    type: path
  kube_validate_certs:
    description: Whether to verify the API server's certificate.
    type: bool
    default: true
  kube_timeout:
    description: Seconds to wait for one answer of the API server.
    type: int
    default: 30
"""
