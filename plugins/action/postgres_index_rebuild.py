# Copyright (c) FileForge operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Shows the progress of the module of the same name while it runs."""

from __future__ import annotations

from ansible_collections.fileforge.ops.plugins.plugin_utils._progress_action import ProgressAction


class ActionModule(ProgressAction):
    """The module of the same name, run asynchronously."""
