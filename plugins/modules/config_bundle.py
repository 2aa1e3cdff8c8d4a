#!/usr/bin/python
# Copyright (c) FileForge operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: config_bundle
short_description: Keep the history of a git repository up to a commit in a bucket
version_added: 1.0.0
author:
  - FileForge operations (@fileforge)
description:
  - Uploads a git bundle with the whole history of a commit as C(config/<commit>.bundle), unless it is there. So the configuration
    can be restored when the git server is lost as well.
  - The repository is only read. The bundle is proven by a clone before it is uploaded.
  - Files that differ from the commit are in no bundle; a warning says so.
options:
  repository:
    description: Directory of a checkout or of a bare repository on this host.
    type: path
    required: true
  commit:
    description: The commit that is in use. By default what is checked out.
    type: str
    default: HEAD
  prefix:
    description: What stands before C(config/) in the names of the objects, with its final slash.
    type: str
    default: ""
  timeout:
    description: Seconds that one git command may take.
    type: int
    default: 300
extends_documentation_fragment:
  - fileforge.ops.attributes
  - fileforge.ops.s3
requirements:
  - boto3 >= 1.26
  - git
seealso:
  - module: fileforge.ops.s3_backup_policy
"""

EXAMPLES = r"""
- name: Keep the configuration that is in use
  fileforge.ops.config_bundle:
    s3_bucket: fileforge-backups
    repository: /app/production-config
"""

RETURN = r"""
commit:
  description: The commit, as 40 (or 64) hexadecimal digits.
  returned: success
  type: str
key:
  description: Key of the bundle. C(git clone) takes the downloaded object as a repository.
  returned: success
  type: str
  sample: config/2b50b0d0c0f2a8f04b5a0e7f6f6f2b0d7d1c9a11.bundle
bytes:
  description: Size of the bundle; null in check mode when there is none yet.
  returned: success
  type: int
sha256:
  description: Checksum of the bundle; null in check mode when there is none yet.
  returned: success
  type: str
modified:
  description: Files of the checkout that differ from its commit.
  returned: success
  type: list
  elements: str
"""

import dataclasses
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fileforge.ops.plugins.module_utils import _argspec
from ansible_collections.fileforge.ops.plugins.module_utils._backup.config_bundle import BundleOptions, run_bundle
from ansible_collections.fileforge.ops.plugins.module_utils._module import conclude
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.client import S3Options, Store

SPEC: _argspec.Spec = {
    "repository": {"type": "path", "required": True},
    "commit": {"type": "str", "default": "HEAD"},
    "prefix": {"type": "str", "default": ""},
    "timeout": {"type": "int", "default": 300},
}


def run(module: AnsibleModule) -> dict[str, t.Any]:
    options = BundleOptions(**{field.name: module.params[field.name] for field in dataclasses.fields(BundleOptions)})
    result = run_bundle(Store(S3Options.from_params(module.params)), options, check_mode=module.check_mode)
    for warning in result.pop("warnings"):
        module.warn(warning)
    return result


def main() -> t.NoReturn:
    module = AnsibleModule(argument_spec=_argspec.merge(SPEC, _argspec.S3), supports_check_mode=True)
    conclude(module, lambda: run(module))


if __name__ == "__main__":
    main()
