# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""A small Kubernetes API whose pods are local processes, for the lab and the tests.

Start it from the root of the repository::

    python -m tests.lab.kube --port 6443 --state .lab/kube --kubeconfig .lab/kubeconfig [--token-file FILE --tls] [--run-as USER]

It prints ``ready http://127.0.0.1:PORT`` when it answers. ``--port 0`` takes a free port. SIGTERM ends all pods, then the
server. After SIGKILL, start it again with the same ``--state``: it adopts the containers that still run. Without starting it
again, ``python -m tests.lab.kube --state DIR --reap`` ends them.

What a pod is here:

- Each container of ``spec.containers`` runs ``command + args`` (with ``$(NAME)`` expanded) as a process of this machine. Without a
  command a placeholder runs that waits for SIGTERM. The environment is PATH, HOME, LANG, HOSTNAME and what ``env`` and ``envFrom``
  say (value, fieldRef, configMapKeyRef, secretKeyRef); ``workingDir`` defaults to ``/``.
- Every pod has its own loopback address, from a network that depends on the state directory (``status.podIP``, ``fieldRef:
  status.podIP``), so replicas can bind the same port; with ``hostNetwork: true`` it is 127.0.0.1. Probes go to that address.
- A Service listens on its own loopback address and on 127.0.0.1 at its ``nodePort``, and forwards to the ready pods.
- There are no mounts, no network name spaces, no exec, attach or port-forward.

A line of the token file is ``TOKEN,USER,RIGHT``: ``admin`` may do everything, ``view`` what the ClusterRole of that name allows (no
Secrets, no nodes), ``rbac`` what Roles and ClusterRoles allow that are bound to the user (``system:serviceaccount:NAMESPACE:NAME``
for a service account).

Faults that tests switch on, at any time, in the ConfigMap ``kube-system/lab-controls``: ``unpullableImages`` (lines of a
pattern and, if wanted, not-found, unauthorized or timeout), ``metrics`` (``on``, ``missing`` for 404, ``broken`` for 503). A
container over its memory limit is killed with OOMKilled; the pod annotation ``lab.fileforge.ops/oom-kill: CONTAINER`` does that
to one that is not; ``lab.fileforge.ops/evict: MESSAGE`` evicts the pod as a node under pressure does. A ResourceQuota refuses
pods. Requests larger than the node's ``--cpu`` and ``--memory`` leave pods unscheduled.
"""
