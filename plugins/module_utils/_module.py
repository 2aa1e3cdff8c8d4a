# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one error boundary of every module. PRIVATE to the collection."""

from __future__ import annotations

import importlib
import os
import traceback
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._errors import MissingLibrary, OpsError

if t.TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule


def conclude(module: AnsibleModule, operation: t.Callable[[], dict[str, t.Any]]) -> t.NoReturn:
    """Run the operation and end the module with its result, or with a message that a person can act on."""
    done, result = attempt(operation)
    if done:
        module.exit_json(**result)
    module.fail_json(**result)
    raise AssertionError("neither exit_json nor fail_json returns")


def attempt(operation: t.Callable[[], dict[str, t.Any]]) -> tuple[bool, dict[str, t.Any]]:
    """Whether the operation ended well, and its result or what is known of its error.

    An unexpected error is our defect: it is reported in one line with its place in the code; the traceback is only returned
    (as ``exception``) when FILEFORGE_DEBUG is set, because it may quote values.
    """
    try:
        return True, operation()
    except OpsError as error:
        return False, error.result()
    except Exception as error:  # pylint: disable=broad-except
        place = traceback.extract_tb(error.__traceback__)[-1]
        extra = {"exception": traceback.format_exc()} if os.environ.get("FILEFORGE_DEBUG") else {}
        return False, {
            "msg": f"unexpected {type(error).__name__} at {os.path.basename(place.filename)}:{place.lineno}: {error}",
            "code": "defect",
            "hint": "this is a defect of the module: run again with FILEFORGE_DEBUG=1 in the task's environment and report it",
            **extra,
        }


def require_library(name: str, package: str, *, minimum: tuple[int, ...] = ()) -> t.Any:
    """Import a library when it is first needed; raises MissingLibrary that names the distribution's and pip's package."""
    try:
        library = importlib.import_module(name)
    except ImportError as error:
        raise MissingLibrary(
            f"the Python library {name} is not installed for this host's interpreter",
            hint=f"install it, for example: apt-get install python3-{package}, or pip install {package}",
        ) from error
    version = str(getattr(library, "__version__", ""))
    found = tuple(int(part) for part in version.split(".")[: len(minimum)] if part.isdigit())
    if minimum and found < minimum:
        wanted = ".".join(map(str, minimum))
        raise MissingLibrary(f"{name} {version} is too old: {wanted} or newer is needed", hint=f"upgrade {package}")
    return library
