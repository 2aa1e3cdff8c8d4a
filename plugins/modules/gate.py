#!/usr/bin/python
# Copyright (c) FileForge operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation of the gate, which is an action plugin and runs on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gate
short_description: Stop a destructive run unless its plan was confirmed
version_added: 1.0.0
author:
  - FileForge operations (@fileforge)
description:
  - Shows the plans that modules returned in check mode and one digest for all of them, and lets the run pass only when that very
    digest was confirmed, or when a person at a terminal answers C(yes).
  - With no confirmation and no terminal it fails, and says what to type.
  - A confirmed digest is refused when the plans are not the ones that were confirmed. The world has changed in between.
  - The digest of each plan is computed again from its title and steps and must be the one that the plan claims.
  - With one plan, its own digest is the one to confirm. With several, the digest covers all of them in their order.
  - Plans without any step need no confirmation, and neither do plans in which no step is destructive, unless O(always=true).
  - In check mode it never asks and never stops a run for a missing or outdated confirmation. It returns the digest to confirm, and
    publishes it as M(ansible.builtin.set_stats) would, under the name C(confirm). So the next job of a workflow in AWX gets it as
    the extra variable C(confirm). Several gates and hosts publish their digests together, a comma after each.
  - Runs on the controller, for each host of the play by itself. Use C(run_once) to confirm the plans of several hosts at once.
options:
  plans:
    description:
      - The plans, as modules return them in their C(plan) value.
    type: list
    elements: dict
    required: true
  confirm:
    description:
      - The digest that was confirmed. Empty means that nothing was confirmed yet.
      - Several digests, separated by commas, confirm the plans one by one. Each destructive plan's own digest must be among them.
        That form still holds when some of the plans were carried out meanwhile.
    type: str
    default: ""
  title:
    description:
      - What is going to be done, shown above the plans.
    type: str
    default: Plan
  allow_prompt:
    description:
      - Whether a person at a terminal is asked when O(confirm) is empty.
      - Nobody is ever asked in AWX, whose jobs have a terminal that no person sits at.
    type: bool
    default: true
  always:
    description:
      - Whether plans without a destructive step need confirmation, too. Plans without any step never do.
    type: bool
    default: false
extends_documentation_fragment:
  - fileforge.ops.attributes
  - ansible.builtin.action_common_attributes
  - ansible.builtin.action_common_attributes.conn
  - ansible.builtin.action_common_attributes.flow
attributes:
  action:
    support: full
  async:
    support: none
  become:
    support: none
  bypass_host_loop:
    support: none
  connection:
    support: none
  delegation:
    support: none
    details: There is nothing to delegate, it always runs on the controller.
  diff_mode:
    description: Will return what changes (or would change) in diff mode.
    support: N/A
    details: Changes nothing.
  platform:
    platforms: all
"""

EXAMPLES = r"""
- name: Plan the restore
  fileforge.ops.postgres_restore:
    s3_bucket: fileforge-backups
    target_time: "{{ target_time }}"
    data_directory: /var/lib/postgresql/15/main
  check_mode: true
  register: planned

- name: Stop unless this very plan was confirmed
  fileforge.ops.gate:
    title: Restore the database to {{ target_time }}
    plans:
      - "{{ planned.plan }}"
    confirm: "{{ confirm | default('') }}"
  register: gated

- name: Restore
  fileforge.ops.postgres_restore:
    s3_bucket: fileforge-backups
    target_time: "{{ target_time }}"
    data_directory: /var/lib/postgresql/15/main
    plan_digest: "{{ planned.plan.digest }}"
"""

RETURN = r"""
digest:
  description: The digest to confirm.
  returned: always, unless a plan is malformed
  type: str
  sample: 6f1d2a0c9b8e4f37
needed:
  description: Whether these plans need confirmation.
  returned: always, unless a plan is malformed
  type: bool
confirmed:
  description: Whether they were confirmed, by O(confirm) or at the terminal.
  returned: always, unless a plan is malformed
  type: bool
confirmed_by:
  description: How they were confirmed.
  returned: when confirmed
  type: str
  sample: digest
ansible_stats:
  description: The digest for the next job of a workflow, as C(confirm) in C(data).
  returned: in check mode, when confirmation is needed and was not given
  type: dict
  sample: {data: {confirm: "6f1d2a0c9b8e4f37,"}, per_host: false, aggregate: true}
code:
  description:
    - Why it failed. V(confirmation_needed), V(plan_changed) (another digest was confirmed), V(declined) (the answer at the
      terminal was not C(yes)) or V(plan_tampered) (a plan does not match its own digest, or is no plan).
  returned: on failure
  type: str
  sample: confirmation_needed
hint:
  description: What to type or do next.
  returned: on failure
  type: str
"""
